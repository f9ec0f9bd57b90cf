//! Divergence of two models' predictions.

use rayon::prelude::*;

/// What two rows of logits say about each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// KL(reference ‖ model) in nats.
    pub kl: f64,
    /// Whether both find the same token most probable; of equals the first counts.
    pub same_top: bool,
}

/// Compares rows of logits `[n, vocabulary]`, the reference's first. Sums are in f64 and in the order of the vocabulary, so
/// any number of threads gives the same bits.
pub fn divergences(reference: &[f32], model: &[f32], vocabulary: usize) -> Vec<Divergence> {
    let rows = reference.par_chunks_exact(vocabulary).zip(model.par_chunks_exact(vocabulary));
    rows.map(|(p, q)| compare(p, q)).collect()
}

/// KL(p ‖ q) of two rows of logits, in f64, and whether their largest entries are at the same place.
fn compare(p: &[f32], q: &[f32]) -> Divergence {
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
    Divergence { kl: kl.max(0.0), same_top: top_p == top_q }
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
        let Divergence { kl, same_top: same } = compare(&ln([0.5, 0.25, 0.25]), &ln([0.25, 0.25, 0.5]));
        assert!((kl - 0.25 * 2_f64.ln()).abs() < 1e-7);
        assert!(!same);
        // A constant shift of the logits changes nothing.
        let p = [1.0_f32, -2.0, 0.5];
        let Divergence { kl, same_top: same } = compare(&p, &p.map(|x| x + 3.0));
        assert!(kl < 1e-12 && same);
    }
}
