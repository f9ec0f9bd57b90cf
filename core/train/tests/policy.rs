//! The loss of a policy against TRL and finite differences.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use serde_json::{Value, from_value};
use workbench_train::{Correction, Drawn, Extent, PolicyLoss, PolicyMean, RatioOf, ScaleRewards, advantages};

/// Completions of lists with a mask: the tokens before the first zero.
fn tokens(rows: &Value, mask: &Value) -> Vec<Vec<f64>> {
    let (rows, mask): (Vec<Vec<f64>>, Vec<Vec<f64>>) =
        (from_value(rows.clone()).unwrap(), from_value(mask.clone()).unwrap());
    let cut = |(row, mask): (&Vec<f64>, &Vec<f64>)| {
        row.iter().zip(mask).take_while(|(_, counts)| **counts > 0.0).map(|(value, _)| *value).collect()
    };
    rows.iter().zip(&mask).map(cut).collect()
}

/// Loss and gradients of `GRPOTrainer._compute_loss` of TRL 1.16.0, in f32.
#[test]
fn losses_and_gradients_are_those_of_trl() {
    let reference: Value = serde_json::from_str(include_str!("reference/grpo.json")).unwrap();
    let rows = |name: &str| tokens(&reference[name], &reference["mask"]);
    let (now, old, ours) = (rows("logps"), rows("old"), rows("ref"));
    let advantages: Vec<f64> = from_value(reference["adv"].clone()).unwrap();
    let count = now.iter().map(Vec::len).sum();
    let extent = Extent { completions: now.len(), tokens: count, passes: 1, tokens_of_pass: count, longest: 6 };
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 16);
    let mut clipped = 0;
    for case in cases {
        let loss = PolicyLoss {
            mean: from_value(case["mean"].clone()).unwrap(),
            ratio: from_value(case["ratio"].clone()).unwrap(),
            beta: case["beta"].as_f64().unwrap(),
            ..PolicyLoss::default()
        };
        let expected = tokens(&case["gradient"], &reference["mask"]);
        let mut sum = 0.0;
        for (index, expected) in expected.iter().enumerate() {
            let reference = (loss.beta > 0.0).then_some(ours[index].as_slice());
            let (now, before, advantage) = (now[index].as_slice(), old[index].as_slice(), advantages[index]);
            let lost = loss.of(&Drawn { now, before, sampled: before, reference, advantage }, &extent);
            sum += lost.loss;
            clipped += lost.clipped;
            for (found, expected) in lost.gradients.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{case}: {found} for {expected}");
            }
        }
        assert!((sum - case["loss"].as_f64().unwrap()).abs() < 1e-6, "{case}: {sum}");
    }
    assert!(clipped > 0, "the reference clips nothing");
}

/// A fixed list of numbers that look drawn.
fn logs(seed: f64, count: usize) -> Vec<f64> {
    (0..count).map(|at| -1.5 + (seed + 2.3 * at as f64).sin()).collect()
}

#[test]
fn gradients_are_finite_differences() {
    use Correction::{None, SequenceMask, SequenceTruncate, TokenMask, TokenTruncate};
    let extent = Extent { completions: 3, tokens: 11, passes: 2, tokens_of_pass: 5, longest: 8 };
    let (now, before, sampled, reference) = (logs(0.0, 5), logs(0.2, 5), logs(0.5, 5), logs(1.0, 5));
    for mean in [PolicyMean::Grpo, PolicyMean::Dapo, PolicyMean::DrGrpo, PolicyMean::Bnpo] {
        for ratio in [RatioOf::Token, RatioOf::Sequence] {
            for correction in [None, TokenTruncate, TokenMask, SequenceTruncate, SequenceMask] {
                for advantage in [0.7, -1.3] {
                    let loss = PolicyLoss { mean, ratio, correction, beta: 0.3, cap: 1.1, ..PolicyLoss::default() };
                    let of = |now: &[f64]| {
                        let reference = Some(reference.as_slice());
                        loss.of(&Drawn { now, before: &before, sampled: &sampled, reference, advantage }, &extent)
                    };
                    let found = of(&now);
                    for at in 0..now.len() {
                        let moved = |by: f64| {
                            let mut now = now.clone();
                            now[at] += by;
                            of(&now).loss
                        };
                        let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                        let gradient = found.gradients[at];
                        assert!((gradient - expected).abs() < 1e-8, "{loss:?} {at}: {gradient} for {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn corrections_follow_the_ratio_up_to_their_cap() {
    let (before, sampled) = (vec![-1.0, -2.0, -0.5], vec![-1.0, -2.0 - 1.5_f64.ln(), -0.5 - 4_f64.ln()]);
    for (correction, expected) in [
        (Correction::None, [1.0, 1.0, 1.0]),
        (Correction::TokenTruncate, [1.0, 1.5, 3.0]),
        (Correction::TokenMask, [1.0, 1.5, 0.0]),
        (Correction::SequenceTruncate, [3.0; 3]),
        (Correction::SequenceMask, [0.0; 3]),
    ] {
        let loss = PolicyLoss { correction, ..PolicyLoss::default() };
        let drawn = Drawn { now: &before, before: &before, sampled: &sampled, reference: None, advantage: 2.0 };
        let extent = Extent { completions: 1, tokens: 3, passes: 1, tokens_of_pass: 3, longest: 3 };
        let (lost, mean) = (loss.of(&drawn, &extent).loss, expected.iter().sum::<f64>() / 3.0);
        assert!((lost + 2.0 * mean).abs() < 1e-12, "{correction:?}: {lost}");
    }
}

/// As TRL has them, and as their definition says.
#[test]
fn advantages_are_distances_from_the_mean_of_a_group() {
    let found = advantages(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0], 4, ScaleRewards::Group);
    let expected = [0.8658754, -0.8658754, -0.8658754, 0.8658754, 1.4997001, -0.4999, -0.4999, -0.4999];
    for (found, expected) in found.values.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
    assert_eq!(found.equal, 0);

    let rewards = [0.3, 0.1, -2.0, 5.0, 0.1, 0.1, 0.1, 0.1];
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let variance = |values: &[f64]| {
        let pairs = values.iter().flat_map(|a| values.iter().map(move |b| (a - b) * (a - b)));
        pairs.sum::<f64>() / (2.0 * (values.len() * (values.len() - 1)) as f64)
    };
    for (scale, by) in [
        (ScaleRewards::Group, variance(&rewards[..4]).sqrt() + 1e-4),
        (ScaleRewards::Batch, variance(&rewards).sqrt() + 1e-4),
        (ScaleRewards::None, 1.0),
    ] {
        let found = advantages(&rewards, 4, scale);
        for (reward, found) in rewards[..4].iter().zip(&found.values) {
            let expected = (reward - mean(&rewards[..4])) / by;
            assert!((found - expected).abs() < 1e-12, "{scale:?}: {found} for {expected}");
        }
        assert_eq!(found.values[4..], [0.0; 4], "{scale:?}");
        assert_eq!(found.equal, 1);
        assert_eq!(found.deviations[1], 0.0);
    }
    // The mean of three equal numbers is not always one of them.
    assert_eq!(advantages(&[0.1; 3], 3, ScaleRewards::Group).values, [0.0; 3]);
    assert_eq!(advantages(&[7.0], 1, ScaleRewards::Batch).values, [0.0]);
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let wrong = |loss: PolicyLoss| loss.check().unwrap_err().to_string();
    let sane = PolicyLoss::default();
    sane.check().unwrap();
    assert!(wrong(PolicyLoss { epsilon: 1.5, ..sane }).contains("`epsilon`"));
    assert!(wrong(PolicyLoss { epsilon_high: f64::INFINITY, ..sane }).contains("`epsilon_high`"));
    assert!(wrong(PolicyLoss { beta: -1.0, ..sane }).contains("`beta`"));
    assert!(wrong(PolicyLoss { cap: 0.0, ..sane }).contains("`correction_cap`"));
}
