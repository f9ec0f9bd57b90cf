//! Training: the loop, the optimizer, schedules, the order of the data, and checkpoints that resume to the last bit.
//!
//! Trainers differ in what they compute for a batch; that is an [`Objective`]. Everything else is here: which examples a
//! step takes, how gradients are accumulated and clipped, what AdamW does with them, when the state is written down. A
//! step's examples follow from the seed and its number alone, so that a checkpoint holds nothing but weights, moments
//! and the number.

mod adamw;
mod block;
mod checkpoint;
mod clip;
mod course;
mod error;
mod groups;
mod loss_parameters;
mod order;
mod parameters;
mod policy;
mod reinforced;
mod rollouts;
mod schedule;
mod signed;
mod student;
mod supervised;
mod trainer;

pub use adamw::{AdamW, AdamWConfig};
pub use block::{BlockData, BlockRegression, StudentBlock};
pub use clip::{clip_factor, global_norm};
pub use error::TrainError;
pub use groups::ParameterGroup;
pub use loss_parameters::{LossKind, LossParameters};
pub use order::Order;
pub use parameters::{Learn, TrainingParameters};
pub use policy::{
    Advantages, Correction, Drawn, Extent, Lost, PolicyLoss, PolicyMean, RatioOf, ScaleRewards, advantages,
};
pub use reinforced::Reinforced;
pub use rollouts::{Judge, Judged, RolloutConfig};
pub use schedule::{Schedule, ScheduleKind};
pub use signed::{SignedConfig, SignedGroup, descend_by_signs};
pub use student::{Grids, Student};
pub use supervised::{Example, Loss, Supervised};
pub use trainer::{Objective, Observer, StepReport, Summary, TrainConfig, train};
