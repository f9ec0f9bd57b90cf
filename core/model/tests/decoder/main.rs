//! The decoder against independent implementations: a scalar one in these tests, candle-transformers, golden tensors.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod blockwise;
mod brute_force;
mod coded;
mod distillation;
mod experts;
mod fake_quantized;
mod forward;
mod generation;
mod golden;
mod gradients;
mod online;
mod oracle;
mod quantizers;
mod stories;
mod support;
