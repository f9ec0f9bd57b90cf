//! The loop over columns.

use gemm::Parallelism;
use rayon::prelude::*;
use workbench_quant::ColumnRounder;

use crate::factor::Factor;

/// Rows that are worked on together. They lie side by side in memory, so that every step of the loop is a step of all.
const ROWS: usize = 64;

/// Columns after which the errors reach all later columns, by one matrix product.
const BLOCK: usize = 128;

/// Columns after which the errors reach the rest of their block.
const STRIP: usize = 16;

/// What the loop made.
pub struct Rounded {
    /// `[rows, columns]` row by row.
    pub codes: Vec<i8>,
    /// `Σ (w - q)² / U² / 2` over all weights but those of channels that were always zero, which is `tr(E (H + λI) Eᵀ) / 2` for
    /// the error `E` of the weight.
    pub loss: f64,
}

/// Rounds the columns of a weight `W` `[rows, columns]` one after the other, and lets the columns that are still to come make
/// up for the error of each (Frantar et al. 2022, arXiv:2210.17323, algorithm 1):
///
/// ```text
/// for c in order:
///     Q[:,c] = round(W[:,c])
///     E      = (W[:,c] - Q[:,c]) / U[c,c]
///     W[:,j] = W[:,j] - E U[c,j]            for all j that come later
/// ```
///
/// The column of a channel that no token excited is rounded as it stands. (The original code and those that follow it set such
/// weights to zero, where any text that excites the channel after all meets a weight that is not there.)
///
/// The last line is put off: within a strip of columns it is done at once, for the rest of a block after each strip, and for
/// all other columns after each block, so that nearly all the work is matrix products. Rows do not depend on each other.
pub fn round_columns(weight: &[f32], factor: &Factor, rounder: &ColumnRounder) -> Rounded {
    let columns = factor.order.len();
    let mut codes = vec![0_i8; weight.len()];
    let tiles = weight.par_chunks(ROWS * columns).zip(codes.par_chunks_mut(ROWS * columns)).enumerate();
    let losses: Vec<f64> = tiles
        .map(|(index, (weight, codes))| {
            let mut tile = Tile::new(weight, factor);
            for start in (0..columns).step_by(BLOCK) {
                tile.block(start..columns.min(start + BLOCK), index * ROWS, rounder);
            }
            tile.put_codes(codes);
            tile.loss
        })
        .collect();
    // In the order of the tiles, so that threads cannot change the sum.
    Rounded { codes, loss: losses.iter().sum() }
}

/// Some rows of the weight with the columns in the order of their rounding.
struct Tile<'a> {
    factor: &'a Factor,
    rows: usize,
    /// `[columns, rows]`.
    weight: Vec<f32>,
    /// `[columns, rows]`.
    codes: Vec<i8>,
    /// `[BLOCK, rows]`: the errors of the columns of a block.
    errors: Vec<f32>,
    loss: f64,
}

impl<'a> Tile<'a> {
    fn new(given: &[f32], factor: &'a Factor) -> Self {
        let columns = factor.order.len();
        let rows = given.len() / columns.max(1);
        let mut weight = vec![0.0; given.len()];
        for (column, out) in factor.order.iter().zip(weight.chunks_exact_mut(rows)) {
            out.iter_mut().zip(given.chunks_exact(columns)).for_each(|(out, row)| *out = row[*column]);
        }
        let (codes, errors) = (vec![0; given.len()], vec![0.0; BLOCK * rows]);
        Self { factor, rows, weight, codes, errors, loss: 0.0 }
    }

    fn block(&mut self, block: std::ops::Range<usize>, first_row: usize, rounder: &ColumnRounder) {
        for start in block.clone().step_by(STRIP) {
            let strip = start..block.end.min(start + STRIP);
            for column in strip.clone() {
                self.round(column, block.start, first_row, rounder);
                self.spread_one(column, block.start, column + 1..strip.end);
            }
            self.spread(strip.clone(), block.start, strip.end..block.end);
        }
        self.spread(block.clone(), block.start, block.end..self.factor.order.len());
    }

    /// Rounds a column and notes its error.
    fn round(&mut self, column: usize, block: usize, first_row: usize, rounder: &ColumnRounder) {
        let rows = self.rows;
        let at = column * rows..(column + 1) * rows;
        let mut values = [0.0; ROWS];
        let values = &mut values[..rows];
        rounder.round(
            self.factor.order[column],
            first_row,
            &self.weight[at.clone()],
            &mut self.codes[at.clone()],
            values,
        );
        let errors = &mut self.errors[(column - block) * rows..][..rows];
        if self.factor.dead[column] {
            // The error meets no input that was seen, and no other column could make up for it.
            errors.fill(0.0);
            return;
        }
        let pivot = self.factor.upper[column * (self.factor.order.len() + 1)];
        let mut sum = 0.0;
        for ((error, w), q) in errors.iter_mut().zip(&self.weight[at]).zip(values) {
            *error = (w - *q) / pivot;
            sum += f64::from(*error) * f64::from(*error);
        }
        self.loss += sum / 2.0;
    }

    /// Takes the error of one column from the columns `to`.
    fn spread_one(&mut self, column: usize, block: usize, to: std::ops::Range<usize>) {
        let (rows, columns) = (self.rows, self.factor.order.len());
        let errors = &self.errors[(column - block) * rows..][..rows];
        for later in to {
            let share = self.factor.upper[column * columns + later];
            for (w, error) in self.weight[later * rows..][..rows].iter_mut().zip(errors) {
                *w -= share * error;
            }
        }
    }

    /// Takes the errors of the columns `from` of a block from the columns `to`: `W[to] -= U[from, to]ᵀ E[from]`.
    fn spread(&mut self, from: std::ops::Range<usize>, block: usize, to: std::ops::Range<usize>) {
        let (rows, columns) = (self.rows, self.factor.order.len());
        if to.is_empty() {
            return;
        }
        let weight = &mut self.weight[to.start * rows..to.end * rows];
        let errors = &self.errors[(from.start - block) * rows..(from.end - block) * rows];
        let upper = &self.factor.upper[from.start * columns..from.end * columns];
        // SAFETY: `weight` holds `to.len()` rows of `rows` values and is borrowed mutably; `errors` holds `from.len()` rows of
        // `rows` values; `upper` holds `from.len()` rows of `columns` values, of which the columns `to` are read.
        #[allow(unsafe_code)]
        unsafe {
            gemm::gemm(
                to.len(),
                rows,
                from.len(),
                weight.as_mut_ptr(),
                1,
                rows as isize,
                true,
                upper.as_ptr().add(to.start),
                columns as isize,
                1,
                errors.as_ptr(),
                1,
                rows as isize,
                1.0,
                -1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }

    /// Writes the codes `[rows, columns]` with the columns where they belong.
    fn put_codes(&self, to: &mut [i8]) {
        let columns = self.factor.order.len();
        for (column, codes) in self.factor.order.iter().zip(self.codes.chunks_exact(self.rows)) {
            to.chunks_exact_mut(columns).zip(codes).for_each(|(row, code)| row[*column] = *code);
        }
    }
}
