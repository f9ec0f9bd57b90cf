//! The gate of transforms: the function must not change.
//!
//! Logits of the two models are compared in f32, with the transform's weights before they are rounded to the artifact's
//! dtype, on random tokens and on real ones. The yardstick is what f32 itself makes of the order of a sum: the unchanged
//! model is evaluated a second time with the channels of the hidden states in reverse order, which changes nothing else. (The
//! channels of an MLP would not do: an online rotation mixes them in their order.)

use candle_core::Device;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};
use workbench_model::{
    Block, Checkpoint, Context, ModelConfig, ModelError, Tokenizer, WeightSource,
    checkpoint::{Dtype, narrow, widened},
    decoder::{self, Embedding},
    statistics::divergences,
};

use crate::error::{Error, Result};

/// Largest logit difference, relative to the logits' standard deviation, that a claim of equivalence may rest on even where
/// f32 itself is more exact.
const TOLERANCE: f64 = 1e-4;

/// Tokens of each kind that are compared.
const TOKENS: usize = 64;

/// What a comparison found, for the record.
pub(super) struct Found {
    /// Before the weights are rounded to the dtype in which they are written.
    pub exact: Value,
    /// After: mean KL(original ‖ artifact) in nats per token, and the share of equal first choices.
    pub as_written: Value,
}

/// Compares a transformed model with its original, and what will be written of it in `dtype` as well.
///
/// # Errors
/// The difference is larger than the larger of [`TOLERANCE`] and ten times that of two evaluation orders.
pub(super) fn check(
    original: &Checkpoint,
    (made, config): (&dyn WeightSource, &ModelConfig),
    dtype: Dtype,
    real: Option<&[u32]>,
    method: &str,
) -> Result<Found> {
    let texts = tokens(original, real)?;
    let before = logits(original.config(), original, &texts)?;
    let after = logits(config, made, &texts)?;
    let difference = difference(&before, &after);
    let mut exact = json!({ "logit_difference": difference, "tokens": texts.iter().map(Vec::len).sum::<usize>() });
    let mut limit = TOLERANCE;
    // The yardstick costs as much as the comparison, and matters only where the tolerance does not do.
    if difference.is_nan() || difference > TOLERANCE {
        let reversed = ReversedHidden { source: original, config: original.config() };
        let noise = self::difference(&before, &logits(original.config(), &reversed, &texts)?);
        exact["evaluation_order_difference"] = noise.into();
        limit = TOLERANCE.max(10.0 * noise);
    }
    if difference.is_nan() || difference > limit {
        let message = format!(
            "`{method}` changed the model's function: logits differ by {difference:.2e} of their standard deviation, and {limit:.2e} is allowed"
        );
        return Err(Error::refused(message)
            .hint("a transform must leave the function alone; check its algebra, or fold in f64"));
    }
    exact["limit"] = limit.into();
    let written = match dtype {
        Dtype::F32 => after,
        _ => logits(config, &Rounded { source: made, dtype }, &texts)?,
    };
    Ok(Found { exact, as_written: divergence(&before, &written, original.config().vocab_size) })
}

fn divergence(p: &[f32], q: &[f32], vocabulary: usize) -> Value {
    let rows = divergences(p, q, vocabulary);
    let n = rows.len().max(1) as f64;
    json!({ "kl": rows.iter().map(|r| r.kl).sum::<f64>() / n, "top1": rows.iter().filter(|r| r.same_top).count() as f64 / n })
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

/// Logits at all positions of all texts. One block is in memory at a time.
fn logits(config: &ModelConfig, source: &dyn WeightSource, texts: &[Vec<u32>]) -> Result<Vec<f32>> {
    // Texts of one length make a batch: a product brings its weight into its own order once for all of them, which costs more than
    // to multiply so few tokens.
    let mut states = texts
        .chunk_by(|a, b| a.len() == b.len())
        .filter(|batch| !batch[0].is_empty())
        .map(|batch| {
            let hidden = Embedding::look_up(config, source, &batch.concat(), batch.len())?;
            Ok((hidden, Context::full(batch.len(), batch[0].len(), None)))
        })
        .collect::<Result<Vec<_>>>()?;
    for index in 0..config.num_layers {
        let block = Block::load(config, source, index, &Device::Cpu)?;
        for (hidden, context) in &mut states {
            *hidden = block.forward(hidden, context, &mut ())?;
        }
    }
    let mut all = Vec::new();
    for (hidden, _) in &states {
        all.extend(decoder::logits(config, source, hidden)?);
    }
    Ok(all)
}

/// A model in the dtype in which it is written.
struct Rounded<'a> {
    source: &'a dyn WeightSource,
    dtype: Dtype,
}

impl WeightSource for Rounded<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(widened(&narrow(&self.source.values(name)?, self.dtype), self.dtype))
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        Ok(widened(&narrow(&self.source.rows(name, rows)?, self.dtype), self.dtype))
    }

    fn has_rows(&self, name: &str) -> bool {
        self.source.has_rows(name)
    }
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
