//! Panels of a matrix that is summed along its rows: rows that lie one after the other come to stand side by side.

use super::Layout;
use crate::narrow::{Element, pair};

/// Units of a row that are converted before they go to their places: a step that vectorises, and one that stays in the first cache.
const RUN: usize = 32;

/// Packs up to `R` rows, the next after `panel * R`.
#[inline(always)]
pub(super) fn values<E: Element, const R: usize>(
    x: &[E],
    layout: Layout,
    panel: usize,
    convert: impl Fn(E) -> f32,
    out: &mut [f32],
) {
    each_run::<E, f32, RUN, R>(x, layout, panel, out, |given, run| match given.as_array::<RUN>() {
        Some(given) => (0..RUN).for_each(|i| run[i] = convert(given[i])),
        None => run.iter_mut().zip(given).for_each(|(slot, value)| *slot = convert(*value)),
    });
}

/// The same in pairs.
#[inline(always)]
pub(super) fn pairs<E: Element, const R: usize>(x: &[E], layout: Layout, panel: usize, out: &mut [u32]) {
    each_run::<E, u32, { 2 * RUN }, R>(x, layout, panel, out, pairs_of);
}

/// The pairs of a stretch of a row.
#[inline(always)]
pub(super) fn pairs_of<E: Element, const N: usize>(given: &[E], run: &mut [u32; N]) {
    if given.len() == 2 * N {
        for (slot, two) in run.iter_mut().zip(given.as_chunks::<2>().0) {
            *slot = pair(two[0], Some(two[1]));
        }
    } else {
        run.iter_mut().zip(given.chunks(2)).for_each(|(slot, two)| *slot = pair(two[0], two.get(1).copied()));
    }
}

/// Takes `LENGTH` elements of each of the panel's rows at a time, converts them to a run of units, and writes runs side by side.
#[inline(always)]
fn each_run<E: Element, T: Copy + Default, const LENGTH: usize, const R: usize>(
    x: &[E],
    layout: Layout,
    panel: usize,
    out: &mut [T],
    convert: impl Fn(&[E], &mut [T; RUN]),
) {
    let rows = panel * R..layout.rows.min((panel + 1) * R);
    let mut runs = [[T::default(); RUN]; R];
    for (start, out) in (0..layout.columns).step_by(LENGTH).zip(out.chunks_mut(RUN * R)) {
        let end = layout.columns.min(start + LENGTH);
        if end - start < LENGTH {
            runs = [[T::default(); RUN]; R];
        }
        for (row, run) in rows.clone().zip(&mut runs) {
            convert(&x[row * layout.stride + start..row * layout.stride + end], run);
        }
        for (index, out) in out.as_chunks_mut::<R>().0.iter_mut().enumerate() {
            for (slot, run) in out.iter_mut().zip(&runs) {
                *slot = run[index];
            }
        }
    }
}
