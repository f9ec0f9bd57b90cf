//! Checkpoints, tokenizers and the decoder.

pub mod config;
pub mod error;
pub mod site;
pub mod source;

pub use config::ModelConfig;
pub use error::ModelError;
pub use site::{Site, SiteKind};
pub use source::WeightSource;
