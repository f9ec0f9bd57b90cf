//! The column loop with its updates, and the factorization, in FLOPs beside this machine's matrix product.
//!
//! A weight of `m` rows and `n` columns takes `m n²` FLOPs in the loop and `2/3 n³` in the factorization (f64).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use workbench_gptq::{ActOrder, Factor, round_columns};
use workbench_quant::{Conventions, Grid, Matrix, QuantizationArgs, StorageDtype, Strategy};

fn draw(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// `to[m, n] = a[m, k] b[k, n]`.
fn product(to: &mut [f32], a: &[f32], b: &[f32], (m, n, k): (usize, usize, usize)) {
    assert!(to.len() == m * n && a.len() == m * k && b.len() == k * n);
    let threads = gemm::Parallelism::Rayon(rayon::current_num_threads());
    // SAFETY: the lengths were just checked against the shapes.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            1,
            n as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

fn bench(criterion: &mut Criterion) {
    for (rows, columns) in [(3072, 1024), (1024, 3072)] {
        let weight = draw(rows * columns);
        // Activations whose channels differ in energy and are correlated a little.
        let gram: Vec<f32> = (0..columns * columns)
            .map(|k| (k / columns, k % columns))
            .map(|(i, j)| if i == j { 2.0 + (i % 13) as f32 } else { 1.0 / (1.0 + i.abs_diff(j) as f32) })
            .collect();
        let args = QuantizationArgs {
            num_bits: 4,
            group_size: Some(128),
            strategy: Strategy::Group,
            ..QuantizationArgs::default()
        };
        let grid = Grid::new(&args, StorageDtype::Bf16, Conventions::default()).expect("a plain grid");
        let matrix = Matrix::new(&weight, rows, columns).expect("as long as it should be");
        let parameters = grid.parameters(matrix).expect("finite values");
        let rounder = grid.column_rounder(&parameters, rows, columns).expect("its own parameters");
        let factored =
            || Factor::new(&gram, columns, 1000.0, 0.01, ActOrder::Static, columns).expect("diagonally dominant");
        let factor = factored();

        let mut group = criterion.benchmark_group(format!("gptq/{rows}x{columns}"));
        group.sample_size(10);
        group.throughput(Throughput::Elements((rows * columns * columns) as u64));
        group.bench_function("columns", |b| b.iter(|| black_box(round_columns(&weight, &factor, &rounder))));
        let square = draw(columns * columns);
        let mut out = vec![0.0; rows * columns];
        group.throughput(Throughput::Elements((2 * rows * columns * columns) as u64));
        group.bench_function("matrix product", |b| {
            b.iter(|| product(black_box(&mut out), &weight, &square, (rows, columns, columns)));
        });
        group.throughput(Throughput::Elements((2 * columns * columns * columns / 3) as u64));
        group.bench_function("factor", |b| b.iter(|| black_box(factored())));
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
