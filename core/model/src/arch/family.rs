//! What a family says about itself.

use crate::config::Keys;
use crate::{ModelConfig, ModelError};

/// How the weights of the experts of a block lie in one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stacking {
    /// `[experts, in, out]` instead of `[experts, out, in]`.
    pub(crate) transposed: bool,
    /// Outputs of gate and up in turn, instead of all of gate before all of up.
    pub(crate) interleaved: bool,
    /// Whether folders of this family are written so: loaders expect it.
    pub(crate) is_written: bool,
}

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
    /// The epsilon of norms where a configuration names none.
    pub(crate) rms_norm_eps: f64,
    /// The base of rotary frequencies where a configuration names none, as transformers' configuration class has it.
    pub(crate) rope_theta: f64,
    /// Whether blocks may have windows, which `layer_types` then names.
    pub(crate) has_windows: bool,
    /// The router of a mixture of experts, within the MLP; empty in a family without.
    pub(crate) router: &'static str,
    /// How checkpoints stack the experts of a block, where they do.
    pub(crate) stacking: Option<Stacking>,
    /// Whether GGUF files interleave the two halves of every head of queries and keys.
    pub(crate) gguf_interleaves: bool,
    /// Keys of `config.json` that say which linears have a bias, each with one that has it then.
    pub(crate) bias_keys: &'static [(&'static str, super::Role)],
}
