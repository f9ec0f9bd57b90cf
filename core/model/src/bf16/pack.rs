//! Factors in the order in which the kernel reads them.

use std::ops::Range;

use crate::pieces::by_pieces;

/// A matrix in panels of `R` of its rows: for each pair of neighbours along the summed dimension, the pairs of the panel's rows
/// side by side. What is missing in the last panel and in the last pair is zero.
pub(super) struct Panels<const R: usize> {
    /// `[panels, pairs, R]`, the first of a pair in the lower half.
    values: Vec<u32>,
    pairs: usize,
}

impl<const R: usize> Panels<R> {
    /// Packs `x` `[rows, length]`, whose rows are summed along.
    pub(super) fn along_rows(x: &[f32], rows: usize, length: usize) -> Self {
        Self::fill(rows, length, |panel, out| {
            let given = &x[panel * R * length..rows.min((panel + 1) * R) * length];
            for (start, out) in (0..length).step_by(2 * RUN).zip(out.chunks_mut(RUN * R)) {
                for (row, given) in given.chunks_exact(length).enumerate() {
                    let given = &given[start..length.min(start + 2 * RUN)];
                    let mut run = [0; RUN];
                    for (slot, two) in run.iter_mut().zip(given.chunks(2)) {
                        *slot = pair(two[0], two.get(1).copied().unwrap_or(0.0));
                    }
                    out.iter_mut().skip(row).step_by(R).zip(run).for_each(|(slot, pair)| *slot = pair);
                }
            }
        })
    }

    /// Packs the columns of `x` `[length, columns]`, which is summed down its columns.
    pub(super) fn down_columns(x: &[f32], length: usize, columns: usize) -> Self {
        Self::fill(columns, length, |panel, out| {
            let first = panel * R;
            let width = R.min(columns - first);
            for (out, index) in out.chunks_exact_mut(R).zip((0..length).step_by(2)) {
                let upper = &x[index * columns + first..][..width];
                if index + 1 == length {
                    out.iter_mut().zip(upper).for_each(|(slot, a)| *slot = pair(*a, 0.0));
                } else {
                    let lower = &x[(index + 1) * columns + first..][..width];
                    out.iter_mut().zip(upper.iter().zip(lower)).for_each(|(slot, (a, b))| *slot = pair(*a, *b));
                }
            }
        })
    }

    /// `panel` fills one panel `[pairs, R]` of zeros.
    fn fill(rows: usize, length: usize, panel: impl Fn(usize, &mut [u32]) + Sync) -> Self {
        let pairs = length.div_ceil(2);
        Self { values: by_pieces(rows.div_ceil(R) * pairs * R, pairs * R, panel), pairs }
    }

    /// The pairs in pieces of at most `size`.
    pub(super) fn pairs_by(&self, size: usize) -> impl Iterator<Item = Range<usize>> + use<R> {
        let pairs = self.pairs;
        (0..pairs).step_by(size).map(move |start| start..pairs.min(start + size))
    }

    /// Some pairs of a panel, `[pairs, R]`.
    pub(super) fn part(&self, panel: usize, pairs: Range<usize>) -> &[u32] {
        &self.values[(panel * self.pairs + pairs.start) * R..(panel * self.pairs + pairs.end) * R]
    }
}

/// Pairs of a row that are rounded before they go to their places: a step that vectorises, and one that stays in the first cache.
const RUN: usize = 32;

fn pair(first: f32, second: f32) -> u32 {
    u32::from(narrow(first)) | u32::from(narrow(second)) << 16
}

/// The bits of a value rounded to bfloat16, to nearest even. Unlike `half`'s it is a few integer instructions without a branch.
#[inline(always)]
pub(crate) fn narrow(value: f32) -> u16 {
    const NAN: u32 = 0x7fc0;
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let rounded = if bits & 0x7fff_ffff > 0x7f80_0000 { NAN } else { rounded };
    rounded as u16
}

#[inline(always)]
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
