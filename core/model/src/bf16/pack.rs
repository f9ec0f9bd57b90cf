//! Factors in the order in which the kernel reads them.

use std::ops::Range;

use crate::decoder::kernels::vector::vectorized;
use crate::pieces::by_pieces;

/// A matrix in panels of `R` of its rows: for each pair of neighbours along the summed dimension, the pairs of the panel's rows
/// side by side. What is missing in the last panel and in the last pair is zero.
pub(crate) struct Panels<const R: usize> {
    /// `[panels, pairs, R]`, the first of a pair in the lower half.
    values: Vec<u32>,
    pairs: usize,
}

/// Where a matrix lies in a slice that begins with its first value.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Between two rows.
    pub(crate) stride: usize,
}

impl Layout {
    /// Rows without a gap.
    pub(crate) fn dense(rows: usize, columns: usize) -> Self {
        Self { rows, columns, stride: columns }
    }
}

impl<const R: usize> Panels<R> {
    /// Packs `x`, whose rows are summed along, panel by panel in parallel.
    pub(crate) fn along_rows(x: &[f32], layout: Layout) -> Self {
        Self::fill(layout.rows, layout.columns, 1, |panel, out| rows_of_panel::<R>(x, layout, panel, out))
    }

    /// The same on this thread alone.
    pub(crate) fn along_rows_here(x: &[f32], layout: Layout) -> Self {
        Self::fill(layout.rows, layout.columns, usize::MAX, |panel, out| rows_of_panel::<R>(x, layout, panel, out))
    }

    /// Packs the columns of `x`, which is summed down its columns, panel by panel in parallel.
    pub(crate) fn down_columns(x: &[f32], layout: Layout) -> Self {
        Self::fill(layout.columns, layout.rows, 1, |panel, out| columns_of_panel::<R>(x, layout, panel, out))
    }

    /// The same on this thread alone.
    pub(crate) fn down_columns_here(x: &[f32], layout: Layout) -> Self {
        Self::fill(layout.columns, layout.rows, usize::MAX, |panel, out| columns_of_panel::<R>(x, layout, panel, out))
    }

    /// `panel` fills one panel `[pairs, R]` of zeros; a task does so many of them.
    fn fill(rows: usize, length: usize, together: usize, panel: impl Fn(usize, &mut [u32]) + Sync) -> Self {
        let (pairs, panels) = (length.div_ceil(2), rows.div_ceil(R));
        let together = together.min(panels);
        let values = by_pieces(panels * pairs * R, together * pairs * R, |task, out| {
            for (index, out) in out.chunks_exact_mut((pairs * R).max(1)).enumerate() {
                panel(task * together + index, out);
            }
        });
        Self { values, pairs }
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

vectorized! {
    /// Packs up to `R` rows, the next after `panel * R`.
    fn rows_of_panel<const R: usize>(x: &[f32], layout: Layout, panel: usize, out: &mut [u32]) {
        let rows = panel * R..layout.rows.min((panel + 1) * R);
        let mut runs = [[0; RUN]; R];
        for (start, out) in (0..layout.columns).step_by(2 * RUN).zip(out.chunks_mut(RUN * R)) {
            for (row, run) in rows.clone().zip(&mut runs) {
                let given = &x[row * layout.stride..][start..layout.columns.min(start + 2 * RUN)];
                match given.as_array::<{ 2 * RUN }>() {
                    Some(given) => round(given, run),
                    None => run.iter_mut().zip(given.chunks(2)).for_each(|(slot, two)| {
                        *slot = pair(two[0], two.get(1).copied().unwrap_or(0.0));
                    }),
                }
            }
            for (index, out) in out.as_chunks_mut::<R>().0.iter_mut().enumerate() {
                for (slot, run) in out.iter_mut().zip(&runs) {
                    *slot = run[index];
                }
            }
        }
    }
}

vectorized! {
    /// Packs up to `R` columns, the next after `panel * R`.
    fn columns_of_panel<const R: usize>(x: &[f32], layout: Layout, panel: usize, out: &mut [u32]) {
        let first = panel * R;
        let width = R.min(layout.columns - first);
        let row = |index: usize| &x[index * layout.stride + first..][..width];
        for (out, index) in out.as_chunks_mut::<R>().0.iter_mut().zip((0..layout.rows).step_by(2)) {
            if index + 1 == layout.rows {
                out.iter_mut().zip(row(index)).for_each(|(slot, a)| *slot = pair(*a, 0.0));
                continue;
            }
            let (upper, lower) = (row(index), row(index + 1));
            match (upper.as_array::<R>(), lower.as_array::<R>()) {
                (Some(upper), Some(lower)) => (0..R).for_each(|i| out[i] = pair(upper[i], lower[i])),
                _ => out.iter_mut().zip(upper.iter().zip(lower)).for_each(|(slot, (a, b))| *slot = pair(*a, *b)),
            }
        }
    }
}

#[inline(always)]
fn round(given: &[f32; 2 * RUN], run: &mut [u32; RUN]) {
    for (index, slot) in run.iter_mut().enumerate() {
        *slot = pair(given[2 * index], given[2 * index + 1]);
    }
}

#[inline(always)]
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
