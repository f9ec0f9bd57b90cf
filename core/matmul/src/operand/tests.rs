use super::*;
use crate::{Kernel, rounded};

const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];

fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| draw()).collect()
}

fn kernels(precision: Precision) -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(move |kernel| kernel.available() && kernel.multiplies(precision))
}

/// What is multiplied, in f64.
fn operand(x: &[f32], precision: Precision) -> Vec<f64> {
    let x = if precision == Precision::Bf16 { rounded(x) } else { x.to_vec() };
    x.into_iter().map(f64::from).collect()
}

/// Higham 2002, section 3.1: |error| <= k u / (1 - k u) Σ|a||b| for sums of k products in any order.
fn check(found: f32, terms: impl Iterator<Item = f64> + Clone, length: usize, what: &str) {
    let sum: f64 = terms.clone().sum();
    let size: f64 = terms.map(f64::abs).sum();
    let unit = f64::from(f32::EPSILON) / 2.0 * (length + 2) as f64;
    let error = (f64::from(found) - sum).abs();
    assert!(error <= unit / (1.0 - unit) * size, "{what}: {found} for {sum}: {error}");
}

#[test]
fn a_linear_is_the_sum_of_its_products() {
    let shapes = [(1, 1, 1), (7, 5, 3), (12, 64, 32), (13, 33, 45), (200, 1300, 70), (40, 96, 300)];
    for (precision, (rows, inputs, outputs)) in BOTH.into_iter().flat_map(|o| shapes.map(|shape| (o, shape))) {
        let (x, w, onto) = (values(rows * inputs, 1), values(outputs * inputs, 2), values(rows * outputs, 3));
        let weight = Weight::new(&w, outputs, inputs, precision);
        let (x64, w64) = (operand(&x, precision), operand(&w, precision));
        for kernel in kernels(precision) {
            let input = Input::with_kernel(&x, rows, inputs, precision, kernel);
            for onto in [None, Some(onto.as_slice())] {
                for (index, found) in weight.product(&input, onto).into_iter().enumerate() {
                    let (row, output) = (index / outputs, index % outputs);
                    let pairs = x64[row * inputs..][..inputs].iter().zip(&w64[output * inputs..][..inputs]);
                    let first = onto.map_or(0.0, |onto| f64::from(onto[index]));
                    check(found, pairs.map(|(a, b)| a * b).chain([first]), inputs + 1, kernel.name());
                }
            }
        }
    }
}

/// A stored weight is multiplied with inputs as they are in f32, and with rounded ones in bfloat16.
#[test]
fn a_stored_weight_is_multiplied_as_it_is() {
    for (rows, inputs, outputs) in [(1, 1, 1), (13, 33, 45), (40, 1_100, 70)] {
        let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
        let bytes: Vec<[u8; 2]> = w.iter().map(|value| crate::narrow(*value).to_le_bytes()).collect();
        let w64 = operand(&w, Precision::Bf16);
        for precision in BOTH {
            let (weight, x64) = (Weight::stored(&bytes, outputs, inputs, precision), operand(&x, precision));
            for kernel in kernels(precision) {
                let input = Input::with_kernel(&x, rows, inputs, precision, kernel);
                for (index, found) in weight.product(&input, None).into_iter().enumerate() {
                    let (row, output) = (index / outputs, index % outputs);
                    let pairs = x64[row * inputs..][..inputs].iter().zip(&w64[output * inputs..][..inputs]);
                    check(found, pairs.map(|(a, b)| a * b), inputs, kernel.name());
                }
            }
        }
    }
}

#[test]
fn the_gram_matrix_is_the_sum_of_its_products() {
    let shapes = [(1, 1), (7, 5), (64, 96), (121, 131), (1300, 70)];
    for (precision, (tokens, n)) in BOTH.into_iter().flat_map(|o| shapes.map(|shape| (o, shape))) {
        let x = values(tokens * n, 3);
        let x64 = operand(&x, precision);
        for kernel in kernels(precision) {
            let mut found = vec![1.0; n * n];
            add_gram_with_kernel(&mut found, &x, n, precision, kernel);
            for (i, j) in (0..n).flat_map(|i| (i..n).map(move |j| (i, j))) {
                let terms = x64.chunks_exact(n).map(|row| row[i] * row[j]).chain([1.0]);
                check(found[i * n + j], terms, tokens + 1, kernel.name());
            }
        }
    }
}

/// Every kernel but AMX adds the same products in the same order, and a fused or an exact product rounds once.
#[test]
fn kernels_give_the_same_bits() {
    let (rows, inputs, outputs) = (50, 1_300, 70);
    let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
    for precision in BOTH {
        let weight = Weight::new(&w, outputs, inputs, precision);
        let same = kernels(precision).filter(|kernel| match precision {
            // Without FMA, products in f32 are rounded.
            Precision::F32 => *kernel != Kernel::Portable,
            Precision::Bf16 => *kernel != Kernel::Amx,
        });
        let found: Vec<(Kernel, Vec<f32>)> = same
            .map(|kernel| (kernel, weight.product(&Input::with_kernel(&x, rows, inputs, precision, kernel), None)))
            .collect();
        for (kernel, values) in &found {
            assert!(*values == found[0].1, "{kernel} differs from {}", found[0].0);
        }
    }
}

/// The order in which AMX adds, of Intel's manual: within a step of 16 pairs, the first products and the second ones apart.
#[test]
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn amx_adds_in_the_order_of_its_manual() {
    if !Kernel::Amx.available() {
        eprintln!("skipped: amx_adds_in_the_order_of_its_manual (no AMX here)");
        return;
    }
    let (rows, inputs, outputs) = (33, 200, 35);
    let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
    let weight = Weight::new(&w, outputs, inputs, Precision::Bf16);
    let found = weight.product(&Input::with_kernel(&x, rows, inputs, Precision::Bf16, Kernel::Amx), None);
    let (x, w) = (rounded(&x), rounded(&w));
    for (index, found) in found.into_iter().enumerate() {
        let (row, output) = (index / outputs, index % outputs);
        let steps = x[row * inputs..][..inputs].chunks(32).zip(w[output * inputs..][..inputs].chunks(32));
        let mut sum = 0.0_f32;
        for (x, w) in steps {
            let mut parts = [0.0_f32; 2];
            x.iter().zip(w).enumerate().for_each(|(k, (x, w))| parts[k % 2] += x * w);
            sum += parts[0] + parts[1];
        }
        assert_eq!(found, sum, "{row} {output}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (x, w) = (values(300 * 200, 1), values(150 * 200, 2));
    for precision in BOTH {
        for kernel in kernels(precision) {
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut gram = vec![0.0; 200 * 200];
                    add_gram_with_kernel(&mut gram, &x, 200, precision, kernel);
                    let upper: Vec<f32> = (0..200).flat_map(|i| gram[i * 200 + i..(i + 1) * 200].to_vec()).collect();
                    let weight = Weight::new(&w, 150, 200, precision);
                    let few = Input::with_kernel(&x[..3 * 200], 3, 200, precision, kernel);
                    let all = Input::with_kernel(&x, 300, 200, precision, kernel);
                    (weight.product(&all, None), weight.product(&few, None), upper)
                })
            };
            let one = with(1);
            assert_eq!(one, with(3));
            assert_eq!(one, with(7));
            // A row's bits do not depend on the rows beside it.
            assert_eq!(one.0[..3 * 150], one.1);
        }
    }
}

/// A value that is not finite must reach the result, where calibration looks for it.
#[test]
fn what_is_not_finite_stays_so() {
    for precision in BOTH {
        for (kernel, bad) in kernels(precision).flat_map(|k| [f32::NAN, f32::INFINITY].map(|bad| (k, bad))) {
            let mut x = values(3 * 5, 5);
            x[7] = bad;
            let mut gram = vec![0.0; 25];
            add_gram_with_kernel(&mut gram, &x, 5, precision, kernel);
            assert!(!gram[2 * 6].is_finite());
            let weight = Weight::new(&values(10, 6), 2, 5, precision);
            assert!(!weight.product(&Input::with_kernel(&x, 3, 5, precision, kernel), None)[2].is_finite());
        }
    }
}
