#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use super::*;

fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| draw()).collect()
}

fn rounded(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(half::bf16::from_f32(*v).to_f32())).collect()
}

/// Products of bfloat16 are exact in f32, so that only the sums are rounded: within Higham 2002, section 3.1,
/// |error| <= k u / (1 - k u) Σ|a||b|. The instruction adds the two products of a pair one after the other, each rounded.
fn check(found: f32, terms: impl Iterator<Item = f64> + Clone, length: usize) {
    let sum: f64 = terms.clone().sum();
    let size: f64 = terms.map(f64::abs).sum();
    let unit = f64::from(f32::EPSILON) / 2.0 * (length + 2) as f64;
    let error = (f64::from(found) - sum).abs();
    assert!(error <= unit / (1.0 - unit) * size, "{found} for {sum}: {error}");
}

#[test]
fn a_linear_is_the_sum_of_its_products() {
    for (rows, inputs, outputs) in [(1, 1, 1), (7, 5, 3), (12, 64, 32), (13, 33, 45), (200, 1300, 70)] {
        let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
        let here = Weight::new(&w, outputs, inputs);
        let anywhere = Weight { factor: Factor::Rounded(super::rounded(&w)), shape: [outputs, inputs] };
        let x_here = Input::new(&x, rows, inputs);
        let x_anywhere = Input { factor: Factor::Rounded(super::rounded(&x)), shape: [rows, inputs] };
        let onto = values(rows * outputs, 3);
        let (x, w) = (rounded(&x), rounded(&w));
        for (weight, input) in [(here, x_here), (anywhere, x_anywhere)] {
            for onto in [None, Some(onto.as_slice())] {
                for (index, found) in weight.product(&input, onto).into_iter().enumerate() {
                    let (row, output) = (index / outputs, index % outputs);
                    let pairs = x[row * inputs..][..inputs].iter().zip(&w[output * inputs..][..inputs]);
                    let first = onto.map_or(0.0, |onto| f64::from(onto[index]));
                    check(found, pairs.map(|(a, b)| a * b).chain([first]), inputs + 1);
                }
            }
        }
    }
}

#[test]
fn the_gram_matrix_is_the_sum_of_its_products() {
    if !supported() {
        eprintln!("skipped: the_gram_matrix_is_the_sum_of_its_products (no AVX512_BF16)");
        return;
    }
    for (tokens, n) in [(1, 1), (7, 5), (64, 96), (121, 131), (1300, 70)] {
        let x = values(tokens * n, 3);
        let mut found = vec![1.0; n * n];
        add_gram(&mut found, &x, n);
        let x = rounded(&x);
        for (i, j) in (0..n).flat_map(|i| (i..n).map(move |j| (i, j))) {
            let terms = x.chunks_exact(n).map(|row| row[i] * row[j]).chain([1.0]);
            check(found[i * n + j], terms, tokens + 1);
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (x, w) = (values(300 * 200, 1), values(150 * 200, 2));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut gram = vec![0.0; 200 * 200];
            if supported() {
                add_gram(&mut gram, &x, 200);
            }
            (Weight::new(&w, 150, 200).product(&Input::new(&x, 300, 200), None), gram)
        })
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn rounding_is_that_of_half() {
    let edge = [0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, f32::NEG_INFINITY, 1.003_906_2];
    for value in edge.into_iter().chain(values(1000, 4)) {
        assert_eq!(narrow(value), half::bf16::from_f32(value).to_bits(), "{value}");
    }
    for bits in [0x7fff_ffff, 0xffff_ffff, 0x7f80_0001] {
        assert!(pack::widen(narrow(f32::from_bits(bits))).is_nan());
    }
}

/// A value that is not finite must reach the result, where calibration looks for it.
#[test]
fn what_is_not_finite_stays_so() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = values(3 * 5, 5);
        x[7] = bad;
        if supported() {
            let mut gram = vec![0.0; 25];
            add_gram(&mut gram, &x, 5);
            assert!(!gram[2 * 6].is_finite());
        }
        assert!(!Weight::new(&values(10, 6), 2, 5).product(&Input::new(&x, 3, 5), None)[2].is_finite());
    }
}
