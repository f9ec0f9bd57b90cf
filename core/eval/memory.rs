//! What evaluations are expected to take, for plans and for how many nodes run side by side.

use workbench_model::ModelConfig;

use super::{CHUNK, walk::ROOM};

/// The program, its threads, and what an allocator keeps.
pub const PROGRAM: u64 = 80 << 20;

/// A token in the tables of a tokenizer, merges counted.
pub const TOKEN: u64 = 900;

/// Sequences to score.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// Sequences of a batch.
    pub batch: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// How many sequences there are, where that is known.
    pub sequences: Option<usize>,
}

/// Bytes of memory at the peak of scoring, with one model or two side by side: the larger of a block at work and of the heads
/// with their logits, besides the hidden states of a group. An estimate, from above; texts are not counted.
pub fn scoring_memory(models: &[&ModelConfig], work: Scored) -> u64 {
    let batch = (work.batch * work.tokens) as u64;
    let all = work.sequences.map_or(u64::MAX, |n| n as u64 * work.tokens as u64);
    let width: u64 = models.iter().map(|config| config.hidden_size as u64).sum();
    // What a group holds with what an allocator loses on it, and the batch by which it may exceed its room.
    let hidden = (ROOM as u64).min(all.saturating_mul(4 * width)) / 4 * 5 + 4 * batch * width;
    let vocabulary: u64 = models.iter().map(|config| config.vocab_size as u64).sum();
    let block = models.iter().map(|config| block(config, batch)).max().unwrap_or(0);
    let heads: u64 = models.iter().map(|config| head(config)).sum();
    // The pages of the table that was widened last, or logits.
    let pages = models.iter().map(|config| head(config) / 2).max().unwrap_or(0);
    let logits = 4 * vocabulary * batch.min(CHUNK as u64);
    PROGRAM + vocabulary * TOKEN + hidden + block.max(heads + pages.max(logits))
}

/// Bytes of memory at the peak of writing answers: the whole model in f32 with the pages of the tensor that is widened last, keys and
/// values of a batch, and what flows through a block while its prompts are read.
pub fn generating_memory(config: &ModelConfig, work: Scored) -> u64 {
    let sizes = || config.tensors().into_iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64);
    let (weights, largest) = (sizes().sum::<u64>(), sizes().max().unwrap_or(0));
    let sequences = work.sequences.map_or(work.batch, |all| all.min(work.batch)) as u64;
    let tokens = sequences * work.tokens as u64;
    // Keys and values have room for the next power of two, and for one block there are the old ones beside the new.
    let cached = 2 * (config.num_layers + 1) * config.num_kv_heads * config.head_dim;
    let room = sequences * work.tokens.next_power_of_two() as u64;
    let logits = 2 * 4 * sequences * config.vocab_size as u64;
    let loaded = 4 * weights + 4 * largest;
    let at_work = 4 * weights + 4 * room * cached as u64 + flow(config, tokens) + logits;
    PROGRAM + config.vocab_size as u64 * TOKEN + loaded.max(at_work)
}

/// What flows through a block.
fn flow(config: &ModelConfig, tokens: u64) -> u64 {
    let heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim;
    4 * tokens * (4 * config.hidden_size + 3 * config.intermediate_size.max(heads)) as u64
}

/// A block in f32 with the pages that it is widened from, and what flows through it.
fn block(config: &ModelConfig, tokens: u64) -> u64 {
    let linears: u64 = config.linears().iter().map(|linear| (linear.in_features * linear.out_features) as u64).sum();
    8 * linears / config.num_layers.max(1) as u64 + flow(config, tokens)
}

/// `lm_head` in f32.
fn head(config: &ModelConfig) -> u64 {
    4 * (config.vocab_size * config.hidden_size) as u64
}
