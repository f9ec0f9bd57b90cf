//! Generation, greedy or sampled, for a batch of prompts.

mod sampler;

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};

pub use sampler::{Picked, Sampler, Sampling};

use crate::{Decoder, ModelError};

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Tokens after which a sequence ends in any case.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Where the draws begin. A sequence's draws depend on this and on its number alone.
    pub seed: u64,
    /// The number of the first prompt. Whoever splits a list of prompts into batches counts on, so that the split changes
    /// no draw.
    pub first_sequence: u64,
    /// Tokens that end a sequence.
    pub stop_ids: Vec<u32>,
}

impl Default for GenerationConfig {
    /// Greedy, 128 tokens, no stop token.
    fn default() -> Self {
        Self { max_new_tokens: 128, sampling: Sampling::GREEDY, seed: 0, first_sequence: 0, stop_ids: vec![] }
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token came; it is not part of the tokens but stands for itself.
    Stop,
    /// `max_new_tokens` were generated.
    Length,
    /// The callback ended it.
    Ended,
}

/// What came after a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Each token's log-probability under the distribution that it was drawn from: see [`Picked::log_probability`].
    pub log_probabilities: Vec<f64>,
    /// The stop token that ended the sequence, behind its tokens, where one did.
    pub stop: Option<Picked>,
    /// Why there are no more.
    pub finish: Finish,
}

impl Generation {
    /// All that was drawn, the stop token included.
    pub fn drawn(&self) -> impl Iterator<Item = Picked> {
        let pairs = self.tokens.iter().zip(&self.log_probabilities);
        pairs.map(|(&token, &log_probability)| Picked { token, log_probability }).chain(self.stop)
    }
}

/// A sequence on its way.
struct Running {
    prompt: usize,
    sampler: Sampler,
    next: Vec<u32>,
}

/// Continues every prompt. `on_token(prompt, token)` sees each new token and may end its sequence, for example at a stop
/// string. Finished sequences leave the batch at once.
///
/// The last bits of logits may depend on the batch, since matrix products of other shapes add in another order; draws do not. With a
/// decoder that was [loaded for scoring](Decoder::load_for_scoring) they do not either, unless a quantizer of activations takes its
/// scale of a whole tensor: packed products add in an order that the length of a sum alone decides.
///
/// A decoder over variables generates without a graph if it was built over [`Detached`](crate::decoder::Detached) ones.
pub fn generate(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Generation>, ModelError> {
    let sampler =
        |prompt: usize| Sampler::new(config.sampling, config.seed, config.first_sequence.wrapping_add(prompt as u64));
    let samplers = (0..prompts.len()).map(sampler).collect();
    generate_by(decoder, prompts, samplers, (config.max_new_tokens, &config.stop_ids), on_token)
}

/// As [`generate`], each prompt with a sampler of its own; a sequence ends after so many new tokens, or at one of those ids.
///
/// # Errors
/// As for [`generate`]; there are not as many samplers as prompts.
pub fn generate_by(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    samplers: Vec<Sampler>,
    (max_new_tokens, stop_ids): (usize, &[u32]),
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Generation>, ModelError> {
    samplers.iter().try_for_each(|sampler| sampler.sampling().check())?;
    if samplers.len() != prompts.len() {
        return Err(ModelError::Text(format!("{} samplers for {} prompts", samplers.len(), prompts.len())));
    }
    if let Some(empty) = prompts.iter().position(Vec::is_empty) {
        return Err(ModelError::Text(format!("prompt {empty} is empty: generation needs at least one token")));
    }
    let mut done: Vec<Generation> =
        vec![
            Generation { tokens: Vec::new(), log_probabilities: Vec::new(), stop: None, finish: Finish::Length };
            prompts.len()
        ];
    if max_new_tokens == 0 {
        return Ok(done);
    }
    let mut running: Vec<Running> = samplers
        .into_iter()
        .zip(prompts)
        .enumerate()
        .map(|(prompt, (sampler, ids))| Running { prompt, sampler, next: ids.clone() })
        .collect();
    let mut cache = decoder.cache(prompts.len());
    while !running.is_empty() {
        let logits = step(decoder, &running, &mut cache)?;
        let mut alive = Vec::with_capacity(running.len());
        for (row, sequence) in running.iter_mut().enumerate() {
            let picked = sequence.sampler.pick(&logits[row])?;
            let (token, generation) = (picked.token, &mut done[sequence.prompt]);
            if stop_ids.contains(&token) {
                generation.finish = Finish::Stop;
                generation.stop = Some(picked);
                continue;
            }
            generation.tokens.push(token);
            generation.log_probabilities.push(picked.log_probability);
            if on_token(sequence.prompt, token).is_break() {
                generation.finish = Finish::Ended;
            } else if generation.tokens.len() < max_new_tokens {
                alive.push(row);
                sequence.next = vec![token];
            }
        }
        if alive.len() < running.len() {
            cache.keep(&alive)?;
            let mut row = 0;
            running.retain(|_| {
                row += 1;
                alive.binary_search(&(row - 1)).is_ok()
            });
        }
    }
    Ok(done)
}

/// The logits after each sequence's next tokens.
fn step(
    decoder: &Decoder,
    running: &[Running],
    cache: &mut crate::decoder::KvCache,
) -> Result<Vec<Vec<f32>>, ModelError> {
    let lens: Vec<usize> = running.iter().map(|sequence| sequence.next.len()).collect();
    let len = lens.iter().max().copied().unwrap_or(0);
    let padded = running.iter().flat_map(|sequence| {
        let padding = std::iter::repeat_n(0, len - sequence.next.len());
        sequence.next.iter().copied().chain(padding)
    });
    let ids = Tensor::from_vec(padded.collect(), (running.len(), len), decoder.device())?;
    let logits = decoder.forward_cached(&ids, &lens, cache)?;
    Ok(logits.to_dtype(DType::F32)?.to_device(&crate::device::HOST)?.to_vec2()?)
}
