//! The loop around `vdpbf16ps`.

/// Rows of a tile of the result: with two registers for each and two for the right factor, 26 of 32 are in use.
pub(crate) const LEFT: usize = 12;

/// Columns of a tile: two registers of 16.
pub(crate) const RIGHT: usize = 32;

/// The part of the result that a tile is.
pub(super) struct Tile<'a> {
    /// From the tile's first element on.
    pub(super) values: &'a mut [f32],
    /// Between two rows.
    pub(super) stride: usize,
    /// Rows and columns that exist.
    pub(super) height: usize,
    pub(super) width: usize,
    /// Whether the product is added to the values, or takes their place.
    pub(super) add: bool,
}

#[cfg(target_arch = "x86_64")]
pub(super) fn supported() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn supported() -> bool {
    false
}

/// Computes the product of two panels of as many pairs, `[pairs, LEFT]` and `[pairs, RIGHT]`.
pub(super) fn multiply(left: &[u32], right: &[u32], to: Tile<'_>) {
    assert!(supported() && left.len() / LEFT == right.len() / RIGHT);
    if (to.height, to.width) == (LEFT, RIGHT) {
        whole(left, right, to.values, to.stride, to.add);
        return;
    }
    let mut sums = [0.0; LEFT * RIGHT];
    whole(left, right, &mut sums, RIGHT, false);
    for (row, sums) in to.values.chunks_mut(to.stride).zip(sums.chunks_exact(RIGHT)).take(to.height) {
        match to.add {
            true => row.iter_mut().zip(&sums[..to.width]).for_each(|(value, sum)| *value += sum),
            false => row[..to.width].copy_from_slice(&sums[..to.width]),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn whole(left: &[u32], right: &[u32], to: &mut [f32], stride: usize, add: bool) {
    // SAFETY: the caller has found the CPU to have the instructions.
    #[allow(unsafe_code)]
    unsafe {
        x86::multiply(left, right, to, stride, add);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn whole(_: &[u32], _: &[u32], _: &mut [f32], _: usize, _: bool) {}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };

    use super::{LEFT, RIGHT};

    /// # Safety
    /// The CPU must have AVX512F and AVX512_BF16.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn multiply(left: &[u32], right: &[u32], to: &mut [f32], stride: usize, add: bool) {
        let mut sums = [[_mm512_setzero_ps(); 2]; LEFT];
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
        for (row, sums) in sums.into_iter().enumerate() {
            let row = &mut to[row * stride..][..RIGHT];
            for (values, sum) in row.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
                // SAFETY: `values` holds the 16 values of a register.
                unsafe {
                    let before = if add { _mm512_loadu_ps(values.as_ptr()) } else { _mm512_setzero_ps() };
                    _mm512_storeu_ps(values.as_mut_ptr(), _mm512_add_ps(before, sum));
                }
            }
        }
    }
}
