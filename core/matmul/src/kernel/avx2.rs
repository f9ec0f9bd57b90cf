//! 256 bits: FMA in f32. There are registers for a part of the tile at a time.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_ps, _mm256_and_si256, _mm256_castsi256_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};

use super::{Fma256, LEFT, MicroKernel, RIGHT};

/// Rows and columns of the part of a tile whose sums are in registers: with two for the right operand and one for the left, 15 of 16.
const HEIGHT: usize = LEFT / 2;
const WIDTH: usize = RIGHT / 2;

/// Rows where pairs are widened, which takes three registers more: with as many sums as before the compiler keeps some in memory. Eight
/// are as many as two FMAs a cycle need, each of four cycles.
const WIDENED_HEIGHT: usize = LEFT / 3;

impl MicroKernel for Fma256<f32> {
    type Left = f32;
    type Right = f32;

    const ROWS: usize = LEFT;
    const LEFT_UNITS: usize = 1;

    fn whole(left: &[f32], right: &[f32], to: &mut [f32], stride: usize, add: bool) {
        for (row, column) in parts::<HEIGHT>() {
            let to = &mut to[row * stride + column..];
            assert!(to.len() >= (HEIGHT - 1) * stride + WIDTH);
            // SAFETY: `Kernel::available` found AVX2 and FMA before a product with this kernel was packed; `to` holds the part.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            unsafe {
                values(left, right, (row, column), to, stride, add);
            }
        }
    }
}

impl MicroKernel for Fma256<u32> {
    type Left = f32;
    type Right = u32;

    const ROWS: usize = LEFT;
    const LEFT_UNITS: usize = 2;

    fn whole(left: &[f32], right: &[u32], to: &mut [f32], stride: usize, add: bool) {
        for (row, column) in parts::<WIDENED_HEIGHT>() {
            let to = &mut to[row * stride + column..];
            assert!(to.len() >= (WIDENED_HEIGHT - 1) * stride + WIDTH);
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            unsafe {
                widened(left, right, (row, column), to, stride, add);
            }
        }
    }
}

/// Where the parts of a tile begin, those of the same columns after each other.
fn parts<const ROWS: usize>() -> impl Iterator<Item = (usize, usize)> {
    [0, WIDTH].into_iter().flat_map(|column| (0..LEFT).step_by(ROWS).map(move |row| (row, column)))
}

#[cfg(target_arch = "x86_64")]
type Sums<const ROWS: usize> = [[__m256; 2]; ROWS];

/// # Safety
/// The CPU must have AVX2; `to` must hold the part, with rows `stride` apart.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx2,fma")]
unsafe fn store<const ROWS: usize>(sums: Sums<ROWS>, to: &mut [f32], stride: usize, add: bool) {
    for (row, sums) in sums.into_iter().enumerate() {
        for (half, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller vouches for the part.
            unsafe {
                let values = to.as_mut_ptr().add(row * stride + half * 8);
                let before = if add { _mm256_loadu_ps(values) } else { _mm256_setzero_ps() };
                _mm256_storeu_ps(values, _mm256_add_ps(before, sum));
            }
        }
    }
}

/// # Safety
/// The CPU must have AVX2 and FMA; `to` must hold the part at `(row, column)` of a tile.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx2,fma")]
unsafe fn values(left: &[f32], right: &[f32], (row, column): (usize, usize), to: &mut [f32], stride: usize, add: bool) {
    let mut sums: Sums<HEIGHT> = [[_mm256_setzero_ps(); 2]; HEIGHT];
    for (left, right) in left.as_chunks::<LEFT>().0.iter().zip(right.as_chunks::<RIGHT>().0) {
        // SAFETY: 16 values follow on each of the two columns that a part can begin with.
        let right = unsafe {
            let right = right.as_ptr().add(column);
            [_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(8))]
        };
        add_products(&mut sums, &left[row..], right);
    }
    // SAFETY: the caller vouches for the part.
    unsafe { store(sums, to, stride, add) };
}

/// # Safety
/// As [`values`].
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx2,fma")]
unsafe fn widened(
    left: &[f32],
    right: &[u32],
    (row, column): (usize, usize),
    to: &mut [f32],
    stride: usize,
    add: bool,
) {
    let mut sums: Sums<WIDENED_HEIGHT> = [[_mm256_setzero_ps(); 2]; WIDENED_HEIGHT];
    let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    let lefts = left.as_chunks::<LEFT>().0.as_chunks::<2>().0;
    for ([first, second], right) in lefts.iter().zip(right.as_chunks::<RIGHT>().0) {
        // SAFETY: 16 pairs follow on each of the two columns that a part can begin with.
        let right: [__m256i; 2] = unsafe {
            let right = right.as_ptr().add(column);
            [_mm256_loadu_si256(right.cast()), _mm256_loadu_si256(right.add(8).cast())]
        };
        // Of a pair the second comes first, as the dot-product instruction has it.
        add_products(&mut sums, &second[row..], right.map(|pairs| _mm256_castsi256_ps(_mm256_and_si256(pairs, upper))));
        add_products(&mut sums, &first[row..], right.map(|pairs| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))));
    }
    // SAFETY: the caller vouches for the part.
    unsafe { store(sums, to, stride, add) };
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_products<const ROWS: usize>(sums: &mut Sums<ROWS>, left: &[f32], right: [__m256; 2]) {
    for (sums, left) in sums.iter_mut().zip(left) {
        let left = _mm256_set1_ps(*left);
        for (sum, right) in sums.iter_mut().zip(right) {
            *sum = _mm256_fmadd_ps(left, right, *sum);
        }
    }
}
