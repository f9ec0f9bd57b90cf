//! Checkpoints, tokenizers and the decoder.

pub mod activations;
pub mod arch;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod device;
pub mod error;
pub mod generate;
pub mod source;
pub mod statistics;
pub mod tokenizer;
pub mod walk;

pub use activations::Activations;
pub use arch::{Site, SiteKind};
pub use checkpoint::{Checkpoint, regular_file};
pub use config::ModelConfig;
pub use decoder::{Block, Context, Decoder, Taps};
pub use error::ModelError;
pub use source::WeightSource;
pub use tokenizer::{ChatTemplate, Message, Tokenizer};
pub use walk::{ActivationStorage, HiddenStates};
pub use workbench_matmul::{self as matmul, Precision};
