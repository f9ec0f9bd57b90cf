//! The kernel against the definition in f64, its differences, and what TRL computes.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::path::{Path, PathBuf};

use candle_core::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const BETAS: [f64; 7] = [0.0, 1e-12, 0.1, 0.5, 0.9, 0.999_999, 1.0];

fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|x| ((x - most) / temperature).exp()).sum();
    logits.iter().map(|x| (x - most) / temperature - total.ln()).collect()
}

/// Σ p (log p - log q), where p is not zero.
fn kl(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| if *p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }).sum()
}

/// The definition, word by word.
fn exact(student: &[f64], teacher: &[f64], Divergence { beta, temperature }: Divergence) -> f64 {
    let (s, t) = (log_softmax(student, temperature), log_softmax(teacher, temperature));
    if beta == 0.0 {
        return kl(&t, &s);
    }
    if beta == 1.0 {
        return kl(&s, &t);
    }
    let mixture = |(s, t): (&f64, &f64)| {
        let most = s.max(*t);
        most + ((1.0 - beta) * (s - most).exp() + beta * (t - most).exp()).ln()
    };
    let m: Vec<f64> = s.iter().zip(&t).map(mixture).collect();
    beta * kl(&t, &m) + (1.0 - beta) * kl(&s, &m)
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn random(rng: &mut ChaCha8Rng, count: usize, spread: f32) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-spread..spread)).collect()
}

fn run(student: &[f32], teacher: &[f32], divergence: Divergence) -> (f64, Vec<f32>) {
    let mut gradient = student.to_vec();
    let found = losses_and_gradient(&mut gradient, teacher, student.len(), &[1.0], divergence)[0];
    let alone = losses(student, teacher, student.len(), &[1.0], divergence)[0];
    assert_eq!(found.to_bits(), alone.to_bits(), "with a gradient and without");
    (found, gradient)
}

#[test]
fn values_and_gradients_are_those_of_the_definition_and_its_differences() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (vocabulary, spread) in [(2, 1.0), (37, 3.0), (64, 9.0), (515, 30.0)] {
        let (student, teacher) = (random(&mut rng, vocabulary, spread), random(&mut rng, vocabulary, spread));
        for beta in BETAS {
            for temperature in [0.7, 1.0, 2.0, 13.0] {
                let divergence = Divergence { beta, temperature };
                let (value, gradient) = run(&student, &teacher, divergence);
                let (mut at, teacher) = (widen(&student), widen(&teacher));
                let expected = exact(&at, &teacher, divergence);
                let case = format!("{vocabulary} {divergence:?}");
                assert!((value - expected).abs() <= 1e-6 * expected.max(3e-2), "{case}: {value} {expected}");
                let scale = gradient.iter().fold(0f32, |most, x| most.max(x.abs()));
                for i in (0..vocabulary).step_by(vocabulary / 7 + 1) {
                    let middle = at[i];
                    at[i] = middle + 1e-4;
                    let up = exact(&at, &teacher, divergence);
                    at[i] = middle - 1e-4;
                    let slope = (up - exact(&at, &teacher, divergence)) / 2e-4;
                    at[i] = middle;
                    let error = (f64::from(gradient[i]) - slope).abs();
                    assert!(error <= 3e-6 * f64::from(scale).max(1e-3), "{case} [{i}]: {} {slope}", gradient[i]);
                }
            }
        }
    }
}

#[test]
fn close_models_diverge_by_little_and_equal_ones_by_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let teacher = random(&mut rng, 700, 6.0);
    let close: Vec<f32> = teacher.iter().map(|x| x + rng.random_range(-1e-2..1e-2)).collect();
    for beta in BETAS {
        for temperature in [1.0, 1.7] {
            let divergence = Divergence { beta, temperature };
            let (value, _) = run(&close, &teacher, divergence);
            let expected = exact(&widen(&close), &widen(&teacher), divergence);
            assert!((value - expected).abs() < 3e-8, "{divergence:?}: {value:e} {expected:e}");
            let (value, gradient) = run(&teacher, &teacher, divergence);
            assert!(value == 0.0 && gradient.iter().all(|x| *x == 0.0), "{divergence:?}: {value:e}");
        }
    }
}

#[test]
fn probabilities_of_zero_are_no_nan() {
    let impossible = f32::NEG_INFINITY;
    for (student, teacher) in [
        // Underflow on either side, and on both.
        (vec![0.0, -900.0, 3.0, -1e4], vec![-800.0, 0.0, 2.0, -2e4]),
        (vec![1e30, 0.0, 0.0], vec![0.0, 1.0, 2.0]),
        // Tokens that neither can say.
        (vec![0.0, 1.0, impossible], vec![0.5, 0.0, impossible]),
    ] {
        for beta in BETAS {
            let divergence = Divergence { beta, temperature: 1.0 };
            let (value, gradient) = run(&student, &teacher, divergence);
            let expected = exact(&widen(&student), &widen(&teacher), divergence);
            let expected = if expected.is_nan() {
                exact(&widen(&student[..2]), &widen(&teacher[..2]), divergence)
            } else {
                expected
            };
            assert!(
                (value - expected).abs() <= 2e-6 * expected.max(1.0),
                "{student:?} {divergence:?}: {value} {expected}"
            );
            assert!(gradient.iter().all(|x| x.is_finite()), "{student:?} {divergence:?}: {gradient:?}");
        }
    }
    // A logit that is not a number is a loss that is none.
    let (value, _) = run(&[0.0, f32::NAN], &[0.0, 1.0], Divergence { beta: 0.5, temperature: 1.0 });
    assert!(value.is_nan());
}

#[test]
fn rows_count_by_their_weights() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (student, teacher) = (random(&mut rng, 3 * 40, 4.0), random(&mut rng, 3 * 40, 4.0));
    let divergence = Divergence { beta: 0.3, temperature: 1.3 };
    let mut gradient = student.clone();
    let found = losses_and_gradient(&mut gradient, &teacher, 40, &[0.5, 0.0, 2.0], divergence);
    for (row, weight) in [0.5, 0.0, 2.0].into_iter().enumerate() {
        let range = row * 40..(row + 1) * 40;
        let (value, alone) = run(&student[range.clone()], &teacher[range.clone()], divergence);
        assert_eq!(found[row], weight * value);
        let expected: Vec<f32> = alone.iter().map(|x| x * weight as f32).collect();
        assert!(gradient[range].iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()));
    }
}

fn fixture(test: &str, file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("WORKBENCH_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = folder.join(file);
    if !path.exists() {
        eprintln!("skipped: {test}: {} is missing", path.display());
        return None;
    }
    Some(path)
}

/// `generalized_jsd_loss` of TRL 1.16: the mean over the labels that are not -100, and its gradient.
#[test]
fn losses_and_gradients_are_those_of_trl() {
    let name = "losses_and_gradients_are_those_of_trl";
    let Some(file) = fixture(name, "golden/trl_losses.safetensors") else { return };
    let golden = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let flat = |name: &str| golden[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let labels = golden["labels"].flatten_all().unwrap().to_vec1::<i64>().unwrap();
    let counted = labels.iter().filter(|label| **label != -100).count();
    let weights: Vec<f32> =
        labels.iter().map(|label| if *label == -100 { 0.0 } else { 1.0 / counted as f32 }).collect();
    let (student, teacher) = (flat("student"), flat("teacher"));
    for beta in ["0.0", "0.1", "0.5", "0.9", "1.0"] {
        for temperature in ["1.0", "2.0"] {
            let case = format!("jsd.beta{beta}.temp{temperature}");
            let divergence = Divergence { beta: beta.parse().unwrap(), temperature: temperature.parse().unwrap() };
            let mut gradient = student.clone();
            let found: f64 = losses_and_gradient(&mut gradient, &teacher, 64, &weights, divergence).iter().sum();
            let expected = f64::from(flat(&format!("{case}.loss"))[0]);
            assert!((found - expected).abs() < 1e-6, "{case}: {found} {expected}");
            let theirs = flat(&format!("{case}.grad_student"));
            let worst = gradient.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            eprintln!("{case}: loss {:.1e}, gradient {worst:.1e} from TRL's", (found - expected).abs());
            assert!(worst < 1e-6, "{case}: {worst:e}");
        }
    }
}
