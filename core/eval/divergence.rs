//! Kullback-Leibler divergence from a reference model, token by token.

use candle_core::Tensor;
use rayon::prelude::*;
use serde_json::Map;
use workbench_model::ModelError;

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
            let found: Vec<(f64, bool)> = p
                .par_chunks_exact(vocabulary)
                .zip(q.par_chunks_exact(vocabulary))
                .map(|(p, q)| compare(p, q))
                .collect();
            for ((sequence, _), (kl, same)) in positions[start..start + n].iter().zip(found) {
                sums.add(&group[*sequence].item, &[("kl", kl), ("top1", f64::from(same))]);
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

/// KL(p ‖ q) of two rows of logits, in f64, and whether their largest entries are at the same place.
pub fn compare(p: &[f32], q: &[f32]) -> (f64, bool) {
    let (top_p, norm_p) = log_normalizer(p);
    let (top_q, norm_q) = log_normalizer(q);
    let kl: f64 = p
        .iter()
        .zip(q)
        .map(|(&p, &q)| {
            let log_p = f64::from(p) - norm_p;
            log_p.exp() * (log_p - (f64::from(q) - norm_q))
        })
        .sum();
    // Rounding may leave a divergence of equal rows a hair below zero.
    (kl.max(0.0), top_p == top_q)
}

fn log_normalizer(row: &[f32]) -> (usize, f64) {
    let (top, most) =
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    let total: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
    (top, f64::from(most) + total.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_known_distributions() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): KL = 1/2 ln 2 - 1/4 ln 2.
        let ln = |v: [f32; 3]| v.map(f32::ln);
        let (kl, same) = compare(&ln([0.5, 0.25, 0.25]), &ln([0.25, 0.25, 0.5]));
        assert!((kl - 0.25 * 2_f64.ln()).abs() < 1e-7);
        assert!(!same);
        // A constant shift of the logits changes nothing.
        let p = [1.0_f32, -2.0, 0.5];
        let (kl, same) = compare(&p, &p.map(|x| x + 3.0));
        assert!(kl < 1e-12 && same);
    }
}
