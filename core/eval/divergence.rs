//! Kullback-Leibler divergence from a reference model, token by token.

use candle_core::Tensor;
use serde_json::Map;
use workbench_model::{
    ModelError,
    statistics::{Divergence, divergences},
};

use super::{
    CHUNK, Loaded, Measured, MetricInfo,
    perplexity::{Sums, scored},
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
    let total = text.windows.len();
    for (index, group) in text.windows.chunks(batch).enumerate() {
        let sequences: Vec<&[u32]> = group.iter().map(|w| &w.ids[..w.ids.len() - 1]).collect();
        let (positions, _) = scored(group);
        let ours = Loaded::gather(&model.hidden(&sequences)?, &positions)?;
        let theirs = Loaded::gather(&reference.hidden(&sequences)?, &positions)?;
        for start in (0..positions.len()).step_by(CHUNK) {
            let n = CHUNK.min(positions.len() - start);
            let (q, vocabulary) = logits(model, &ours, start, n)?;
            let (p, _) = logits(reference, &theirs, start, n)?;
            let found = divergences(&p, &q, vocabulary);
            for ((sequence, _), Divergence { kl, same_top }) in positions[start..start + n].iter().zip(found) {
                sums.add(&group[*sequence].item, &[("kl", kl), ("top1", f64::from(same_top))]);
            }
        }
        reporter.progress(((index + 1) * batch).min(total) as u64, total as u64, "windows");
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

fn logits(model: &Loaded, hidden: &Tensor, start: usize, n: usize) -> Result<(Vec<f32>, usize)> {
    let compute = || -> Result<(Vec<f32>, usize), ModelError> {
        let logits = model.decoder.head(&hidden.narrow(0, start, n)?)?;
        let vocabulary = logits.dim(candle_core::D::Minus1)?;
        Ok((logits.flatten_all()?.to_vec1()?, vocabulary))
    };
    Ok(compute()?)
}
