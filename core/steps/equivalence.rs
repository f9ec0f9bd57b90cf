//! The gate of transforms: the function must not change.
//!
//! Logits of the two models are compared in f32, with the transform's weights before they are rounded to the artifact's
//! dtype, on random tokens and on real ones. The yardstick is what f32 itself makes of the order of a sum: the unchanged
//! model is evaluated a second time with the channels of the hidden states in reverse order, which changes nothing else. (The
//! channels of an MLP would not do: an online rotation mixes them in their order.)

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};
use workbench_model::{
    Checkpoint, Context, Decoder, ModelConfig, ModelError, Tokenizer, WeightSource, statistics::divergences,
};

use crate::error::{Error, Result};

/// Largest logit difference, relative to the logits' standard deviation, that a claim of equivalence may rest on even where
/// f32 itself is more exact.
const TOLERANCE: f64 = 1e-4;

/// Tokens of each kind that are compared.
const TOKENS: usize = 128;

/// Compares a transformed model with its original.
///
/// # Errors
/// The difference is larger than the larger of [`TOLERANCE`] and ten times that of two evaluation orders.
pub(super) fn check(
    original: &Checkpoint,
    made: &dyn WeightSource,
    config: &ModelConfig,
    real: Option<&[u32]>,
    method: &str,
) -> Result<Value> {
    let old = original.config();
    let texts = tokens(original, real)?;
    let reversed = ReversedHidden { source: original, config: old };
    let before = logits(old, original, &texts)?;
    let noise = difference(&before, &logits(old, &reversed, &texts)?);
    let found = difference(&before, &logits(config, made, &texts)?);
    let limit = TOLERANCE.max(10.0 * noise);
    if found.is_nan() || found > limit {
        let message = format!(
            "`{method}` changed the model's function: logits differ by {found:.2e} of their standard deviation, and {limit:.2e} is allowed"
        );
        return Err(Error::refused(message)
            .hint("a transform must leave the function alone; check its algebra, or fold in f64"));
    }
    Ok(
        json!({ "logit_difference": found, "limit": limit, "evaluation_order_difference": noise, "tokens": texts.iter().map(Vec::len).sum::<usize>() }),
    )
}

/// Mean KL(original ‖ artifact as written) in nats per token, and the share of equal first choices.
pub(super) fn divergence(original: &Checkpoint, written: &Checkpoint, real: Option<&[u32]>) -> Result<Value> {
    let texts = tokens(original, real)?;
    let (p, q) = (logits(original.config(), original, &texts)?, logits(written.config(), written, &texts)?);
    let rows = divergences(&p, &q, original.config().vocab_size);
    let n = rows.len().max(1) as f64;
    Ok(
        json!({ "kl": rows.iter().map(|r| r.kl).sum::<f64>() / n, "top1": rows.iter().filter(|r| r.same_top).count() as f64 / n }),
    )
}

/// Random tokens, and real ones: calibration data where there are any, else a sentence of the demo.
fn tokens(checkpoint: &Checkpoint, real: Option<&[u32]>) -> Result<Vec<Vec<u32>>> {
    let config = checkpoint.config();
    let length = TOKENS.min(config.max_positions);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let drawn = (0..length).map(|_| random.random_range(0..config.vocab_size as u32)).collect();
    let real = match real {
        Some(ids) => ids.to_vec(),
        None => {
            let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
            let split = crate::demo::Split::by_name("stories/test").map_err(|e| Error::internal(e.to_string()))?;
            let text: String = crate::demo::documents(split).take(8).collect::<Vec<_>>().join("\n\n");
            tokenizer.encode(&text, true)?
        }
    };
    Ok(vec![drawn, real.into_iter().take(length).collect()])
}

fn logits(config: &ModelConfig, source: &dyn WeightSource, texts: &[Vec<u32>]) -> Result<Vec<f32>> {
    let decoder = Decoder::load(config, source, &Device::Cpu)?;
    let mut all = Vec::new();
    for ids in texts {
        let run = || -> Result<Vec<f32>, ModelError> {
            let tensor = Tensor::from_vec(ids.clone(), (1, ids.len()), &Device::Cpu)?;
            Ok(decoder.forward(&tensor, &Context::full(1, ids.len(), None))?.flatten_all()?.to_vec1()?)
        };
        all.extend(run()?);
    }
    Ok(all)
}

/// The largest difference relative to the standard deviation of `a`.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let n = a.len().max(1) as f64;
    let mean = a.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = a.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    let largest = a
        .iter()
        .zip(b)
        .map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs())
        .fold(0.0, |m: f64, d| if d.is_nan() || m.is_nan() { f64::NAN } else { m.max(d) });
    largest / variance.sqrt()
}

/// A model with the channels of its hidden states in reverse order: the same function, summed the other way round.
struct ReversedHidden<'a> {
    source: &'a dyn WeightSource,
    config: &'a ModelConfig,
}

impl WeightSource for ReversedHidden<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = self.source.values(name)?;
        let hidden = self.config.hidden_size;
        let is = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        if is(&[".o_proj.weight", ".down_proj.weight"]) {
            let width = values.len() / hidden;
            let rows: Vec<Vec<f32>> = values.chunks_exact(width).map(<[f32]>::to_vec).collect();
            values = rows.into_iter().rev().flatten().collect();
        } else if is(&[".q_norm.weight", ".k_norm.weight"])
            || is(&[".bias"]) && !is(&[".o_proj.bias", ".down_proj.bias"])
        {
            // Channels of heads and of the MLP, which stay where they are.
        } else {
            values.chunks_exact_mut(hidden).for_each(<[f32]>::reverse);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_and_see_nan() {
        let a = [1.0_f32, -1.0, 1.0, -1.0];
        assert!((difference(&a, &[1.5, -1.0, 1.0, -1.0]) - 0.5).abs() < 1e-12);
        assert!(difference(&a, &[f32::NAN, -1.0, 1.0, -1.0]).is_nan());
        assert_eq!(difference(&a, &a[..3]), f64::INFINITY);
    }
}
