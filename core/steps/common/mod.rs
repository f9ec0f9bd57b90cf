//! What every step needs: what it found, what it may read, what it goes on from after an interruption, and the recipe beside what it
//! made.

mod output;
mod reads;
mod recipe;
mod resume;

pub(super) use self::{
    output::StepOutput,
    reads::Reads,
    recipe::write as write_recipe,
    resume::{Resume, When},
};
