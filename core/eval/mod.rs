//! Evaluation: tasks, the protocols that score them, and the items they record.

pub mod task;
