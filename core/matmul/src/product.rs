//! Products of whole matrices out of products of panels.

use rayon::prelude::*;

use crate::Precision;
use crate::cpu::Kernel;
use crate::kernel::{Amx, Dot, Fma256, Fma512, LEFT, Loops, MicroKernel, RIGHT, Tile, multiply};
use crate::narrow::Element;
use crate::panels::{By, Layout, Packing, Panels, Sum, pairs};

/// Units of the right operand that are multiplied before a part of the result goes back to memory: as much of two panels as the nearer
/// caches hold. It decides the order of sums, so it is the same on every CPU.
const UNITS: usize = 512;

/// Rows of the result that one task computes at most: their share of the left operand stays in the second cache while panels of
/// the right one pass.
const TASK_ROWS: usize = 96;

/// The left operand of a product, packed.
pub struct Left {
    panels: LeftPanels,
    kernel: Kernel,
    rows: usize,
    length: usize,
}

enum LeftPanels {
    Values(Panels<f32>),
    Pairs(Panels<u32>),
    Tiles(Panels<u32>),
}

/// The right operand of a product, packed: its rows become the columns of the result.
pub struct Right {
    panels: RightPanels,
    rows: usize,
    length: usize,
}

enum RightPanels {
    Values(Panels<f32>),
    Pairs(Panels<u32>),
}

impl Left {
    pub(crate) fn pack<E: Element>(from: Packing<'_, E>, precision: Precision, kernel: Kernel) -> Self {
        // Kernels run instructions that other CPUs do not have.
        assert!(kernel.available() && kernel.multiplies(precision));
        // A right operand of values has no more of them than there are, one of pairs is filled up.
        let filled = 2 * pairs(from.length());
        let panels = match (precision, kernel) {
            (Precision::Bf16, Kernel::Amx) => LeftPanels::Tiles(Panels::tiles(from)),
            (Precision::Bf16, Kernel::Avx512Bf16) => LeftPanels::Pairs(Panels::pairs::<E, LEFT>(from)),
            (Precision::Bf16, _) => LeftPanels::Values(Panels::rounded::<E, LEFT>(from, filled)),
            (Precision::F32, _) => LeftPanels::Values(Panels::values::<E, LEFT>(from, filled)),
        };
        Self { panels, kernel, rows: from.rows(), length: from.length() }
    }

    /// Packs the rows of `x` on this thread alone.
    pub fn along_rows(x: &[f32], layout: Layout, precision: Precision) -> Self {
        let from = Packing { x, layout, sum: Sum::AlongRows, by: By::ThisThread };
        Self::pack(from, precision, Kernel::of(precision))
    }

    /// Rows, and elements of a sum.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows, self.length)
    }
}

impl Right {
    pub(crate) fn pack<E: Element>(from: Packing<'_, E>, precision: Precision) -> Self {
        let panels = match precision {
            Precision::Bf16 => RightPanels::Pairs(Panels::pairs::<E, RIGHT>(from)),
            Precision::F32 => RightPanels::Values(Panels::values::<E, RIGHT>(from, from.length())),
        };
        Self { panels, rows: from.rows(), length: from.length() }
    }

    /// Packs numbers that are stored in bfloat16, which both precisions multiply as they are.
    pub(crate) fn pack_stored(from: Packing<'_, [u8; 2]>) -> Self {
        Self::pack(from, Precision::Bf16)
    }

    /// Packs the rows of `x` on this thread alone.
    pub fn along_rows(x: &[f32], layout: Layout, precision: Precision) -> Self {
        Self::pack(Packing { x, layout, sum: Sum::AlongRows, by: By::ThisThread }, precision)
    }

    /// Packs the columns of `x` on this thread alone.
    pub fn down_columns(x: &[f32], layout: Layout, precision: Precision) -> Self {
        Self::pack(Packing { x, layout, sum: Sum::DownColumns, by: By::ThisThread }, precision)
    }
}

/// What a product is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onto {
    /// What was there before does not count.
    Nothing,
    Values,
}

/// The part of a result that is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// On and right of the diagonal; what is left of it may be anything.
    Upper,
}

/// `out` `[rows of left, columns]`, the product of `left` and the first `columns` rows of `right`, on this thread alone. Sums are as
/// long as `left` is; `right` may be longer.
///
/// # Panics
/// The shapes do not fit.
pub fn product(out: &mut [f32], columns: usize, left: &Left, right: &Right) {
    run(out, left, right, Whole { columns, onto: Onto::Nothing, part: Part::All, by: By::ThisThread });
}

/// `out` = `left rightᵀ`, or `out + left rightᵀ`.
///
/// # Panics
/// The shapes do not fit.
pub(crate) fn run(out: &mut [f32], left: &Left, right: &Right, whole: Whole) {
    assert!(left.length <= right.length && whole.columns <= right.rows && out.len() == left.rows * whole.columns);
    if left.length == 0 && whole.onto == Onto::Nothing {
        out.fill(0.0);
    }
    match (&left.panels, &right.panels, left.kernel) {
        (LeftPanels::Tiles(left), RightPanels::Pairs(right), _) => whole.multiply::<Amx>(out, left, right),
        (LeftPanels::Pairs(left), RightPanels::Pairs(right), _) => whole.multiply::<Dot>(out, left, right),
        (LeftPanels::Values(left), RightPanels::Values(right), kernel) => match kernel {
            Kernel::Avx512 => whole.multiply::<Fma512<f32>>(out, left, right),
            Kernel::Avx2 => whole.multiply::<Fma256<f32>>(out, left, right),
            _ => whole.multiply::<Loops<f32>>(out, left, right),
        },
        (LeftPanels::Values(left), RightPanels::Pairs(right), kernel) => match kernel {
            Kernel::Avx512 => whole.multiply::<Fma512<u32>>(out, left, right),
            Kernel::Avx2 => whole.multiply::<Fma256<u32>>(out, left, right),
            _ => whole.multiply::<Loops<u32>>(out, left, right),
        },
        _ => panic!("operands of a product that are packed for different precisions"),
    }
}

/// What of a product is computed, onto what, and by whom.
#[derive(Clone, Copy)]
pub(crate) struct Whole {
    /// Of the result.
    pub(crate) columns: usize,
    pub(crate) onto: Onto,
    pub(crate) part: Part,
    pub(crate) by: By,
}

impl Whole {
    fn multiply<M: MicroKernel>(self, out: &mut [f32], left: &Panels<M::Left>, right: &Panels<M::Right>) {
        if out.is_empty() {
            return;
        }
        let rows = out.len() / self.columns;
        let threads = if self.by == By::ThisThread { 1 } else { rayon::current_num_threads() };
        match self.part {
            _ if threads == 1 => M::within(|| self.rows::<M>(out, 0, left, right)),
            Part::All if rows.div_ceil(M::ROWS) < 2 * threads => self.by_columns::<M>(out, left, right, threads),
            _ => self.by_rows::<M>(out, 0, left, right),
        }
    }

    /// Halves the rows until few enough are left for a task.
    fn by_rows<M: MicroKernel>(self, out: &mut [f32], first: usize, left: &Panels<M::Left>, right: &Panels<M::Right>) {
        let rows = out.len() / self.columns;
        if rows <= TASK_ROWS {
            M::within(|| self.rows::<M>(out, first, left, right));
            return;
        }
        let half = (rows / 2).next_multiple_of(M::ROWS);
        let (upper, lower) = out.split_at_mut(half * self.columns);
        rayon::join(
            || self.by_rows::<M>(upper, first, left, right),
            || self.by_rows::<M>(lower, first + half, left, right),
        );
    }

    /// Computes a result of few rows in stripes of columns, each in memory of its own.
    fn by_columns<M: MicroKernel>(
        self,
        out: &mut [f32],
        left: &Panels<M::Left>,
        right: &Panels<M::Right>,
        threads: usize,
    ) {
        let (columns, rows) = (self.columns, out.len() / self.columns);
        let width = columns.div_ceil(4 * threads).next_multiple_of(RIGHT);
        let stripe = |start: usize| -> Vec<f32> {
            let stripe = start..columns.min(start + width);
            let mut values: Vec<f32> = match self.onto {
                Onto::Nothing => vec![0.0; rows * stripe.len()],
                Onto::Values => out.chunks_exact(columns).flat_map(|row| &row[stripe.clone()]).copied().collect(),
            };
            let whole = Self { columns: stripe.len(), ..self };
            M::within(|| whole.stripe::<M>(&mut values, 0, left, right, start / RIGHT));
            values
        };
        let starts: Vec<usize> = (0..columns).step_by(width).collect();
        let stripes: Vec<Vec<f32>> = starts.par_iter().map(|start| stripe(*start)).collect();
        for (start, values) in starts.into_iter().zip(stripes) {
            let width = width.min(columns - start);
            for (row, values) in out.chunks_exact_mut(columns).zip(values.chunks_exact(width)) {
                row[start..start + width].copy_from_slice(values);
            }
        }
    }

    /// The rows from `first` on.
    fn rows<M: MicroKernel>(self, out: &mut [f32], first: usize, left: &Panels<M::Left>, right: &Panels<M::Right>) {
        self.stripe::<M>(out, first, left, right, 0);
    }

    /// The rows from `first` on, of the columns from a panel of the right operand on.
    fn stripe<M: MicroKernel>(
        self,
        out: &mut [f32],
        first: usize,
        left: &Panels<M::Left>,
        right: &Panels<M::Right>,
        first_panel: usize,
    ) {
        let (columns, rows) = (self.columns, out.len() / self.columns.max(1));
        let length = right.units().min(left.units() / M::LEFT_UNITS);
        for start in (0..length).step_by(UNITS) {
            let units = start..length.min(start + UNITS);
            let add = self.onto == Onto::Values || start > 0;
            for (panel, column) in (0..columns).step_by(RIGHT).enumerate() {
                let b = right.part(first_panel + panel, units.clone());
                for row in (0..rows).step_by(M::ROWS) {
                    if self.part == Part::Upper && column + RIGHT <= first + row {
                        continue;
                    }
                    let a = left.part((first + row) / M::ROWS, units.start * M::LEFT_UNITS..units.end * M::LEFT_UNITS);
                    let (height, width) = (M::ROWS.min(rows - row), RIGHT.min(columns - column));
                    let values = &mut out[row * columns + column..];
                    multiply::<M>(a, b, Tile { values, stride: columns, height, width, add });
                }
            }
        }
    }
}
