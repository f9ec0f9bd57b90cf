//! Kullback-Leibler divergence from a reference model, token by token.

use candle_core::Tensor;
use serde_json::Map;
use workbench_model::{
    ModelError,
    activations::with_values,
    decoder::Head,
    statistics::{Divergence, divergences},
};

use super::{
    CHUNK, Loaded, Measured, MetricInfo,
    perplexity::{Sums, batches, lens},
    walk::{Progress, groups},
    windows::Windows,
};
use crate::{
    error::{Error, Result},
    exec::NodeReporter,
};

/// Per token KL(reference ‖ model) in nats over the whole vocabulary, and whether both find the same token likeliest.
/// The windows and the scored positions are those of [`perplexity`](super::perplexity).
pub fn divergence(
    model: &Loaded,
    reference: &Loaded,
    text: Windows,
    batch: usize,
    reporter: &NodeReporter,
) -> Result<Measured> {
    let mut sums = Sums::default();
    let mut progress = Progress::new(reporter, text.windows.len().div_ceil(batch), &[model, reference]);
    // Both models' hidden states wait for their heads.
    let wide = model.config().hidden_size + reference.config().hidden_size;
    for group in groups(&lens(&text.windows), batch, wide) {
        let windows = &text.windows[group];
        let batches = batches(windows, batch);
        let ours = model.walk(&batches, &mut progress)?;
        let theirs = reference.walk(&batches, &mut progress)?;
        let heads = [reference.head()?, model.head()?];
        for ((windows, batch), hidden) in windows.chunks(batch).zip(&batches).zip(theirs.iter().zip(&ours)) {
            for (first, positions) in batch.positions.chunks(CHUNK).enumerate() {
                let found = compare(&heads, hidden, first * CHUNK, positions.len(), model.config().vocab_size)?;
                for ((sequence, _), Divergence { kl, same_top }) in positions.iter().zip(found) {
                    sums.add(&windows[*sequence].item, &[("kl", kl), ("top1", f64::from(same_top))]);
                }
            }
            progress.step();
            progress.step();
        }
    }
    let metrics = vec![MetricInfo::nats("kl"), MetricInfo::rate("top1")];
    let items = sums.items();
    let tokens: f64 = items.iter().map(|i| i.weight).sum();
    let protocol = format!("{} ({tokens} tokens compared)", text.protocol);
    let measured = Measured { items, metrics, protocol, facts: text.facts, extra: Map::new() };
    if !measured.mean("kl").is_finite() {
        return Err(Error::refused("the divergence is not finite: a model gives logits that are not numbers"));
    }
    Ok(measured)
}

/// Compares the predictions of the heads, the reference's first, for `n` positions of their hidden states.
fn compare(
    heads: &[Head; 2],
    hidden: (&Tensor, &Tensor),
    start: usize,
    n: usize,
    vocabulary: usize,
) -> Result<Vec<Divergence>, ModelError> {
    let p = heads[0].forward(&hidden.0.narrow(0, start, n)?, &mut ())?;
    let q = heads[1].forward(&hidden.1.narrow(0, start, n)?, &mut ())?;
    with_values(&p, |p| with_values(&q, |q| divergences(p, q, vocabulary)))?
}
