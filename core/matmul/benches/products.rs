//! Rates of every kernel that this CPU has, over the shapes of models, beside a bare loop of the same instructions and the
//! `gemm` crate.
//!
//! Prints GFLOP/s (2 operations for each product and its addition; of a Gram matrix one half is computed), all threads at work.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use workbench_matmul::{Input, Kernel, Precision, Weight, add_gram};

/// Tokens, inputs and outputs of linears of Qwen3-0.6B, 4B and 8B; the last rows are a prompt and a token.
const LINEARS: [[usize; 3]; 8] = [
    [512, 1024, 1024],
    [512, 1024, 3072],
    [1024, 3072, 1024],
    [512, 2560, 9728],
    [512, 4096, 4096],
    [512, 4096, 12288],
    [32, 1024, 3072],
    [1, 4096, 4096],
];

/// Features whose Gram matrix is summed over 1,024 tokens.
const GRAMS: [usize; 3] = [1024, 3072, 4096];

/// Seconds of a run: the fastest of several, since the machine may be doing other things.
fn fastest(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_millis(400) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn kernels(precision: Precision) -> Vec<Kernel> {
    Kernel::ALL.into_iter().filter(|kernel| kernel.available() && kernel.multiplies(precision)).collect()
}

fn with_gemm(x: &[f32], w: &[f32], [rows, inputs, outputs]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0.0; rows * outputs];
    // SAFETY: the slices are of the shapes that the call names.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            rows,
            outputs,
            inputs,
            out.as_mut_ptr(),
            1,
            outputs as isize,
            false,
            x.as_ptr(),
            1,
            inputs as isize,
            w.as_ptr(),
            inputs as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
    out
}

fn linears(precision: Precision) {
    for shape @ [rows, inputs, outputs] in LINEARS {
        let (x, w) = (values(rows * inputs), values(outputs * inputs));
        let weight = Weight::new(&w, outputs, inputs, precision);
        let rate = |seconds: f64| 2e-9 * (rows * inputs * outputs) as f64 / seconds;
        print!("linear {rows:>5} x {inputs:>5} x {outputs:>5} {precision:?}:");
        for kernel in kernels(precision) {
            let packed = Input::with_kernel(&x, rows, inputs, precision, kernel);
            let product = rate(fastest(|| drop(black_box(weight.product(&packed, None)))));
            let pack = || Input::with_kernel(&x, rows, inputs, precision, kernel);
            let whole = rate(fastest(|| drop(black_box(weight.product(&pack(), None)))));
            print!("  {kernel} {product:.0} ({whole:.0} with packing the input)");
        }
        if precision == Precision::F32 {
            print!("  gemm {:.0}", rate(fastest(|| drop(black_box(with_gemm(&x, &w, shape))))));
        }
        println!();
    }
}

fn grams(precision: Precision) {
    for n in GRAMS {
        let (x, mut to) = (values(1024 * n), vec![0.0; n * n]);
        let rate = 1e-9 * (1024 * n * (n + 1)) as f64 / fastest(|| add_gram(&mut to, &x, n, precision));
        println!("gram 1024 x {n} {precision:?}: {} {rate:.0}", Kernel::of(precision));
    }
}

fn main() {
    println!("{} threads", rayon::current_num_threads());
    for precision in [Precision::F32, Precision::Bf16] {
        linears(precision);
        grams(precision);
    }
}
