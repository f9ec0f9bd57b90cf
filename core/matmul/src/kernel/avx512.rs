//! 512 bits: FMA in f32, and the dot product of pairs in bfloat16.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_storeu_ps,
};

use super::{Dot, Fma512, LEFT, MicroKernel, RIGHT};

impl MicroKernel for Fma512<f32> {
    type Left = f32;
    type Right = f32;

    const ROWS: usize = LEFT;
    const LEFT_UNITS: usize = 1;

    fn whole(left: &[f32], right: &[f32], to: &mut [f32], stride: usize, add: bool) {
        assert!(to.len() >= (LEFT - 1) * stride + RIGHT);
        // SAFETY: `Kernel::available` found AVX512F before a product with this kernel was packed; `to` holds the tile.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        unsafe {
            values(left, right, to, stride, add);
        }
    }
}

impl MicroKernel for Fma512<u32> {
    type Left = f32;
    type Right = u32;

    const ROWS: usize = LEFT;
    const LEFT_UNITS: usize = 2;

    fn whole(left: &[f32], right: &[u32], to: &mut [f32], stride: usize, add: bool) {
        assert!(to.len() >= (LEFT - 1) * stride + RIGHT);
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        unsafe {
            widened(left, right, to, stride, add);
        }
    }
}

impl MicroKernel for Dot {
    type Left = u32;
    type Right = u32;

    const ROWS: usize = LEFT;
    const LEFT_UNITS: usize = 1;

    fn whole(left: &[u32], right: &[u32], to: &mut [f32], stride: usize, add: bool) {
        assert!(to.len() >= (LEFT - 1) * stride + RIGHT);
        // SAFETY: as above, and AVX512_BF16.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        unsafe {
            dot(left, right, to, stride, add);
        }
    }
}

#[cfg(target_arch = "x86_64")]
type Sums = [[__m512; 2]; LEFT];

/// # Safety
/// The CPU must have AVX512F; `to` must hold a tile of rows `stride` apart.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f")]
unsafe fn store(sums: Sums, to: &mut [f32], stride: usize, add: bool) {
    for (row, sums) in sums.into_iter().enumerate() {
        for (half, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller vouches for the tile.
            unsafe {
                let values = to.as_mut_ptr().add(row * stride + half * 16);
                let before = if add { _mm512_loadu_ps(values) } else { _mm512_setzero_ps() };
                _mm512_storeu_ps(values, _mm512_add_ps(before, sum));
            }
        }
    }
}

/// # Safety
/// As [`store`].
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f")]
unsafe fn values(left: &[f32], right: &[f32], to: &mut [f32], stride: usize, add: bool) {
    let mut sums: Sums = [[_mm512_setzero_ps(); 2]; LEFT];
    for (left, right) in left.as_chunks::<LEFT>().0.iter().zip(right.as_chunks::<RIGHT>().0) {
        // SAFETY: `right` holds 32 values.
        let right = unsafe { [_mm512_loadu_ps(right.as_ptr()), _mm512_loadu_ps(right.as_ptr().add(16))] };
        add_products(&mut sums, left, right);
    }
    // SAFETY: the caller vouches for the tile.
    unsafe { store(sums, to, stride, add) };
}

/// # Safety
/// As [`store`].
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f")]
unsafe fn widened(left: &[f32], right: &[u32], to: &mut [f32], stride: usize, add: bool) {
    let mut sums: Sums = [[_mm512_setzero_ps(); 2]; LEFT];
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let lefts = left.as_chunks::<LEFT>().0.as_chunks::<2>().0;
    for ([first, second], right) in lefts.iter().zip(right.as_chunks::<RIGHT>().0) {
        // SAFETY: `right` holds 32 pairs.
        let right: [__m512i; 2] =
            unsafe { [_mm512_loadu_si512(right.as_ptr().cast()), _mm512_loadu_si512(right.as_ptr().add(16).cast())] };
        // Of a pair the second comes first, as the dot-product instruction has it.
        add_products(&mut sums, second, right.map(|pairs| _mm512_castsi512_ps(_mm512_and_si512(pairs, upper))));
        add_products(&mut sums, first, right.map(|pairs| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))));
    }
    // SAFETY: the caller vouches for the tile.
    unsafe { store(sums, to, stride, add) };
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn add_products(sums: &mut Sums, left: &[f32; LEFT], right: [__m512; 2]) {
    for (sums, left) in sums.iter_mut().zip(left) {
        let left = _mm512_set1_ps(*left);
        for (sum, right) in sums.iter_mut().zip(right) {
            *sum = _mm512_fmadd_ps(left, right, *sum);
        }
    }
}

/// # Safety
/// The CPU must have AVX512F and AVX512_BF16; `to` must hold a tile of rows `stride` apart.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dot(left: &[u32], right: &[u32], to: &mut [f32], stride: usize, add: bool) {
    let mut sums: Sums = [[_mm512_setzero_ps(); 2]; LEFT];
    for (left, right) in left.as_chunks::<LEFT>().0.iter().zip(right.as_chunks::<RIGHT>().0) {
        // SAFETY: both types are 128 bytes without invalid values; 32 integers are read as two registers of 16 pairs.
        let right: [__m512bh; 2] = unsafe { std::mem::transmute(*right) };
        for (sums, left) in sums.iter_mut().zip(left) {
            // SAFETY: both types are 64 bytes without invalid values.
            let left = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(left.cast_signed())) };
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = _mm512_dpbf16_ps(*sum, right, left);
            }
        }
    }
    // SAFETY: the caller vouches for the tile.
    unsafe { store(sums, to, stride, add) };
}
