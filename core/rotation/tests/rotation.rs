//! Rotations against matrices written out, against numbers of other packages, and against what makes them rotations.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests may fail at any line, and say what they skip")]

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use workbench_rotation::{
    Hadamard, Rotation, RotationError, Square, cayley_step, normal, orthogonal_factor, random_orthogonal, transpose,
};

fn noise(count: usize, seed: u64) -> Vec<f64> {
    normal(count, seed, 0)
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// x M of rows x, the slow way.
fn times(rows: &[f64], matrix: &[f64], n: usize) -> Vec<f64> {
    let entry = |row: &[f64], j: usize| row.iter().enumerate().map(|(i, x)| x * matrix[i * n + j]).sum::<f64>();
    rows.chunks(n).flat_map(|row| (0..n).map(move |j| (row, j))).map(|(row, j)| entry(row, j)).collect()
}

/// Sizes of every kind: powers of two, one base matrix alone, bases of Paley's two constructions and Williamson's with powers.
const SIZES: [usize; 18] = [1, 2, 4, 8, 16, 64, 128, 12, 20, 28, 36, 96, 288, 576, 76, 152, 344, 768];

#[test]
fn fast_products_are_products() {
    for n in SIZES {
        let hadamard = Hadamard::new(n).unwrap();
        let entry = |i: usize, j: usize| if hadamard.is_negative(i, j) { -1.0 } else { 1.0 };
        let root = (n as f64).sqrt();
        // y = x Hᵀ / √n: the matrix of the rotation is the transpose.
        let matrix: Vec<f64> = (0..n * n).map(|at| entry(at % n, at / n) / root).collect();
        let x = noise(3 * n, n as u64);
        let expected = times(&x, &matrix, n);
        let mut fast = x.clone();
        hadamard.rotate(&mut fast);
        assert!(largest_difference(&fast, &expected) < 1e-12, "size {n}");
        hadamard.rotate_back(&mut fast);
        assert!(largest_difference(&fast, &x) < 1e-12, "size {n} and back");

        let mut single: Vec<f32> = x.iter().map(|x| *x as f32).collect();
        hadamard.rotate(&mut single);
        let single: Vec<f64> = single.iter().map(|x| f64::from(*x)).collect();
        assert!(largest_difference(&single, &expected) < 3e-6, "size {n} in f32");
    }
}

#[test]
fn every_order_is_orthogonal_through_its_product() {
    for order in [12, 20, 28, 36, 40, 44, 52, 60, 76, 108, 140, 152, 156, 172, 428, 924] {
        let matrix = Rotation::hadamard(order).unwrap().matrix().unwrap();
        assert!(matrix.deviation() < 1e-13, "order {order}: {:e}", matrix.deviation());
        let size = (order as f64).sqrt();
        assert!(
            matrix.values().iter().all(|v| (v.abs() * size - 1.0).abs() < 1e-13),
            "order {order}: entries are ±1 / √n"
        );
    }
}

#[test]
fn the_output_side_is_the_transpose_of_the_input_side() {
    for rotation in [
        Rotation::hadamard(24).unwrap(),
        Rotation::random_hadamard(24, 5, 1).unwrap(),
        Rotation::random_orthogonal(24, 5, 2).unwrap(),
    ] {
        let matrix = rotation.matrix().unwrap();
        // Two blocks of rows, five columns.
        let weight = noise(48 * 5, 9);
        let mut turned = weight.clone();
        rotation.columns(&mut turned, 5).unwrap();
        let expected = transpose(&times(&transpose(&weight, 5), matrix.values(), 24), 48);
        assert!(largest_difference(&turned, &expected) < 1e-12);

        // (x R) (W R)ᵀ = x Wᵀ: what goes into a linear may be rotated together with its weight.
        let (mut x, mut w) = (noise(24, 1), noise(24 * 3, 2));
        let dot = |x: &[f64], w: &[f64]| -> Vec<f64> {
            w.chunks(24).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
        };
        let before = dot(&x, &w);
        rotation.rows(&mut x).unwrap();
        rotation.rows(&mut w).unwrap();
        assert!(largest_difference(&before, &dot(&x, &w)) < 1e-12);
    }
}

#[test]
fn random_rotations_follow_from_seed_and_stream_alone() {
    let drawn = |seed, stream| {
        [Rotation::random_hadamard(32, seed, stream).unwrap(), Rotation::random_orthogonal(32, seed, stream).unwrap()]
            .map(|r| r.matrix().unwrap())
    };
    let first = drawn(3, 0);
    assert_eq!(first, drawn(3, 0));
    for other in [drawn(4, 0), drawn(3, 1)] {
        assert!(first.iter().zip(&other).all(|(a, b)| largest_difference(a.values(), b.values()) > 0.1));
    }
    assert!(first.iter().all(|matrix| matrix.deviation() < 1e-12));
}

#[test]
fn random_orthogonal_matrices_are_spread_evenly() {
    // An entry of a Haar matrix has mean zero; without the sign fix the first column's would be negative.
    let n = 16;
    let firsts: f64 =
        (0..400).map(|seed| Rotation::random_orthogonal(n, seed, 0).unwrap().matrix().unwrap().values()[0]).sum();
    // The sum of 400 numbers of variance 1/16 has a standard deviation of 5.
    assert!(firsts.abs() < 20.0, "{firsts}");
}

#[test]
fn matrices_that_are_no_rotations_are_refused() {
    let mut values = Square::identity(4).values().to_vec();
    values[1] = 1e-3;
    let matrix = Square::new(4, values).unwrap();
    assert!(
        matches!(Rotation::dense(matrix.clone()), Err(RotationError::NotOrthogonal { deviation }) if deviation > 9e-4)
    );
    let repaired = orthogonal_factor(&matrix).unwrap();
    assert!(repaired.deviation() < 1e-14 && largest_difference(repaired.values(), matrix.values()) < 2e-3);
    assert!(orthogonal_factor(&Square::new(2, vec![1.0, 1.0, 1.0, 1.0]).unwrap()).is_err());
    assert!(Square::new(2, vec![f64::NAN; 4]).unwrap().deviation().is_nan());
    assert!(Square::new(2, vec![1.0; 3]).is_err());
    let mut rows = vec![0.0; 30];
    let error = Rotation::hadamard(16).unwrap().rows(&mut rows).unwrap_err();
    assert_eq!(error, RotationError::DoesNotDivide { size: 16, length: 30 });
}

#[test]
fn threads_do_not_change_a_bit() {
    let x = noise(40 * 768, 7);
    let rotated = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        [Rotation::random_hadamard(768, 1, 0).unwrap(), Rotation::random_orthogonal(96, 1, 0).unwrap()].map(
            |rotation| {
                let mut x = x.clone();
                pool.install(|| rotation.rows(&mut x)).unwrap();
                x.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            },
        )
    };
    assert!(rotated(1) == rotated(3));
}

#[test]
fn products_add_up() {
    let (a, b) = (noise(70 * 9, 1), noise(70 * 9, 2));
    let mut sum = Square::identity(9);
    sum.add_product(&a, &b).unwrap();
    let entry = |i: usize, j: usize| (0..70).map(|row| a[row * 9 + i] * b[row * 9 + j]).sum::<f64>();
    let expected: Vec<f64> =
        (0..81).map(|at| entry(at / 9, at % 9) + if at / 9 == at % 9 { 1.0 } else { 0.0 }).collect();
    assert!(largest_difference(sum.values(), &expected) < 1e-12);
    assert!(sum.add_product(&a, &b[9..]).is_err());
}

/// L = Σ |x R| over rows x: small when R lines a few directions up with axes.
fn spread(x: &[f64], rotation: &Square) -> f64 {
    times(x, rotation.values(), rotation.size()).iter().map(|y| y.abs()).sum()
}

/// The gradient of [`spread`] by X at R (I + X): the rows y = x R give Σ yᵀ sign(y).
fn gradient(x: &[f64], rotation: &Square) -> Square {
    let y = times(x, rotation.values(), rotation.size());
    let signs: Vec<f64> = y.iter().map(|y| y.signum()).collect();
    let mut z = Square::new(rotation.size(), vec![0.0; rotation.values().len()]).unwrap();
    z.add_product(&y, &signs).unwrap();
    z
}

#[test]
fn a_small_step_falls_as_the_gradient_says() {
    let (n, x) = (12, noise(12 * 40, 3));
    let start = random_orthogonal(n, 1, 0).unwrap();
    let z = gradient(&x, &start);
    let mut rotation = start.clone();
    let step = cayley_step(&mut rotation, &z, 1e-7).unwrap();
    assert_eq!(step.step_size, 1e-7);
    // dL = <Z, X> with X = -α W: -α |W|² for W = (Z - Zᵀ) / 2.
    let expected = -step.step_size * step.gradient_norm.powi(2);
    let found = spread(&x, &rotation) - spread(&x, &start);
    assert!((found / expected - 1.0).abs() < 1e-4, "{found:e}, expected {expected:e}");
}

#[test]
fn steps_stay_rotations_and_go_down() {
    let (n, x) = (32, noise(32 * 50, 4));
    let mut rotation = random_orthogonal(n, 2, 0).unwrap();
    let start = spread(&x, &rotation);
    for _ in 0..200 {
        let z = gradient(&x, &rotation);
        let step = cayley_step(&mut rotation, &z, 1.5).unwrap();
        assert!(step.deviation < 1e-12 && step.step_size < 1.5, "{step:?}");
    }
    assert!(rotation.deviation() < 1e-12);
    assert!(spread(&x, &rotation) < 0.97 * start, "{} from {start}", spread(&x, &rotation));
    let broken = Square::new(n, vec![f64::NAN; n * n]).unwrap();
    assert!(cayley_step(&mut rotation, &broken, 1.5).is_err());
}

struct Golden(Vec<u8>);

impl Golden {
    fn get(&self, name: &str) -> (usize, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let columns = *view.shape().last().unwrap();
        (columns, view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect())
    }
}

fn golden() -> Golden {
    Golden(std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hadamard.safetensors")).unwrap())
}

fn agrees_with_quarot(golden: &Golden, package: &str, sizes: &[usize]) {
    for n in sizes {
        let (columns, mut x) = golden.get(&format!("{package}.{n}.x"));
        assert_eq!(columns, *n);
        Hadamard::new(*n).unwrap().rotate(&mut x);
        let (_, expected) = golden.get(&format!("{package}.{n}.matmul_hadU"));
        // The packages take the root of n in f32.
        assert!(largest_difference(&x, &expected) < 4e-7, "{package}, size {n}");
    }
}

#[test]
fn products_are_those_of_quarot() {
    agrees_with_quarot(&golden(), "quarot", &[32, 96, 384]);
}

#[test]
fn products_are_those_of_quarot_and_spinquant_at_all_sizes() {
    let root = std::env::var_os("WORKBENCH_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = root.join("golden/hadamard_quarot_spinquant.safetensors");
    let Ok(bytes) = std::fs::read(&path) else {
        eprintln!("skipped: products_are_those_of_quarot_and_spinquant_at_all_sizes: {} is not there", path.display());
        return;
    };
    for package in ["quarot", "spinquant"] {
        agrees_with_quarot(&Golden(bytes.clone()), package, &[32, 96, 128, 384, 1024, 3072]);
    }
}

#[test]
fn matrices_are_those_of_compressed_tensors() {
    let golden = golden();
    for n in [8, 32] {
        let (_, expected) = golden.get(&format!("compressed_tensors.det_{n}"));
        let scaled: Vec<f64> = expected.iter().map(|v| v / (n as f64).sqrt()).collect();
        assert!(largest_difference(Rotation::hadamard(n).unwrap().matrix().unwrap().values(), &scaled) < 1e-14);
    }
    // Its random matrices are diag(s) Hᵀ with the same H of order 12; the signs are torch's. The diagonal of H is positive.
    let (n, expected) = golden.get("compressed_tensors.rand_12");
    let negative = expected.chunks(n).enumerate().map(|(i, row)| row[i] < 0.0).collect();
    let rotation = Rotation::Hadamard { hadamard: Hadamard::new(n).unwrap(), negative: Some(negative) };
    let scaled: Vec<f64> = expected.iter().map(|v| v / (n as f64).sqrt()).collect();
    assert!(largest_difference(rotation.matrix().unwrap().values(), &scaled) < 1e-14);
}
