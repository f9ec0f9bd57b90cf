//! Training: the loop, the optimizer, schedules, the order of the data, and checkpoints that resume to the last bit.
//!
//! Trainers differ in what they compute for a batch; that is an [`Objective`]. Everything else is here: which examples a
//! step takes, how gradients are accumulated and clipped, what AdamW does with them, when the state is written down. A
//! step's examples follow from the seed and its number alone, so that a checkpoint holds nothing but weights, moments
//! and the number.

mod adamw;
mod checkpoint;
mod clip;
mod error;
mod groups;
mod next_token;
mod order;
mod schedule;
mod trainer;

pub use adamw::{AdamW, AdamWConfig};
pub use clip::{clip_factor, global_norm};
pub use error::TrainError;
pub use groups::ParameterGroup;
pub use next_token::{Example, NextToken};
pub use order::Order;
pub use schedule::{Schedule, ScheduleKind};
pub use trainer::{Objective, Observer, StepReport, Summary, TrainConfig, train};
