//! Operands in the order in which kernels read them.

mod columns;
mod rows;
mod tiles;

use std::ops::Range;

use crate::narrow::{Element, widen};
use crate::parallel_fill::by_pieces;
use crate::simd::widest;

pub(crate) use self::tiles::TILE_ROWS;

/// Pairs in a row of an AMX tile. What is multiplied as pairs is filled up with zeros to a multiple of it, so that one packing of
/// a weight serves every kernel.
pub(crate) const TILE_PAIRS: usize = 16;

/// Where a matrix lies in a slice that begins with its first value.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements between the beginnings of two rows.
    pub stride: usize,
}

impl Layout {
    /// Rows without a gap.
    pub fn dense(rows: usize, columns: usize) -> Self {
        Self { rows, columns, stride: columns }
    }
}

/// The dimension of a matrix that a product sums over. The other one is cut into panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    /// Along its rows.
    AlongRows,
    /// Down its columns.
    DownColumns,
}

/// Who packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// All threads, a panel at a time.
    AllThreads,
    /// This thread alone.
    ThisThread,
}

/// A matrix to pack, and how.
#[derive(Clone, Copy)]
pub(crate) struct Packing<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) layout: Layout,
    pub(crate) sum: Sum,
    pub(crate) by: By,
}

impl<E> Packing<'_, E> {
    /// Rows that are cut into panels.
    pub(crate) fn rows(&self) -> usize {
        match self.sum {
            Sum::AlongRows => self.layout.rows,
            Sum::DownColumns => self.layout.columns,
        }
    }

    /// Elements of a sum.
    pub(crate) fn length(&self) -> usize {
        match self.sum {
            Sum::AlongRows => self.layout.columns,
            Sum::DownColumns => self.layout.rows,
        }
    }
}

/// The pairs that so many elements of a sum are filled up to.
pub(crate) fn pairs(length: usize) -> usize {
    length.div_ceil(2).next_multiple_of(TILE_PAIRS)
}

/// A matrix in panels of a few rows: for each unit along the summed dimension, the units of the panel's rows side by side (AMX's
/// left operand lies otherwise, see [`tiles`]). A unit is a value in f32, or a pair of neighbours in bfloat16. What is missing in the last
/// panel and in the last units is zero.
pub(crate) struct Panels<T> {
    /// `[panels, units, height]`.
    values: Vec<T>,
    units: usize,
    /// Rows of a panel.
    height: usize,
}

impl<T: Copy + Default + Send + Sync> Panels<T> {
    /// `panel` fills one panel `[units, height]` of zeros.
    fn fill(rows: usize, [units, height]: [usize; 2], by: By, panel: impl Fn(usize, &mut [T]) + Sync) -> Self {
        let (panels, size) = (rows.div_ceil(height), units * height);
        let together = if by == By::ThisThread { panels } else { 1 };
        let values = by_pieces(panels * size, together * size, |task, out| {
            for (index, out) in out.chunks_exact_mut(size.max(1)).enumerate() {
                panel(task * together + index, out);
            }
        });
        Self { values, units, height }
    }

    /// Units along the summed dimension.
    pub(crate) fn units(&self) -> usize {
        self.units
    }

    /// Some units of a panel, `[units, height]`.
    pub(crate) fn part(&self, panel: usize, units: Range<usize>) -> &[T] {
        &self.values[(panel * self.units + units.start) * self.height..(panel * self.units + units.end) * self.height]
    }
}

impl Panels<f32> {
    /// Values as they are, `units` of them.
    pub(crate) fn values<E: Element, const R: usize>(from: Packing<'_, E>, units: usize) -> Self {
        Self::converted::<E, R>(from, units, E::wide)
    }

    /// Values rounded to bfloat16, `units` of them.
    pub(crate) fn rounded<E: Element, const R: usize>(from: Packing<'_, E>, units: usize) -> Self {
        Self::converted::<E, R>(from, units, |value| widen(value.narrow()))
    }

    fn converted<E: Element, const R: usize>(
        from: Packing<'_, E>,
        units: usize,
        convert: impl Fn(E) -> f32 + Copy + Sync,
    ) -> Self {
        Self::fill(from.rows(), [units, R], from.by, |panel, out| {
            widest(
                #[inline(always)]
                || match from.sum {
                    Sum::AlongRows => rows::values::<E, R>(from.x, from.layout, panel, convert, out),
                    Sum::DownColumns => columns::values::<E, R>(from.x, from.layout, panel, convert, out),
                },
            );
        })
    }
}

impl Panels<u32> {
    /// Pairs in bfloat16.
    pub(crate) fn pairs<E: Element, const R: usize>(from: Packing<'_, E>) -> Self {
        Self::fill(from.rows(), [pairs(from.length()), R], from.by, |panel, out| {
            widest(
                #[inline(always)]
                || match from.sum {
                    Sum::AlongRows => rows::pairs::<E, R>(from.x, from.layout, panel, out),
                    Sum::DownColumns => columns::pairs::<E, R>(from.x, from.layout, panel, out),
                },
            );
        })
    }

    /// Pairs in bfloat16 in the tiles of AMX's left operand.
    pub(crate) fn tiles<E: Element>(from: Packing<'_, E>) -> Self {
        Self::fill(from.rows(), [pairs(from.length()), TILE_ROWS], from.by, |panel, out| {
            widest(
                #[inline(always)]
                || match from.sum {
                    Sum::AlongRows => tiles::rows(from.x, from.layout, panel, out),
                    Sum::DownColumns => tiles::columns(from.x, from.layout, panel, out),
                },
            );
        })
    }
}

#[cfg(test)]
mod tests;
