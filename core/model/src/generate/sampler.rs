//! Picking the next token from logits.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ModelError;
use crate::decoder::kernels::divergence::normalizer;
use crate::decoder::kernels::sampling::{BLOCK, exceeds, largest, weigh};

/// How a token is drawn. A temperature of 0 is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it.
    pub temperature: f64,
    /// Only the `top_k` most probable tokens stay.
    pub top_k: Option<usize>,
    /// Of what `top_k` leaves, only the most probable tokens that together reach this probability stay.
    pub top_p: f64,
}

impl Sampling {
    /// The most probable token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: None, top_p: 1.0 };

    /// An error for settings that no token can be drawn by.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<(), ModelError> {
        let wrong = |message: String| Err(candle_core::Error::Msg(message).into());
        // Its inverse is a factor of logits, in f32.
        let inverse = (1.0 / self.temperature) as f32;
        if self.temperature != 0.0 && !(inverse.is_normal() && inverse > 0.0) {
            return wrong(format!("`temperature` is {}: it must be a number of at least 0", self.temperature));
        }
        if self.top_p.is_nan() || self.top_p < 0.0 {
            return wrong(format!("`top_p` is {}: it must be a number of at least 0", self.top_p));
        }
        Ok(())
    }
}

/// A token, and how probable it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Picked {
    /// The token.
    pub token: u32,
    /// The logarithm of its probability under the distribution that it was drawn from: behind temperature, `top_k` and `top_p`. A
    /// greedy pick is drawn from nothing: its log-probability is that of the model, at temperature 1.
    pub log_probability: f64,
}

/// One sequence's random draws: one per token, whatever happens to other sequences.
pub struct Sampler {
    sampling: Sampling,
    /// How many of the next tokens are the most probable ones all the same.
    greedy: usize,
    rng: ChaCha8Rng,
    /// Weights of all tokens, and their sums by blocks: memory for the next draw.
    weights: Vec<f32>,
    totals: Vec<f64>,
}

impl Sampler {
    /// The stream `stream` of the generator that `seed` starts.
    pub fn new(sampling: Sampling, seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self { sampling, greedy: 0, rng, weights: Vec::new(), totals: Vec::new() }
    }

    /// The same, but the first so many tokens are the most probable ones, for which nothing is drawn.
    #[must_use]
    pub fn greedy_at_first(self, tokens: usize) -> Self {
        Self { greedy: tokens, ..self }
    }

    /// How tokens are drawn.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// The next token, of the logits of all tokens.
    ///
    /// # Errors
    /// Logits that are no numbers, or of which the largest is infinite.
    pub fn pick(&mut self, logits: &[f32]) -> Result<Picked, ModelError> {
        let most = largest(logits);
        if !most.is_finite() {
            let message = format!("the model's logits are no finite numbers: their largest is {most}");
            return Err(candle_core::Error::Msg(message).into());
        }
        let Sampling { temperature, top_k, top_p } = self.sampling;
        let greedy = self.greedy > 0;
        self.greedy -= usize::from(greedy);
        if greedy || temperature == 0.0 {
            // The first of equals.
            let token = logits.iter().position(|x| *x == most).unwrap_or(0) as u32;
            return Ok(Picked { token, log_probability: -normalizer(logits, 1.0).log });
        }
        let (token, total) = match top_k.filter(|k| (1..logits.len()).contains(k)) {
            None if top_p >= 1.0 => self.draw_of_all(logits, most),
            None => self.draw_of(&most_probable(logits, most, temperature, top_p)),
            Some(k) => {
                let best = top(logits, k).into_iter().map(|(token, logit)| (token, weight(logit, most, temperature)));
                let mut best: Vec<(u32, f64)> = best.collect();
                if top_p < 1.0 {
                    let total = best.iter().map(|(_, weight)| weight).sum();
                    best.truncate(reached(&best, top_p, total).unwrap_or(best.len()));
                }
                self.draw_of(&best)
            }
        };
        let logit = f64::from(logits[token as usize]);
        Ok(Picked { token, log_probability: (logit - f64::from(most)) / temperature - total.ln() })
    }

    /// A draw among candidates with unnormalised probabilities, in their order, and what those add up to.
    fn draw_of(&mut self, candidates: &[(u32, f64)]) -> (u32, f64) {
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut left = self.rng.random::<f64>() * total;
        for (token, weight) in candidates {
            left -= weight;
            if left < 0.0 {
                return (*token, total);
            }
        }
        // Rounding may leave a crumb: it belongs to the last one.
        (candidates.last().map_or(0, |(token, _)| *token), total)
    }

    /// A draw among all tokens, in the order of the vocabulary: nothing has to be sorted.
    fn draw_of_all(&mut self, logits: &[f32], most: f32) -> (u32, f64) {
        self.weights.resize(logits.len(), 0.0);
        self.totals.resize(logits.len().div_ceil(BLOCK), 0.0);
        let inverse = (1.0 / self.sampling.temperature) as f32;
        weigh(logits, most, inverse, &mut self.weights, &mut self.totals);
        let total: f64 = self.totals.iter().sum();
        let mut left = self.rng.random::<f64>() * total;
        let passed = self.totals.iter().take_while(|total| {
            let passes = left >= **total;
            left -= if passes { **total } else { 0.0 };
            passes
        });
        let start = passed.count() * BLOCK;
        for (token, weight) in self.weights.iter().enumerate().skip(start) {
            left -= f64::from(*weight);
            if left < 0.0 {
                return (token as u32, total);
            }
        }
        // Rounding may leave a crumb: it belongs to the last one that can be drawn.
        (self.weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0) as u32, total)
    }
}

/// The unnormalised probability of a logit.
fn weight(logit: f32, most: f32, temperature: f64) -> f64 {
    ((f64::from(logit) - f64::from(most)) / temperature).exp()
}

/// How many of the candidates together reach a share of a total.
fn reached(candidates: &[(u32, f64)], share: f64, total: f64) -> Option<usize> {
    let mut reached = 0.0;
    let enough = candidates.iter().position(|(_, weight)| {
        reached += weight;
        reached >= share * total
    });
    enough.map(|last| last + 1)
}

/// The `k` largest logits with their tokens, largest first, equals by id.
fn top(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(2 * k + BLOCK);
    // What is not larger than k others comes behind them, since it has the larger id.
    let mut bound = f32::NEG_INFINITY;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        if best.len() >= k && !exceeds(block, bound) {
            continue;
        }
        // A negative zero equals the positive one.
        let tokens = block.iter().enumerate().map(|(at, logit)| ((index * BLOCK + at) as u32, logit + 0.0));
        best.extend(tokens.filter(|(_, logit)| *logit > bound));
        if best.len() >= 2 * k {
            best.select_nth_unstable_by(k - 1, order);
            best.truncate(k);
            bound = best[k - 1].1;
        }
    }
    best.sort_unstable_by(order);
    best.truncate(k);
    best
}

/// The most probable tokens that together reach `top_p`, with their unnormalised probabilities, most probable first, equals by id.
fn most_probable(logits: &[f32], most: f32, temperature: f64, top_p: f64) -> Vec<(u32, f64)> {
    let weights: Vec<f64> = logits.iter().map(|logit| weight(*logit, most, temperature)).collect();
    let total: f64 = weights.iter().sum();
    let sorted = |least: f64| {
        let candidates = weights.iter().enumerate().filter(|(_, weight)| **weight >= least);
        let mut candidates: Vec<(u32, f64)> = candidates.map(|(token, weight)| (token as u32, *weight)).collect();
        candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        candidates
    };
    // All tokens below this one together hold half of what `top_p` leaves over: none of them is reached.
    let mut candidates = sorted(0.5 * (1.0 - top_p) * total / logits.len() as f64);
    match reached(&candidates, top_p, total) {
        Some(count) => candidates.truncate(count),
        // Rounding, where next to nothing is left over.
        None => {
            candidates = sorted(0.0);
            candidates.truncate(reached(&candidates, top_p, total).unwrap_or(candidates.len()));
        }
    }
    candidates
}

#[cfg(test)]
mod tests;
