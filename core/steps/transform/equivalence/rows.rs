//! Inputs that hold every row of the embeddings.
//!
//! A vocabulary has far more rows than a comparison can have tokens, and a row that no token drew would be one that nobody
//! looked at. What a transform does to the stream of hidden states it does by one linear map, so that mixtures of rows pass
//! it as rows do: with `x_b = Σ ±E_t / |E_t|` over the rows `t` of a group `b`, the original on mixtures of its rows and the
//! transformed model on the same mixtures of its own have the same logits. Each row lies in one mixture, at full length
//! however short it is, and a row that is not what the others say stands out in the logits of its mixture.

use candle_core::Tensor;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use workbench_model::{ModelConfig, WeightSource, arch::EMBEDDINGS, device::HOST};

use crate::error::Result;

/// Rows that are read at once.
const PIECE: usize = 2048;

/// How the rows of a table are mixed.
pub(super) struct Mixtures {
    /// Of each row: signed, and scaled so that all rows count alike and a mixture is as long as a row.
    weights: Vec<f64>,
    /// Row `t` belongs to the mixture `t % count`.
    count: usize,
    /// Positions of a sequence of mixtures.
    length: usize,
}

impl Mixtures {
    /// Mixtures of the rows of the original, at most `sequences` of `length` positions.
    ///
    /// # Errors
    /// The table cannot be read.
    pub(super) fn of(
        original: &dyn WeightSource,
        config: &ModelConfig,
        length: usize,
        sequences: usize,
    ) -> Result<Self> {
        let rows = config.vocab_size;
        let mut norms = Vec::with_capacity(rows);
        each_row(original, config, |_, row| {
            norms.push(row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt());
        })?;
        let mut sorted = norms.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(rows / 2).copied().filter(|median| *median > 0.0).unwrap_or(1.0);
        let length = length.min(rows).max(1);
        let count = length * (rows / length).clamp(1, sequences);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let share = (rows as f64 / count as f64).sqrt();
        let weight = |norm: &f64| {
            let sign = if random.random_bool(0.5) { 1.0 } else { -1.0 };
            // A row of zeros has no length to be brought to: whatever it becomes counts as it is.
            let norm = if *norm > 0.0 { *norm } else { median };
            sign * median / norm / share
        };
        Ok(Self { weights: norms.iter().map(weight).collect(), count, length })
    }

    /// How many mixtures there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The mixtures of a model's own rows, `[sequences, length, hidden]`.
    ///
    /// # Errors
    /// The table cannot be read.
    pub(super) fn embed(&self, source: &dyn WeightSource, config: &ModelConfig) -> Result<Tensor> {
        let hidden = config.hidden_size;
        let mut sums = vec![0.0_f64; self.count * hidden];
        each_row(source, config, |index, row| {
            let (weight, to) = (self.weights[index], index % self.count * hidden);
            sums[to..to + hidden].iter_mut().zip(row).for_each(|(sum, v)| *sum += weight * f64::from(*v));
        })?;
        let values: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        let shape = (self.count / self.length, self.length, hidden);
        Ok(Tensor::from_vec(values, shape, &HOST).map_err(workbench_model::ModelError::from)?)
    }
}

/// Calls `see` with every row of the embeddings, in their order.
fn each_row(source: &dyn WeightSource, config: &ModelConfig, mut see: impl FnMut(usize, &[f32])) -> Result<()> {
    let (rows, hidden) = (config.vocab_size, config.hidden_size.max(1));
    let table = config.weight_of(EMBEDDINGS);
    // What is not stored row by row is decoded as a whole, and so only once.
    let sublayer = if source.has_rows(&table) { PIECE } else { rows.max(1) };
    for first in (0..rows).step_by(sublayer) {
        let ids: Vec<u32> = (first..rows.min(first + sublayer)).map(|row| row as u32).collect();
        let values = source.rows(&table, &ids)?;
        values.chunks_exact(hidden).enumerate().for_each(|(offset, row)| see(first + offset, row));
    }
    Ok(())
}
