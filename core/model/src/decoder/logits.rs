//! Logits of a few positions.

use candle_core::Tensor;
use workbench_matmul::{Input, Precision, Weight};

use super::layers::FinalNorm;
use super::ops::View;
use crate::arch::LM_HEAD;
use crate::device::HOST;
use crate::{ModelConfig, ModelError, WeightSource};

/// Rows of `lm_head` that are in memory together, where its source has them one by one.
const ROWS: usize = 4096;

/// Logits of the last block's output `[.., hidden]`, final norm included, position after position. For few positions: the weight
/// of `lm_head`, much larger than they are, is packed a few rows at a time.
///
/// # Errors
/// A malformed source.
pub fn logits(config: &ModelConfig, source: &dyn WeightSource, hidden: &Tensor) -> Result<Vec<f32>, ModelError> {
    let normed = FinalNorm::load(config, source, &HOST)?.forward(&hidden.to_device(&HOST)?)?.contiguous()?;
    let view = View::new(&normed)?;
    let (inputs, vocabulary, name) = (config.hidden_size, config.vocab_size, config.weight_of(LM_HEAD));
    let positions = view.values().len() / inputs.max(1);
    let input = Input::new(view.values(), positions, inputs, Precision::F32);
    let stored = source.stored_bf16(&name)?.filter(|stored| stored.len() == vocabulary * inputs);
    let piece = if stored.is_some() || source.has_rows(&name) { ROWS } else { vocabulary };
    let mut all = vec![0.0; positions * vocabulary];
    for first in (0..vocabulary).step_by(piece.max(1)) {
        let count = piece.min(vocabulary - first);
        let weight = match stored {
            Some(stored) => {
                Weight::stored(&stored[first * inputs..(first + count) * inputs], count, inputs, Precision::F32)
            }
            None if count == vocabulary => Weight::new(&source.values(&name)?, count, inputs, Precision::F32),
            None => {
                let rows: Vec<u32> = (first..first + count).map(|row| row as u32).collect();
                Weight::new(&source.rows(&name, &rows)?, count, inputs, Precision::F32)
            }
        };
        let some = weight.product(&input, None);
        for (to, from) in all.chunks_exact_mut(vocabulary).zip(some.chunks_exact(count)) {
            to[first..first + count].copy_from_slice(from);
        }
    }
    Ok(all)
}
