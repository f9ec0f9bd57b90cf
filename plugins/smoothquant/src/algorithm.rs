//! SmoothQuant's scales (Xiao et al. 2023, arXiv:2211.10438, equation 4).

use workbench_api::sdk::Error;

/// No scale is smaller, and no column maximum of the paper's rule.
pub(crate) const SMALLEST: f64 = 1e-5;

/// What stands for the size of an activation channel and of a weight column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// max|x| and max|w|, as the paper has it.
    Absmax,
    /// max x - min x and 2 max|w|, as llm-compressor has it.
    Range,
}

/// The scale of each channel, and the channels whose size is 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scales {
    pub(crate) values: Vec<f64>,
    pub(crate) still: Vec<usize>,
}

/// Largest magnitude per column of the matrices `[_, columns]`, which read the same input.
pub(crate) fn column_absmax<'a>(matrices: impl IntoIterator<Item = &'a [f32]>, columns: usize) -> Vec<f64> {
    let mut absmax = vec![0.0_f32; columns];
    for row in matrices.into_iter().flat_map(|matrix| matrix.chunks_exact(columns.max(1))) {
        absmax.iter_mut().zip(row).for_each(|(max, value)| *max = max.max(value.abs()));
    }
    absmax.into_iter().map(f64::from).collect()
}

/// The scales of one mapping:
///
/// ```text
/// s_j = a_j^α / w_j^(1-α),   at least 1e-5
/// ```
///
/// `a_j` is the size of activation channel j (`activation`, by the rule), `w_j` that of the columns that read it: `weight`
/// holds max|w| per column, of which the rule makes `w_j`. Where the columns are zero, llm-compressor takes `s_j = a_j` and
/// the paper's code lets `w_j` be 1e-5.
///
/// A channel that no calibration token excited (`a_j = 0`; by the rule of llm-compressor also one that is the same for every
/// token) keeps its scale of 1. Both references would multiply what makes it
/// by 10^5 there, although nothing is known about it.
///
/// # Errors
/// A size is not finite.
pub(crate) fn smoothing_scales(activation: &[f64], weight: &[f64], strength: f64, rule: Rule) -> Result<Scales, Error> {
    if activation.len() != weight.len() {
        let (channels, columns) = (activation.len(), weight.len());
        return Err(Error::input(format!("statistics of {channels} channels, but the weights have {columns} columns")));
    }
    let scale = |a: f64, w: f64| match rule {
        Rule::Range if w == 0.0 => a,
        Rule::Range => a.powf(strength) / (2.0 * w).powf(1.0 - strength),
        Rule::Absmax => a.powf(strength) / w.max(SMALLEST).powf(1.0 - strength),
    };
    let mut values = Vec::with_capacity(activation.len());
    for (channel, (&a, &w)) in activation.iter().zip(weight).enumerate() {
        if !a.is_finite() || !w.is_finite() || a < 0.0 {
            return Err(Error::numeric(format!(
                "channel {channel} has the activation size {a} and the weight size {w}"
            ))
            .with_hint("no token reached the site, or values overflow: evaluate the model first"));
        }
        values.push(if a == 0.0 { 1.0 } else { scale(a, w).max(SMALLEST) });
    }
    let still = (0..activation.len()).filter(|channel| activation[*channel] == 0.0).collect();
    Ok(Scales { values, still })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_follow_the_formula() {
        // By hand: sqrt(16 / 4) = 2, sqrt(1 / 4) = 0.5.
        let found = smoothing_scales(&[16.0, 1.0], &[4.0, 4.0], 0.5, Rule::Absmax).unwrap();
        assert_eq!(found, Scales { values: vec![2.0, 0.5], still: Vec::new() });
        // Twice the weights: sqrt(16 / 8).
        let found = smoothing_scales(&[16.0], &[4.0], 0.5, Rule::Range).unwrap();
        assert!((found.values[0] - 2.0_f64.sqrt()).abs() < 1e-15);
        // 0.75: 16^.75 / 81^.25 = 8 / 3.
        let found = smoothing_scales(&[16.0], &[81.0], 0.75, Rule::Absmax).unwrap();
        assert!((found.values[0] - 8.0 / 3.0).abs() < 1e-14);
    }

    /// With a strength of .5 activations and weights end up equally large: the paper's motivation of the formula.
    #[test]
    fn half_strength_balances_both_sides() {
        let (activation, weight) = ([100.0, 0.3, 7.0], [0.02, 0.5, 7.0]);
        let found = smoothing_scales(&activation, &weight, 0.5, Rule::Absmax).unwrap();
        for ((a, w), s) in activation.iter().zip(weight).zip(found.values) {
            assert!((a / s - w * s).abs() < 1e-12, "{a} {w} {s}");
        }
    }

    #[test]
    fn the_ends_of_the_strength_move_nothing_or_everything() {
        let activation = [8.0, 2.0];
        let all = smoothing_scales(&activation, &[0.5, 4.0], 1.0, Rule::Absmax).unwrap();
        assert_eq!(all.values, activation, "every activation channel becomes 1");
        let none = smoothing_scales(&activation, &[0.5, 4.0], 0.0, Rule::Absmax).unwrap();
        assert_eq!(none.values, [2.0, 0.25], "every column becomes 1");
    }

    #[test]
    fn still_channels_and_empty_columns() {
        let found = smoothing_scales(&[0.0, 4.0], &[1.0, 0.0], 0.5, Rule::Range).unwrap();
        assert_eq!(found, Scales { values: vec![1.0, 4.0], still: vec![0] });
        let found = smoothing_scales(&[4.0], &[0.0], 0.5, Rule::Absmax).unwrap();
        assert!((found.values[0] - 2.0 / 1e-5_f64.sqrt()).abs() < 1e-9);
        let found = smoothing_scales(&[1e-12], &[1e6], 0.5, Rule::Absmax).unwrap();
        assert_eq!(found.values, [SMALLEST]);
    }

    #[test]
    fn sizes_that_are_not_finite_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = smoothing_scales(&[1.0, bad], &[1.0, 1.0], 0.5, Rule::Absmax).unwrap_err();
            assert!(error.to_string().contains("channel 1"), "{error}");
        }
        assert!(smoothing_scales(&[1.0], &[1.0, 1.0], 0.5, Rule::Absmax).is_err());
    }

    #[test]
    fn the_columns_of_all_readers_count() {
        let (a, b) = ([1.0_f32, -5.0, 0.0, 2.0], [0.5_f32, 3.0]);
        assert_eq!(column_absmax([&a[..], &b[..]], 2), [1.0, 5.0]);
    }
}
