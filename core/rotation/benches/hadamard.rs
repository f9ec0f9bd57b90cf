//! How near the fast Walsh-Hadamard transform of rows comes to a plain copy of the same bytes, on one thread.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail at any line")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use workbench_rotation::Hadamard;

/// Widths of `down_proj` inputs and heads: powers of two, bases 12, 76 and 172 with powers.
const SIZES: [usize; 7] = [128, 512, 4096, 8192, 12288, 9728, 11008];

/// Numbers in all, far beyond any cache, and as many as the second cache holds.
const PLACES: [(&str, usize); 2] = [("memory", 1 << 24), ("cache", 1 << 17)];

/// The shortest of several runs: what the machine can do when nobody else is using it.
fn best(mut kernel: impl FnMut()) -> Duration {
    let mut once = || {
        let start = Instant::now();
        kernel();
        start.elapsed()
    };
    (0..15).map(|_| once()).min().unwrap()
}

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut table = Vec::new();
    for (place, numbers) in PLACES {
        let mut group = criterion.benchmark_group(place);
        for size in SIZES {
            let hadamard = Hadamard::new(size).unwrap();
            let count = numbers / size * size;
            let x: Vec<f32> = (0..count).map(|i| ((i * 2_654_435_761) % 8191) as f32 / 4096.0 - 1.0).collect();
            let (mut copy, mut rotated) = (x.clone(), x.clone());
            let bytes = size_of_val(x.as_slice()) as u64;
            group.throughput(Throughput::BytesDecimal(bytes));
            let mut copying = || {
                copy.copy_from_slice(&x);
                black_box(&copy);
            };
            let mut rotating = || {
                hadamard.rotate(&mut rotated);
                black_box(&rotated);
            };
            group.bench_function(format!("copy {size}"), |b| b.iter(&mut copying));
            group.bench_function(format!("rotate {size}"), |b| b.iter(&mut rotating));
            let rate = |time: Duration| bytes as f64 / 1e9 / time.as_secs_f64();
            let (copied, rotated) = (rate(best(copying)), rate(best(rotating)));
            let share = rotated / copied * 100.0;
            let order = hadamard.base_order();
            table.push(format!(
                "{place:7} n = {size:5} = {order:3} x {:5}: {rotated:6.2} GB/s, copy {copied:6.2} GB/s: {share:4.0} %",
                size / order
            ));
        }
        group.finish();
    }
    println!("{}", table.join("\n"));
}
