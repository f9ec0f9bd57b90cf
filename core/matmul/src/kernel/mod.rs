//! Microkernels: the product of a panel of the left operand and one of the right, added to a tile of the result.

pub(crate) mod amx;
mod avx2;
mod avx512;
mod portable;

use crate::panels::TILE_ROWS;

/// Columns of a panel of the right operand, whatever the kernel: two registers of 512 bits.
pub(crate) const RIGHT: usize = 32;

/// Rows of a panel of the left operand: with two registers for each and two for the right operand, 26 of 32 are in use.
pub(crate) const LEFT: usize = 12;

/// The part of the result that a tile is.
pub(crate) struct Tile<'a> {
    /// From the tile's first element on.
    pub(crate) values: &'a mut [f32],
    /// Between two rows.
    pub(crate) stride: usize,
    /// Rows and columns that exist.
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Whether the product is added to the values, or takes their place.
    pub(crate) add: bool,
}

/// A way to multiply two panels.
pub(crate) trait MicroKernel {
    /// Units of the panels.
    type Left: Copy + Default + Send + Sync;
    type Right: Copy + Default + Send + Sync;

    /// Rows of a left panel, and so of a tile of the result.
    const ROWS: usize;

    /// Units of the left panel for each of the right one.
    const LEFT_UNITS: usize;

    /// Adds the product of `[units * LEFT_UNITS, ROWS]` and `[units, RIGHT]` to a whole tile, or writes it there: `to` begins with the
    /// tile's first element, and its rows are `stride` apart.
    fn whole(left: &[Self::Left], right: &[Self::Right], to: &mut [f32], stride: usize, add: bool);

    /// Runs `work`, which multiplies, with what the kernel needs of the processor's state.
    fn within<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
}

/// Multiplies two panels onto a tile, which may be cut off at the edge of the result.
pub(crate) fn multiply<M: MicroKernel>(left: &[M::Left], right: &[M::Right], to: Tile<'_>) {
    assert!(left.len() / M::ROWS == right.len() / RIGHT * M::LEFT_UNITS);
    if (to.height, to.width) == (M::ROWS, RIGHT) {
        M::whole(left, right, to.values, to.stride, to.add);
        return;
    }
    let mut sums = [0.0; TILE_ROWS * RIGHT];
    M::whole(left, right, &mut sums, RIGHT, false);
    for (row, sums) in to.values.chunks_mut(to.stride).zip(sums.chunks_exact(RIGHT)).take(to.height) {
        match to.add {
            true => row.iter_mut().zip(&sums[..to.width]).for_each(|(value, sum)| *value += sum),
            false => row[..to.width].copy_from_slice(&sums[..to.width]),
        }
    }
}

/// Tiles of AMX over pairs in bfloat16.
pub(crate) struct Amx;

/// `vdpbf16ps` over pairs in bfloat16.
pub(crate) struct Dot;

/// FMA in f32 on 512 bits.
pub(crate) struct Fma512<R>(std::marker::PhantomData<R>);

/// FMA in f32 on 256 bits.
pub(crate) struct Fma256<R>(std::marker::PhantomData<R>);

/// Loops.
pub(crate) struct Loops<R>(std::marker::PhantomData<R>);
