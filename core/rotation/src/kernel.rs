//! Products with Hadamard matrices on plain slices.
//!
//! Loops are written once and compiled for several instruction sets; the best one is chosen at run time. The order of the
//! additions is the same in all of them, and no products are fused with sums, so neither the instruction set nor the
//! number of threads changes a bit.

use std::fmt::Debug;
use std::ops::{Add, Mul, Sub};

/// Numbers that are rotated: `f32` and `f64`.
pub trait Real:
    Copy + Debug + Send + Sync + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + 'static
{
    /// The nearest number of this type.
    fn from_f64(value: f64) -> Self;

    /// `scale` times the product of Sylvester's matrix of `size` (a power of two) with each chunk of `rows`.
    #[doc(hidden)]
    fn walsh_hadamard(rows: &mut [Self], size: usize, scale: Self);

    /// The product of a matrix of signs `[order, order]` with `x` `[order, inner]`, into `out`.
    #[doc(hidden)]
    fn mix(out: &mut [Self], x: &[Self], signs: &[Self], order: usize);
}

/// Compiles a function for x86-64 levels 1, 3 and 4 and calls the best that the machine has.
macro_rules! vectorized {
    ($name:ident($($arg:ident: $ty:ty),*), $body:path) => {
        fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
                fn avx512($($arg: $ty),*) {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) {
                    $body($($arg),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                {
                    // SAFETY: the features that the function was compiled for have just been detected.
                    #[allow(unsafe_code)]
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    #[allow(unsafe_code)]
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}

macro_rules! real {
    ($type:ty, $from:expr, $walsh_hadamard:ident, $mix:ident) => {
        vectorized!($walsh_hadamard(rows: &mut [$type], size: usize, scale: $type), walsh_hadamard);
        vectorized!($mix(out: &mut [$type], x: &[$type], signs: &[$type], order: usize), mix);

        impl Real for $type {
            fn from_f64(value: f64) -> Self {
                $from(value)
            }

            fn walsh_hadamard(rows: &mut [Self], size: usize, scale: Self) {
                $walsh_hadamard(rows, size, scale);
            }

            fn mix(out: &mut [Self], x: &[Self], signs: &[Self], order: usize) {
                $mix(out, x, signs, order);
            }
        }
    };
}

real!(f32, |value| value as f32, walsh_hadamard_f32, mix_f32);
real!(f64, |value| value, walsh_hadamard_f64, mix_f64);

/// Numbers that are kept together while strides are small: one vector of f32 at level 4.
const TILE: usize = 16;

#[inline(always)]
fn walsh_hadamard<T: Real>(rows: &mut [T], size: usize, scale: T) {
    for row in rows.chunks_exact_mut(size) {
        let mut stride = small_strides(row, scale);
        // Two stages at a time, then a single one if their number is odd: each pass over the row costs its loads and stores.
        while stride * 4 <= size {
            for block in row.chunks_exact_mut(4 * stride) {
                four(block, stride);
            }
            stride *= 4;
        }
        if stride * 2 <= size {
            for block in row.chunks_exact_mut(2 * stride) {
                two(block, stride);
            }
        }
    }
}

/// The stages of strides below [`TILE`], and the scale; returns the first stride that is left.
#[inline(always)]
fn small_strides<T: Real>(row: &mut [T], scale: T) -> usize {
    if row.len() < TILE {
        let mut stride = 1;
        while stride < row.len() {
            for block in row.chunks_exact_mut(2 * stride) {
                two(block, stride);
            }
            stride *= 2;
        }
        row.iter_mut().for_each(|x| *x = *x * scale);
        return stride;
    }
    let (tiles, _) = row.as_chunks_mut::<TILE>();
    for tile in tiles {
        let mut t = *tile;
        t = stage::<T, 1>(t);
        t = stage::<T, 2>(t);
        t = stage::<T, 4>(t);
        t = stage::<T, 8>(t);
        for (to, from) in tile.iter_mut().zip(t) {
            *to = from * scale;
        }
    }
    TILE
}

/// One stage within a tile: whole vectors of partners, sums or differences by lane, which compiles to shuffles.
#[inline(always)]
fn stage<T: Real, const STRIDE: usize>(t: [T; TILE]) -> [T; TILE] {
    let mut out = t;
    for i in 0..TILE {
        out[i] = if i & STRIDE == 0 { t[i] + t[i ^ STRIDE] } else { t[i ^ STRIDE] - t[i] };
    }
    out
}

#[inline(always)]
fn two<T: Real>(block: &mut [T], stride: usize) {
    let (a, b) = block.split_at_mut(stride);
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (*a + *b, *a - *b);
    }
}

#[inline(always)]
fn four<T: Real>(block: &mut [T], stride: usize) {
    let (ab, cd) = block.split_at_mut(2 * stride);
    let ((a, b), (c, d)) = (ab.split_at_mut(stride), cd.split_at_mut(stride));
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        let (ab, a_b, cd, c_d) = (*a + *b, *a - *b, *c + *d, *c - *d);
        (*a, *b, *c, *d) = (ab + cd, a_b + c_d, ab - cd, a_b - c_d);
    }
}

/// Rows of the matrix whose sums are kept in registers together, and numbers of each.
const ROWS: usize = 4;
const LANES: usize = 32;

/// The product of a matrix of signs `[order, order]` with `x` `[order, inner]`, into `out` of the same shape. `order` is a
/// multiple of four.
#[inline(always)]
fn mix<T: Real>(out: &mut [T], x: &[T], signs: &[T], order: usize) {
    let inner = x.len() / order;
    for (group, out) in out.chunks_exact_mut(ROWS * inner).enumerate() {
        let signs = &signs[group * ROWS * order..(group + 1) * ROWS * order];
        let whole = inner / LANES * LANES;
        for start in (0..whole).step_by(LANES) {
            mix_lanes::<T, LANES>(out, x, signs, inner, start);
        }
        for start in whole..inner {
            mix_lanes::<T, 1>(out, x, signs, inner, start);
        }
    }
}

#[inline(always)]
fn mix_lanes<T: Real, const WIDTH: usize>(out: &mut [T], x: &[T], signs: &[T], inner: usize, start: usize) {
    let order = x.len() / inner;
    let mut sums = [[T::from_f64(0.0); WIDTH]; ROWS];
    for i in 0..order {
        let x = &x[i * inner + start..i * inner + start + WIDTH];
        for (row, sums) in sums.iter_mut().enumerate() {
            let sign = signs[row * order + i];
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = *sum + sign * *x;
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        out[row * inner + start..row * inner + start + WIDTH].copy_from_slice(sums);
    }
}
