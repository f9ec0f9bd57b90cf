//! How near rounding comes to the speed at which memory can be copied, on one thread and on all.
//!
//! The figures are gigabytes of f32 input per second. A plain copy of the same bytes stands beside them, and the last
//! lines give the share of it that each kernel reaches.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail at any line")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use rayon::prelude::*;
use workbench_quant::{Conventions, Grid, Matrix, StorageDtype};

/// A weight matrix of a large model, far beyond any cache, and one that fits the second cache: the difference is memory.
const SHAPES: [(&str, usize, usize); 2] = [("memory", 4096, 11008), ("cache", 64, 2048)];

/// A kernel by name: it reads the first buffer and may write the second.
type Kernel<'a> = (&'static str, Box<dyn FnMut() + Send + 'a>);

fn grid(json: &str) -> Grid {
    Grid::new(&serde_json::from_str(json).unwrap(), StorageDtype::Bf16, Conventions::default()).unwrap()
}

fn kernels<'a>(columns: usize, x: &'a [f32], scratch: &'a mut [f32], scratch2: &'a mut [f32]) -> Vec<Kernel<'a>> {
    let w4 = grid(r#"{"num_bits": 4, "group_size": 128}"#);
    let int8 = grid(r#"{"num_bits": 8, "strategy": "token", "dynamic": true}"#);
    let (rows, piece) = (x.len() / columns, columns * 8);
    let mut codes = vec![0i8; x.len()];
    let search = grid(r#"{"num_bits": 4, "group_size": 128, "observer": "mse"}"#);
    let mut kernels: Vec<Kernel<'_>> = vec![
        (
            "copy",
            Box::new(move || {
                scratch.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(out, x)| out.copy_from_slice(x));
                black_box(&*scratch);
            }),
        ),
        (
            "rtn_w4_g128",
            Box::new(move || {
                black_box(w4.round_to_nearest_into(Matrix::new(x, rows, columns).unwrap(), &mut codes).unwrap());
            }),
        ),
        (
            "int8_token_dynamic",
            Box::new(move || {
                int8.fake_quantize_dynamic(scratch2, rows, columns).unwrap();
                black_box(&*scratch2);
            }),
        ),
    ];
    if rows <= 64 {
        // Twenty candidates a group: bound by arithmetic, wherever the values lie.
        let small = Matrix::new(x, rows, columns).unwrap();
        kernels.push(("mse_w4_g128", Box::new(move || drop(black_box(search.parameters(small).unwrap())))));
    }
    kernels
}

/// The shortest of several runs: what the machine can do when nobody else is using it.
fn best(kernel: &mut (dyn FnMut() + Send)) -> Duration {
    let once = |kernel: &mut (dyn FnMut() + Send)| {
        let start = Instant::now();
        kernel();
        start.elapsed()
    };
    (0..15).map(|_| once(kernel)).min().unwrap()
}

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut table = Vec::new();
    for (place, rows, columns) in SHAPES {
        let x: Vec<f32> = (0..rows * columns).map(|i| ((i * 2_654_435_761) % 8191) as f32 / 4096.0 - 1.0).collect();
        let (mut scratch, mut scratch2) = (x.clone(), x.clone());
        let bytes = size_of_val(x.as_slice()) as u64;
        for threads in [1, rayon::current_num_threads()] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let label = format!("{place}, {threads} threads");
            let mut group = criterion.benchmark_group(&label);
            group.throughput(Throughput::BytesDecimal(bytes));
            let mut copy = f64::NAN;
            for (name, mut kernel) in kernels(columns, &x, &mut scratch, &mut scratch2) {
                group.bench_function(name, |b| pool.install(|| b.iter(&mut kernel)));
                let rate = bytes as f64 / 1e9 / pool.install(|| best(&mut kernel)).as_secs_f64();
                copy = if name == "copy" { rate } else { copy };
                let share = rate / copy * 100.0;
                table.push(format!("{label:18} {name:20} {rate:7.2} GB/s {share:4.0} % of the copy"));
            }
            group.finish();
        }
    }
    println!("{}", table.join("\n"));
}
