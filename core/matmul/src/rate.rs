//! How fast kernels are here.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::{Input, Kernel, Precision, Weight};

/// Rows, inputs and outputs of the product that is timed: a batch of calibration and a linear of a small model.
const SHAPE: [usize; 3] = [512, 1024, 1024];

/// Floating-point operations a second of a kernel with all threads of the pool, two for each product and its sum: the best of what fits
/// into `time`, since the machine may be doing other things.
///
/// # Panics
/// The kernel is not available here, or does not multiply in this precision.
pub fn rate(kernel: Kernel, precision: Precision, time: Duration) -> f64 {
    let [rows, inputs, outputs] = SHAPE;
    let values = |count: usize| -> Vec<f32> { (0..count).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect() };
    let weight = Weight::new(&values(outputs * inputs), outputs, inputs, precision);
    let x = Input::with_kernel(&values(rows * inputs), rows, inputs, precision, kernel);
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while best.is_infinite() || start.elapsed() < time {
        let start = Instant::now();
        drop(black_box(weight.product(&x, None)));
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (rows * inputs * outputs) as f64 / best
}
