//! What every step needs: what it found, what it may read, and the recipe beside what it made.

mod finding;
mod reads;
mod recipe;

pub(super) use self::{finding::Finding, reads::Reads, recipe::write as write_recipe};
