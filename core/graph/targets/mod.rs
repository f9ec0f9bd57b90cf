//! Which modules of a model are meant, and what a choice of schemes for them means.

pub mod coded;
pub mod embeddings;
pub mod experts;
pub mod fused;
pub mod selector;
