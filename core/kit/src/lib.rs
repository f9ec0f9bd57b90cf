//! What plugins share that the contract cannot offer, because it knows neither grids nor models: the host's weights as a source
//! of a decoder's, its streams as sequences, quantized weights as what the contract takes, and errors.
//!
//! The contract ([`workbench_api`]) stays without them: a plugin that needs neither links neither. With the feature `model` comes
//! what is about whole models; without it a quantizer of linears does not link the decoder. With `train` comes what trainers share.

#[cfg(feature = "train")]
mod block;
mod error;
mod notes;
#[cfg(feature = "train")]
mod objective;
mod quantized;
#[cfg(feature = "model")]
mod sequences;
#[cfg(all(test, feature = "model"))]
mod tests;
#[cfg(feature = "train")]
mod training;
#[cfg(feature = "train")]
mod training_example;
#[cfg(feature = "model")]
mod weights;

#[cfg(feature = "train")]
pub use block::{ChangedCodes, block_data, put_stored, round_to_stored};
pub use error::grid_error;
#[cfg(feature = "model")]
pub use error::model_error;
pub use notes::{read_note, write_note};
#[cfg(feature = "train")]
pub use objective::{check_loss, loss};
pub use quantized::{quantized_linear, quantized_weight};
#[cfg(feature = "model")]
pub use sequences::{Sequence, calibration, sequences};
#[cfg(feature = "train")]
pub use training::{Extent, examples, in_training_pool, observe, put_weights, train_error, validation_examples};
#[cfg(feature = "train")]
pub use training_example::{one_block_by_hand, one_step_by_hand};
#[cfg(feature = "model")]
pub use weights::{HostWeights, model_config, model_config_of, thread_pool};
