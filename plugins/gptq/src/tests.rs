//! The method against llm-compressor, against its definition, and against what must hold for it.

use safetensors::SafeTensors;
use workbench_quant::{Conventions, Grid, Matrix, QuantParams, QuantizationArgs, StorageDtype, Strategy};

use super::{ActOrder, Factor, Rounded, round_columns};

fn grid(num_bits: u8, symmetric: bool, group_size: Option<usize>) -> Grid {
    let strategy = if group_size.is_some() { Strategy::Group } else { Strategy::Channel };
    let args = QuantizationArgs { num_bits, symmetric, group_size, strategy, ..Default::default() };
    Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap()
}

/// Values without structure.
fn draw(count: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The Gram matrix of correlated tokens.
fn gram(tokens: usize, n: usize, seed: u32) -> Vec<f32> {
    let raw = draw(tokens * n, seed);
    let x = |t: usize, j: usize| f64::from(raw[t * n + j]) + 0.8 * f64::from(raw[t * n + j / 3]) * (1 + j % 5) as f64;
    let sum = |i: usize, j: usize| (0..tokens).map(|t| x(t, i) * x(t, j)).sum::<f64>() as f32;
    (0..n * n).map(|k| sum(k / n, k % n)).collect()
}

fn quantize(weight: &[f32], columns: usize, grid: &Grid, factor: &Factor) -> (Rounded, QuantParams, Vec<f32>) {
    let rows = weight.len() / columns;
    let p = grid.parameters(Matrix::new(weight, rows, columns).unwrap()).unwrap();
    let rounded = round_columns(weight, factor, &grid.column_rounder(&p, rows, columns).unwrap());
    let mut values = vec![0.0; weight.len()];
    grid.dequantize(&rounded.codes, rows, columns, &p, &mut values).unwrap();
    (rounded, p, values)
}

/// `tr(E H Eᵀ)` with `λ` on the diagonal of H.
fn energy(weight: &[f32], values: &[f32], hessian: &[f64], lambda: f64, n: usize) -> f64 {
    let row = |(w, q): (&[f32], &[f32])| -> f64 {
        let e: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
        let product = |i: usize| (0..n).map(|j| hessian[i * n + j] * e[j]).sum::<f64>() + lambda * e[i];
        (0..n).map(|i| e[i] * product(i)).sum()
    };
    weight.chunks_exact(n).zip(values.chunks_exact(n)).map(row).sum()
}

fn hessian(gram: &[f32], tokens: usize) -> Vec<f64> {
    gram.iter().map(|g| f64::from(*g) * 2.0 / tokens as f64).collect()
}

fn mean_of_diagonal(hessian: &[f64], n: usize) -> f64 {
    (0..n).map(|i| hessian[i * (n + 1)]).sum::<f64>() / n as f64
}

/// Codes of llm-compressor 0.12 with compressed-tensors 0.19, 48 x 256. Its arithmetic is f32, so a value that lies between two
/// codes may fall to the other side, and all that comes after it in its row with it: a few rows may differ (8 in groups of 32), and the
/// error may be less, but not more.
#[test]
fn codes_are_those_of_llm_compressor() {
    let bytes = include_bytes!("llmcompressor.safetensors");
    let golden = SafeTensors::deserialize(bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let view = golden.tensor(name).unwrap();
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (weight, gram) = (floats("weight"), floats("gram"));
    let (n, tokens) = (256, 512);
    let cases = [
        ("w4_sym_g128.actorder_none", grid(4, true, Some(128)), ActOrder::None),
        ("w4_sym_g128.actorder_static", grid(4, true, Some(128)), ActOrder::Static),
        ("w4_asym_g128.actorder_none", grid(4, false, Some(128)), ActOrder::None),
        ("w2_asym_g64.actorder_static", grid(2, false, Some(64)), ActOrder::Static),
        ("w3_sym_g128.actorder_none", grid(3, true, Some(128)), ActOrder::None),
        ("w4_sym_g32.actorder_none", grid(4, true, Some(32)), ActOrder::None),
        ("w8_sym_channel.actorder_none", grid(8, true, None), ActOrder::None),
    ];
    for (name, grid, order) in cases {
        let factor = Factor::new(&gram, n, tokens as f64, 0.01, order, n).unwrap();
        let (rounded, _, values) = quantize(&weight, n, &grid, &factor);
        let expected: Vec<i8> =
            golden.tensor(&format!("{name}.codes")).unwrap().data().iter().map(|b| *b as i8).collect();
        // The weights of channels that no token excited are 0 there, and rounded to nearest here.
        let silent = factor.silent();
        let excited = |row: &[i8]| -> Vec<i8> {
            row.iter().enumerate().filter(|(column, _)| !silent.contains(column)).map(|(_, code)| *code).collect()
        };
        let pairs = rounded.codes.chunks_exact(n).zip(expected.chunks_exact(n));
        let differing = pairs.filter(|(a, b)| excited(a) != excited(b)).count();
        assert!(differing <= 12, "{name}: {differing} rows of 48 differ");
        // |(W - Q) Xᵀ|², of GPTQ and of round-to-nearest.
        let expected = floats(&format!("{name}.error"));
        let whole: Vec<f64> = gram.iter().map(|g| f64::from(*g)).collect();
        let found = energy(&weight, &values, &whole, 0.0, n);
        let share = found / f64::from(expected[0]);
        assert!((0.9..1.01).contains(&share), "{name}: {found} against {expected:?}");
        assert!(found < f64::from(expected[1]), "{name}: {found} is worse than round-to-nearest");
    }
}

/// The definition: at every step the inverse of the Hessian of what is left, computed anew (Frantar et al., equation 2; Hassibi and
/// Stork's optimal brain surgeon).
fn surgeon(weight: &[f32], hessian: &[f64], lambda: f64, n: usize, grid: &Grid, p: &QuantParams) -> Vec<i8> {
    let rows = weight.len() / n;
    let rounder = grid.column_rounder(p, rows, n).unwrap();
    let mut w: Vec<f64> = weight.iter().map(|v| f64::from(*v)).collect();
    let mut codes = vec![0; weight.len()];
    for c in 0..n {
        let left: Vec<usize> = (c..n).collect();
        let at = |i: usize, j: usize| hessian[i * n + j] + if i == j { lambda } else { 0.0 };
        let row = inverse_row(&left.iter().map(|i| left.iter().map(|j| at(*i, *j)).collect()).collect::<Vec<_>>());
        for r in 0..rows {
            let (mut code, mut value) = ([0], [0.0]);
            rounder.round(c, r, &[w[r * n + c] as f32], &mut code, &mut value);
            codes[r * n + c] = code[0];
            let error = (w[r * n + c] - f64::from(value[0])) / row[0];
            for (j, inverse) in left.iter().zip(&row) {
                w[r * n + j] -= error * inverse;
            }
        }
    }
    codes
}

/// The first row of the inverse of a symmetric positive definite matrix, by elimination.
fn inverse_row(matrix: &[Vec<f64>]) -> Vec<f64> {
    let n = matrix.len();
    let mut rows: Vec<Vec<f64>> = matrix.to_vec();
    let mut right: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i == 0))).collect();
    for i in 0..n {
        for k in i + 1..n {
            let factor = rows[k][i] / rows[i][i];
            let pivot = rows[i].clone();
            rows[k].iter_mut().zip(&pivot).skip(i).for_each(|(value, pivot)| *value -= factor * pivot);
            right[k] -= factor * right[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| rows[i][j] * right[j]).sum();
        right[i] = (right[i] - known) / rows[i][i];
    }
    right
}

#[test]
fn the_loop_is_the_optimal_brain_surgeon() {
    let (n, tokens) = (40, 100);
    let gram = gram(tokens, n, 5);
    let weight = draw(9 * n, 11);
    let hessian = hessian(&gram, tokens);
    let lambda = 0.01 * mean_of_diagonal(&hessian, n);
    let factor = Factor::new(&gram, n, tokens as f64, 0.01, ActOrder::None, n).unwrap();
    for grid in [grid(4, true, Some(8)), grid(3, false, Some(20)), grid(2, true, None)] {
        let (rounded, p, _) = quantize(&weight, n, &grid, &factor);
        assert_eq!(rounded.codes, surgeon(&weight, &hessian, lambda, n, &grid, &p));
    }
}

/// 2 loss = tr(E (H + λI) Eᵀ).
#[test]
fn the_loss_is_the_dampened_error_of_the_output() {
    let (n, tokens) = (200, 500);
    let gram = gram(tokens, n, 3);
    let hessian = hessian(&gram, tokens);
    let lambda = 0.02 * mean_of_diagonal(&hessian, n);
    // More rows than a tile has, more columns than a block has, neither a multiple.
    let weight = draw(70 * n, 17);
    for order in [ActOrder::None, ActOrder::Static, ActOrder::GroupAware] {
        let factor = Factor::new(&gram, n, tokens as f64, 0.02, order, 50).unwrap();
        for grid in [grid(4, true, Some(50)), grid(2, false, Some(100)), grid(8, true, None)] {
            let (rounded, _, values) = quantize(&weight, n, &grid, &factor);
            let expected = energy(&weight, &values, &hessian, lambda, n) / 2.0;
            assert!((rounded.loss / expected - 1.0).abs() < 1e-3, "{order:?}: {} against {expected}", rounded.loss);
        }
    }
}

#[test]
fn on_average_it_loses_less_than_rounding() {
    let (n, tokens) = (64, 200);
    let mut shares = Vec::new();
    for seed in 0..12 {
        let gram = gram(tokens, n, 100 + seed);
        let weight = draw(16 * n, 200 + seed);
        let hessian = hessian(&gram, tokens);
        for (order, bits) in [(ActOrder::None, 2), (ActOrder::Static, 3), (ActOrder::GroupAware, 4)] {
            let grid = grid(bits, false, Some(16));
            let factor = Factor::new(&gram, n, tokens as f64, 0.01, order, 16).unwrap();
            let (_, p, values) = quantize(&weight, n, &grid, &factor);
            let codes = grid.quantize(Matrix::new(&weight, 16, n).unwrap(), &p).unwrap();
            let mut nearest = vec![0.0; weight.len()];
            grid.dequantize(&codes, 16, n, &p, &mut nearest).unwrap();
            shares.push(energy(&weight, &values, &hessian, 0.0, n) / energy(&weight, &nearest, &hessian, 0.0, n));
        }
    }
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(mean < 0.8, "{mean}");
}

#[test]
fn without_correlations_it_is_round_to_nearest() {
    let n = 48;
    let mut gram = vec![0.0; n * n];
    (0..n).for_each(|i| gram[i * (n + 1)] = 1.0 + (i % 7) as f32);
    let weight = draw(5 * n, 23);
    let grid = grid(4, false, Some(16));
    let factor = Factor::new(&gram, n, 10.0, 0.01, ActOrder::Static, 16).unwrap();
    let (rounded, p, _) = quantize(&weight, n, &grid, &factor);
    assert_eq!(rounded.codes, grid.quantize(Matrix::new(&weight, 5, n).unwrap(), &p).unwrap());
}

/// Against the definition, in which a silent channel has the dampening alone; and against plain rounding, on which its weights
/// must lie whatever the bits, the order and the neighbours.
#[test]
fn weights_of_silent_channels_are_rounded_to_nearest() {
    let (n, tokens, silent) = (40, 100, [0, 17, 18, 39]);
    let mut gram = gram(tokens, n, 5);
    for channel in silent {
        (0..n).for_each(|k| (gram[channel * n + k], gram[k * n + channel]) = (0.0, 0.0));
    }
    let weight = draw(9 * n, 11);
    let hessian = hessian(&gram, tokens);
    let lambda = 0.01 * mean_of_diagonal(&hessian, n) * n as f64 / (n - silent.len()) as f64;
    for order in [ActOrder::None, ActOrder::Static, ActOrder::GroupAware] {
        let factor = Factor::new(&gram, n, tokens as f64, 0.01, order, 8).unwrap();
        assert_eq!(factor.silent(), silent);
        for grid in [grid(4, true, Some(8)), grid(3, false, Some(20)), grid(8, true, None)] {
            let (rounded, p, values) = quantize(&weight, n, &grid, &factor);
            let nearest = grid.quantize(Matrix::new(&weight, 9, n).unwrap(), &p).unwrap();
            for (row, nearest) in rounded.codes.chunks(n).zip(nearest.chunks(n)) {
                assert_eq!(silent.map(|c| row[c]), silent.map(|c| nearest[c]), "{order:?}");
            }
            if order == ActOrder::None {
                assert_eq!(rounded.codes, surgeon(&weight, &hessian, lambda, n, &grid, &p));
            }
            // Their errors meet no input: the loss is that of the others.
            let alive: Vec<f32> =
                (0..9 * n).map(|i| if silent.contains(&(i % n)) { values[i] } else { weight[i] }).collect();
            let expected = energy(&alive, &values, &hessian, lambda, n) / 2.0;
            assert!((rounded.loss / expected - 1.0).abs() < 1e-3, "{order:?}: {} against {expected}", rounded.loss);
        }
    }
}

/// A channel that one token excited a little is no silent one, and dampening keeps its weights where they were, to a step or so.
#[test]
fn weights_of_hardly_excited_channels_stay() {
    let (n, tokens) = (40, 100);
    let mut gram = gram(tokens, n, 5);
    for scale in [1e-3_f32, 1e-6, 1e-12] {
        (0..n).for_each(|k| {
            gram[7 * n + k] *= scale;
            gram[k * n + 7] *= scale;
        });
        let weight = draw(9 * n, 11);
        let factor = Factor::new(&gram, n, tokens as f64, 0.01, ActOrder::Static, n).unwrap();
        assert!(factor.silent().is_empty());
        let grid = grid(8, true, None);
        let (_, p, values) = quantize(&weight, n, &grid, &factor);
        for row in 0..9 {
            let moved = (values[row * n + 7] - weight[row * n + 7]).abs() / p.scales[row];
            assert!(moved <= 0.6, "{scale}: by {moved} steps");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_codes() {
    let (n, tokens) = (160, 300);
    let gram = gram(tokens, n, 9);
    let weight = draw(150 * n, 29);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let factor = Factor::new(&gram, n, tokens as f64, 0.01, ActOrder::Static, n).unwrap();
            let (rounded, ..) = quantize(&weight, n, &grid(3, true, Some(32)), &factor);
            (rounded.codes, rounded.loss.to_bits())
        })
    };
    assert_eq!(with(1), with(3));
}
