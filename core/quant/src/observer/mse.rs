//! The range with the least error: a search over shrunken ranges.
//!
//! For i = 0, 1, ... the range is p * min .. p * max with p = 1 - i / grid (times `expand`); each rectangle keeps the
//! first range with the least sum of |fake(x) - x|^norm. The search ends for the whole tensor after `patience` steps in
//! which no rectangle improved, as in llm-compressor on a CPU. Errors are computed rectangle by rectangle for all steps,
//! while the values are in the first cache; the rule about the tensor is applied to the improvements afterwards.

use rayon::prelude::*;

use super::Options;
use crate::derive::{TensorRange, tensor_range};
use crate::error::GridError;
use crate::grid::Grid;
use crate::kernel::{self, with_codec};
use crate::matrix::{Layout, Matrix};
use crate::scale::ScaleRule;

/// The best range of every rectangle.
pub(crate) fn search(grid: &Grid, x: Matrix<'_>, layout: &Layout, options: &Options) -> Result<TensorRange, GridError> {
    let rule = grid.rule();
    let mut range = tensor_range(x, layout, false)?;
    for bound in range.min.iter_mut().chain(range.max.iter_mut()) {
        *bound = rule.round(*bound * options.expand as f32);
    }
    if layout.is_empty() {
        return Ok(range);
    }
    let search = Search { grid, rule, x, layout, options, range: &range };
    let improvements = if layout.height == 1 { search.by_row() } else { search.by_band() };
    let end = last_step(&improvements, options);
    let best = improvements.iter().enumerate().map(|(index, steps)| search.candidate(index, steps.last_before(end)));
    let (min, max) = best.unzip();
    Ok(TensorRange { min, max, shape: range.shape })
}

/// The steps at which a rectangle improved, as bits.
struct Improvements {
    bits: Vec<u64>,
}

impl Improvements {
    /// Those of a sequence of errors.
    fn of(errors: &[f32]) -> Self {
        let mut bits = vec![0u64; errors.len().div_ceil(64)];
        let mut best = f32::MAX;
        for (step, error) in errors.iter().enumerate() {
            if *error < best {
                best = *error;
                bits[step / 64] |= 1 << (step % 64);
            }
        }
        Self { bits }
    }

    fn contains(&self, step: usize) -> bool {
        self.bits[step / 64] >> (step % 64) & 1 == 1
    }

    /// The last improvement before step `end`; the full range where there is none.
    fn last_before(&self, end: usize) -> usize {
        (0..end).rev().find(|step| self.contains(*step)).unwrap_or(0)
    }
}

/// The step before which the search ends: `patience` steps without an improvement anywhere.
fn last_step(improvements: &[Improvements], options: &Options) -> usize {
    let steps = options.steps();
    let words = steps.div_ceil(64);
    let mut any = vec![0u64; words];
    for rectangle in improvements {
        for (all, word) in any.iter_mut().zip(&rectangle.bits) {
            *all |= word;
        }
    }
    let any = Improvements { bits: any };
    let mut without = 0;
    for step in 0..steps {
        without = if any.contains(step) { 0 } else { without + 1 };
        if without >= options.patience {
            return step;
        }
    }
    steps
}

struct Search<'a> {
    grid: &'a Grid,
    rule: ScaleRule,
    x: Matrix<'a>,
    layout: &'a Layout,
    options: &'a Options,
    /// Of each rectangle, already expanded.
    range: &'a TensorRange,
}

impl Search<'_> {
    /// The range of a rectangle at a step.
    fn candidate(&self, index: usize, step: usize) -> (f32, f32) {
        let p = (1.0 - step as f64 / self.options.grid) as f32;
        (self.rule.round(self.range.min[index] * p), self.rule.round(self.range.max[index] * p))
    }

    /// The error of one row's share of a rectangle at every step. NVFP4 searches with unrounded scales, before there is a
    /// tensor-wide one.
    fn errors<'s>(&'s self, values: &'s [f32], index: usize) -> impl Iterator<Item = f32> + 's {
        let rule = if self.grid.is_two_level() { self.rule.with_unrounded_scales() } else { self.rule };
        let norm = self.options.norm as f32;
        (0..self.options.steps()).map(move |step| {
            let (min, max) = self.candidate(index, step);
            let (scale, zero_point) = rule.scale(min, max, None);
            with_codec!(self.grid.codec(), codec => kernel::search(codec, values, scale, zero_point as f32, norm))
        })
    }

    /// Rectangles within a row: each is finished at once.
    fn by_row(&self) -> Vec<Improvements> {
        let across = self.layout.shape()[1];
        let row = |(row, values): (usize, &[f32])| -> Vec<Improvements> {
            let mut errors = vec![0f32; self.options.steps()];
            let groups = values.chunks(self.layout.width).enumerate();
            groups
                .map(|(column, group)| {
                    for (slot, error) in errors.iter_mut().zip(self.errors(group, row * across + column)) {
                        *slot = error;
                    }
                    Improvements::of(&errors)
                })
                .collect()
        };
        self.x.values().par_chunks(self.x.columns()).enumerate().flat_map_iter(row).collect()
    }

    /// Rectangles over several rows: every row's share is summed in the order of the rows.
    fn by_band(&self) -> Vec<Improvements> {
        let (steps, across) = (self.options.steps(), self.layout.shape()[1]);
        let row = |(row, values): (usize, &[f32])| -> Vec<f32> {
            let first = row / self.layout.height * across;
            let groups = values.chunks(self.layout.width).enumerate();
            groups.flat_map(|(column, group)| self.errors(group, first + column)).collect()
        };
        let band = self.x.columns() * self.layout.height;
        let bands = self.x.values().chunks(band).enumerate();
        bands
            .flat_map(|(index, values)| {
                let first = index * self.layout.height;
                let rows: Vec<Vec<f32>> = values
                    .par_chunks(self.x.columns())
                    .enumerate()
                    .map(|(offset, values)| row((first + offset, values)))
                    .collect();
                let mut sums = vec![0f64; across * steps];
                for errors in rows {
                    for (sum, error) in sums.iter_mut().zip(errors) {
                        *sum += f64::from(error);
                    }
                }
                let errors: Vec<f32> = sums.iter().map(|sum| *sum as f32).collect();
                errors.chunks(steps).map(Improvements::of).collect::<Vec<_>>()
            })
            .collect()
    }
}
