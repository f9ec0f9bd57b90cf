//! What a family says about itself.

use crate::config::Keys;
use crate::{ModelConfig, ModelError};

/// One family of decoders.
pub(crate) struct Family {
    /// The class name that `architectures` in `config.json` holds.
    pub(crate) class_name: &'static str,
    /// The name that `model_type` in `config.json` and `general.architecture` in a GGUF file hold.
    pub(crate) model_type: &'static str,
    /// Dimensions of a head where a configuration names none; `None` shares out the hidden size.
    pub(crate) head_dim: Option<usize>,
    /// Reads what is the family's own into a configuration in which the rest stands.
    pub(crate) read: fn(&Keys<'_>, &mut ModelConfig) -> Result<(), ModelError>,
    /// Whether GGUF files interleave the two halves of every head of queries and keys.
    pub(crate) gguf_interleaves: bool,
    /// Keys of `config.json` that say which linears have a bias, each with one that has it then.
    pub(crate) bias_keys: &'static [(&'static str, super::Role)],
}
