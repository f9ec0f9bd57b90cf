//! Panels of a matrix that is summed down its columns: what stands side by side stays so.

use super::Layout;
use crate::narrow::{Element, pair};

/// Packs up to `R` columns, the next after `panel * R`.
#[inline(always)]
pub(super) fn values<E: Element, const R: usize>(
    x: &[E],
    layout: Layout,
    panel: usize,
    convert: impl Fn(E) -> f32,
    out: &mut [f32],
) {
    for (out, row) in out.as_chunks_mut::<R>().0.iter_mut().zip(0..layout.rows) {
        let given = part::<E, R>(x, layout, panel, row);
        match given.as_array::<R>() {
            Some(given) => (0..R).for_each(|i| out[i] = convert(given[i])),
            None => out.iter_mut().zip(given).for_each(|(slot, value)| *slot = convert(*value)),
        }
    }
}

/// The same in pairs of neighbours down a column.
#[inline(always)]
pub(super) fn pairs<E: Element, const R: usize>(x: &[E], layout: Layout, panel: usize, out: &mut [u32]) {
    for (out, row) in out.as_chunks_mut::<R>().0.iter_mut().zip((0..layout.rows).step_by(2)) {
        pairs_of_rows(x, layout, panel, row, out);
    }
}

/// The pairs of a row and the one below it, for the columns of a panel.
#[inline(always)]
pub(super) fn pairs_of_rows<E: Element, const R: usize>(
    x: &[E],
    layout: Layout,
    panel: usize,
    row: usize,
    out: &mut [u32; R],
) {
    let upper = part::<E, R>(x, layout, panel, row);
    if row + 1 == layout.rows {
        out.iter_mut().zip(upper).for_each(|(slot, a)| *slot = pair(*a, None));
        return;
    }
    let lower = part::<E, R>(x, layout, panel, row + 1);
    match (upper.as_array::<R>(), lower.as_array::<R>()) {
        (Some(upper), Some(lower)) => (0..R).for_each(|i| out[i] = pair(upper[i], Some(lower[i]))),
        _ => out.iter_mut().zip(upper.iter().zip(lower)).for_each(|(slot, (a, b))| *slot = pair(*a, Some(*b))),
    }
}

/// What a panel has of a row.
#[inline(always)]
fn part<E, const R: usize>(x: &[E], layout: Layout, panel: usize, row: usize) -> &[E] {
    let width = R.min(layout.columns - panel * R);
    &x[row * layout.stride + panel * R..][..width]
}
