//! The left operand of AMX: tiles of 16 rows, each with the 16 pairs of one step along the summed dimension.
//!
//! A panel is two tiles high: `[steps, 2, 16 rows, 16 pairs]`, so that a tile is one kilobyte without a gap.

use super::columns::pairs_of_rows;
use super::rows::pairs_of;
use super::{Layout, TILE_PAIRS};
use crate::narrow::Element;

/// Rows of a panel.
pub(crate) const TILE_ROWS: usize = 32;

/// The panel's rows at one step.
type Step = [[u32; TILE_PAIRS]; TILE_ROWS];

/// The steps of a panel.
#[inline(always)]
fn steps(out: &mut [u32]) -> impl Iterator<Item = &mut Step> {
    out.as_chunks_mut::<TILE_PAIRS>().0.as_chunks_mut::<TILE_ROWS>().0.iter_mut()
}

/// Packs up to 32 rows of a matrix that is summed along its rows.
#[inline(always)]
pub(super) fn rows<E: Element>(x: &[E], layout: Layout, panel: usize, out: &mut [u32]) {
    let rows = panel * TILE_ROWS..layout.rows.min((panel + 1) * TILE_ROWS);
    for (start, step) in (0..layout.columns).step_by(2 * TILE_PAIRS).zip(steps(out)) {
        let end = layout.columns.min(start + 2 * TILE_PAIRS);
        for (row, out) in rows.clone().zip(step) {
            pairs_of(&x[row * layout.stride + start..row * layout.stride + end], out);
        }
    }
}

/// Packs up to 32 columns of a matrix that is summed down its columns.
#[inline(always)]
pub(super) fn columns<E: Element>(x: &[E], layout: Layout, panel: usize, out: &mut [u32]) {
    for (start, step) in (0..layout.rows).step_by(2 * TILE_PAIRS).zip(steps(out)) {
        let rows = (start..layout.rows.min(start + 2 * TILE_PAIRS)).step_by(2);
        for (pair, row) in rows.enumerate() {
            let mut side_by_side = [0; TILE_ROWS];
            pairs_of_rows(x, layout, panel, row, &mut side_by_side);
            for (out, value) in step.iter_mut().zip(side_by_side) {
                out[pair] = value;
            }
        }
    }
}
