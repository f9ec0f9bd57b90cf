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
    CHUNK, Conduct, Loaded, Measured, Method, Window,
    kept::{Behind, Noted},
    perplexity::Sums,
    walk::{Batch, Passes, groups},
    windows::Windows,
};
use crate::error::{Error, Result};

/// Per token KL(reference ‖ model) in nats over the whole vocabulary, and whether both find the same token likeliest.
/// The windows and the scored positions are those of [`perplexity`](super::perplexity). Both are decoders of this program: a
/// distribution over the vocabulary is more than an [`Engine`](super::Engine) is asked for.
///
/// # Errors
/// A malformed checkpoint; logits that are not numbers.
pub fn divergence(
    model: &Loaded,
    reference: &Loaded,
    text: Windows,
    batch: usize,
    conduct: &mut Conduct<'_>,
) -> Result<Measured> {
    let total = text.windows.len();
    let scored = |window: &Window| window.ids.len().saturating_sub(window.scored);
    let mut all: Vec<Vec<Noted>> =
        conduct.kept(total, batch, |place, one: &Vec<Noted>| text.windows.get(place).map(scored) == Some(one.len()));
    let rest = &text.windows[all.len()..];
    let behind = Behind { done: all.len(), total, progress: conduct.progress };
    let mut passes = Passes::new(&behind, rest.len().div_ceil(batch), &[model, reference]);
    // Both models' hidden states wait for their heads.
    let wide = model.config().hidden_size + reference.config().hidden_size;
    let lens: Vec<usize> = rest.iter().map(|window| window.ids.len() - 1).collect();
    for group in groups(&lens, batch, wide) {
        let sequences: Vec<_> = rest[group].iter().map(Window::sequence).collect();
        let batches: Vec<Batch<'_>> = sequences.chunks(batch).map(Batch::of).collect();
        let ours = model.walk(&batches, &mut passes)?;
        let theirs = reference.walk(&batches, &mut passes)?;
        let heads = [reference.head()?, model.head()?];
        let mut found: Vec<Vec<Noted>> = Vec::with_capacity(sequences.len());
        for (batch, hidden) in batches.iter().zip(theirs.iter().zip(&ours)) {
            let before = found.len();
            found.resize_with(before + batch.sequences.len(), Vec::new);
            for (first, positions) in batch.positions.chunks(CHUNK).enumerate() {
                let compared = compare(&heads, hidden, first * CHUNK, positions.len(), model.config().vocab_size)?;
                for ((sequence, _), Divergence { kl, same_top }) in positions.iter().zip(compared) {
                    found[before + sequence].push((kl.to_bits(), same_top));
                }
            }
            passes.step();
            passes.step();
        }
        conduct.note(all.len(), total, &found)?;
        all.extend(found);
    }
    let mut sums = Sums::default();
    for (window, found) in text.windows.iter().zip(all) {
        for (kl, same_top) in found {
            sums.add(&window.item, &[("kl", f64::from_bits(kl)), ("top1", f64::from(same_top))]);
        }
    }
    let metrics = Method::Divergence.metric_infos();
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
