//! Looking at activations on their way through the decoder.

use candle_core::Tensor;

use crate::{ModelError, Site};

/// Receives the activation of each site as it passes: what its linears are given, before any activation quantizer.
///
/// Activations of padding tokens are among them; the [`Context`](super::Context) says which those are.
pub trait Taps {
    /// `x` is `[batch, len, features]`, for experts `[1, tokens, features]` of those that are routed to them, for queries, keys and values `[batch, len, heads, head_dim]`.
    fn observe(&mut self, site: Site, x: &Tensor) -> Result<(), ModelError>;

    /// Whether anybody looks: what is computed for observers alone need not be computed otherwise.
    fn are_watched(&self) -> bool {
        true
    }
}

/// Observes nothing.
impl Taps for () {
    fn observe(&mut self, _: Site, _: &Tensor) -> Result<(), ModelError> {
        Ok(())
    }

    fn are_watched(&self) -> bool {
        false
    }
}

/// A closure observes.
impl<F: FnMut(Site, &Tensor) -> Result<(), ModelError>> Taps for F {
    fn observe(&mut self, site: Site, x: &Tensor) -> Result<(), ModelError> {
        self(site, x)
    }
}
