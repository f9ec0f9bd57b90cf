//! AWQ's scales (Lin et al. 2023, arXiv:2306.00978, section 3.2), as AutoAWQ and llm-compressor compute them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which ratios a search tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GridPoints {
    /// i / (n - 1); with duo scaling the identity and n - 1 points i / (n - 2).
    LlmCompressor,
    /// i / n.
    Original,
}

/// What shares a scale within a row of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    Row,
    Group(usize),
}

/// One point of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Candidate {
    /// Scales of 1: the model as it is.
    Identity,
    /// A ratio, with or without the weights' part.
    Ratio { ratio: f64, duo: bool },
}

/// The points of a search, the identity always the first, so that no search ends above the loss it began with.
/// (AutoAWQ's duo grid has no identity: where all of its points are worse, its result is too.)
pub(crate) fn candidates(grid: GridPoints, n: usize, duo: bool) -> Vec<Candidate> {
    let ratios: Vec<f64> = match (grid, duo) {
        (GridPoints::LlmCompressor, true) => (0..n - 1).map(|i| i as f64 / (n - 2) as f64).collect(),
        (GridPoints::LlmCompressor, false) => (0..n).map(|i| i as f64 / (n - 1) as f64).collect(),
        (GridPoints::Original, _) => (0..n).map(|i| i as f64 / n as f64).collect(),
    };
    // Without the weights' part, a ratio of 0 is the identity.
    let points = ratios.into_iter().filter(|ratio| duo || *ratio > 0.0);
    std::iter::once(Candidate::Identity).chain(points.map(|ratio| Candidate::Ratio { ratio, duo })).collect()
}

/// How large the entries of each column are within what shares their scale, on average over the rows of all weights
/// `[rows, columns]` that read one input:
///
/// ```text
/// w̄_j = mean over rows i of |W_ij| / (max over the span of j of |W_i·| + 1e-6)
/// ```
///
/// Sums are in f64 and in the order of the rows. A group size must divide the columns.
pub(crate) fn weight_means(weights: &[&[f32]], columns: usize, span: Span) -> Vec<f64> {
    let width = match span {
        Span::Row => columns,
        Span::Group(size) => size,
    };
    let mut sums = vec![0.0; columns];
    let mut rows = 0_u64;
    for row in weights.iter().flat_map(|weight| weight.chunks_exact(columns)) {
        for (group, sums) in row.chunks(width).zip(sums.chunks_mut(width)) {
            let most = group.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
            let divisor = f64::from(most) + 1e-6;
            sums.iter_mut().zip(group).for_each(|(sum, w)| *sum += f64::from(w.abs()) / divisor);
        }
        rows += 1;
    }
    sums.into_iter().map(|sum| sum / rows.max(1) as f64).collect()
}

/// The scales of a candidate:
///
/// ```text
/// t_j = x̄_j^r / (w̄_j^(1-r) + 1e-4)      with duo scaling
/// t_j = x̄_j^r                            without; either at least 1e-4
/// s_j = t_j / √(max t · min t)           1 where that is not finite
/// ```
///
/// A channel that no calibration token excited (`x̄_j = 0`) has a scale of 1, and no say in the extremes. The tools let its `t_j` be
/// 1e-4, which makes its weights so small beside those of its group that they are rounded to zero, although nothing is known
/// about them.
///
/// `activation` is x̄, the mean magnitude of each channel over the calibration tokens; `weight` is w̄ of [`weight_means`].
pub(crate) fn scales(candidate: Candidate, activation: &[f64], weight: &[f64]) -> Vec<f64> {
    let Candidate::Ratio { ratio, duo } = candidate else { return vec![1.0; activation.len()] };
    let scale = |(x, w): (&f64, &f64)| {
        let divisor = if duo { w.powf(1.0 - ratio) + 1e-4 } else { 1.0 };
        (x.powf(ratio) / divisor).max(1e-4)
    };
    let raw: Vec<f64> = activation.iter().zip(weight).map(scale).collect();
    let excited = raw.iter().zip(activation).filter(|(_, x)| **x != 0.0);
    let (least, most) = excited.fold((f64::INFINITY, 0.0_f64), |(least, most), (t, _)| (least.min(*t), most.max(*t)));
    let middle = (least * most).sqrt();
    let scale = |(t, x): (f64, &f64)| if *x != 0.0 && (t / middle).is_finite() { t / middle } else { 1.0 };
    raw.into_iter().zip(activation).map(scale).collect()
}

/// The channels that no calibration token excited.
pub(crate) fn silent(activation: &[f64]) -> Vec<usize> {
    (0..activation.len()).filter(|channel| activation[*channel] == 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratios(candidates: &[Candidate]) -> Vec<f64> {
        let ratio = |candidate: &Candidate| match candidate {
            Candidate::Identity => None,
            Candidate::Ratio { ratio, .. } => Some(*ratio),
        };
        candidates.iter().filter_map(ratio).collect()
    }

    #[test]
    fn grids_are_those_of_the_tools() {
        let duo = candidates(GridPoints::LlmCompressor, 20, true);
        assert_eq!((duo.len(), duo[0]), (20, Candidate::Identity));
        assert_eq!(ratios(&duo)[..2], [0.0, 1.0 / 18.0]);
        assert_eq!(ratios(&duo).last(), Some(&1.0));
        let plain = candidates(GridPoints::LlmCompressor, 20, false);
        assert_eq!((plain.len(), ratios(&plain)[0], ratios(&plain)[18]), (20, 1.0 / 19.0, 1.0));
        let original = candidates(GridPoints::Original, 20, false);
        assert_eq!((original.len(), ratios(&original)[0], ratios(&original)[18]), (20, 0.05, 0.95));
        assert_eq!(ratios(&candidates(GridPoints::Original, 20, true)).len(), 20, "and the identity");
    }

    #[test]
    fn weight_means_follow_the_formula() {
        // Two groups of two; each entry over the largest of its group, averaged over three rows.
        let (a, b) = ([1.0_f32, -2.0, 4.0, 4.0, 0.0, 0.0, 1.0, -5.0], [3.0_f32, 1.0, 0.5, 1.0]);
        let found = weight_means(&[&a, &b], 4, Span::Group(2));
        let by_hand = [(0.5 + 0.0 + 1.0) / 3.0, (1.0 + 0.0 + 1.0 / 3.0) / 3.0, (1.0 + 0.2 + 0.5) / 3.0, 1.0];
        for (found, expected) in found.iter().zip(by_hand) {
            assert!((found - expected).abs() < 2e-6, "{found} {expected}");
        }
        let by_row = weight_means(&[&b], 4, Span::Row);
        assert!((by_row[2] - 0.5 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn scales_follow_the_formula() {
        // Without duo scaling: [4, 9]^.5 = [2, 3] over √6.
        let found = scales(Candidate::Ratio { ratio: 0.5, duo: false }, &[4.0, 9.0], &[1.0, 1.0]);
        assert!((found[0] - 2.0 / 6.0_f64.sqrt()).abs() < 1e-15 && (found[1] - 3.0 / 6.0_f64.sqrt()).abs() < 1e-15);
        // With it: [2 / (.5 + 1e-4), 3 / (1 + 1e-4)].
        let found = scales(Candidate::Ratio { ratio: 0.5, duo: true }, &[4.0, 9.0], &[0.25, 1.0]);
        let raw = [2.0 / 0.5001, 3.0 / 1.0001];
        let middle = f64::sqrt(raw[0] * raw[1]);
        assert!((found[0] - raw[0] / middle).abs() < 1e-15 && (found[1] - raw[1] / middle).abs() < 1e-15);
        assert_eq!(scales(Candidate::Identity, &[4.0, 9.0], &[1.0, 1.0]), [1.0, 1.0]);
    }

    #[test]
    fn the_largest_and_the_smallest_scale_are_reciprocal() {
        let activation = [1e-9, 1e-3, 0.4, 70.0];
        for candidate in candidates(GridPoints::LlmCompressor, 20, true) {
            let found = scales(candidate, &activation, &[0.1, 0.5, 0.0, 1.0]);
            let (least, most) = found.iter().fold((f64::MAX, 0.0_f64), |(a, b), s| (a.min(*s), b.max(*s)));
            assert!((least * most - 1.0).abs() < 1e-12, "{candidate:?}: {found:?}");
        }
    }

    /// With the tools' floor of 1e-4 the first channel would have a scale of 1/200 or less, that is 1/40000 of the last one's.
    #[test]
    fn a_silent_channel_is_left_alone() {
        let weight = [0.5, 0.25, 1.0];
        for candidate in candidates(GridPoints::LlmCompressor, 20, true) {
            let found = scales(candidate, &[0.0, 1.0, 4.0], &weight);
            assert_eq!(found[0], 1.0, "{candidate:?}");
            assert_eq!(found[1..], scales(candidate, &[1.0, 4.0], &weight[1..]), "{candidate:?}");
            assert_eq!(scales(candidate, &[0.0; 3], &weight), [1.0; 3], "{candidate:?}");
        }
        assert_eq!(silent(&[0.0, 1.0, 0.0]), [0, 2]);
    }
}
