use super::*;
use crate::narrow::{narrow, pair};

const SHAPES: [(usize, usize); 5] = [(1, 1), (13, 5), (32, 64), (33, 131), (70, 97)];

fn matrix(rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * (columns + 3)).map(|i| (i as f32 * 0.37).sin()).collect()
}

/// Element `k` of the sum of row `row`, zero outside of the matrix.
fn element(from: Packing<'_, f32>, row: usize, k: usize) -> f32 {
    let (r, c) = if from.sum == Sum::AlongRows { (row, k) } else { (k, row) };
    if r < from.layout.rows && c < from.layout.columns { from.x[r * from.layout.stride + c] } else { 0.0 }
}

fn every_packing(check: impl Fn(Packing<'_, f32>)) {
    for (rows, columns) in SHAPES {
        let (x, layout) = (matrix(rows, columns), Layout { rows, columns, stride: columns + 3 });
        for sum in [Sum::AlongRows, Sum::DownColumns] {
            for by in [By::AllThreads, By::ThisThread] {
                check(Packing { x: &x, layout, sum, by });
            }
        }
    }
}

#[test]
fn every_value_is_at_its_place() {
    every_packing(|from| {
        let plain = Panels::values::<f32, 12>(from, from.length() + 2);
        let rounded = Panels::rounded::<f32, 12>(from, 2 * pairs(from.length()));
        let pairs = Panels::pairs::<f32, 12>(from);
        for row in 0..from.rows().next_multiple_of(12) {
            let (panel, index) = (row / 12, row % 12);
            for k in 0..plain.units() {
                assert_eq!(plain.part(panel, k..k + 1)[index], element(from, row, k));
            }
            for k in 0..rounded.units() {
                assert_eq!(rounded.part(panel, k..k + 1)[index], widen(narrow(element(from, row, k))));
            }
            for p in 0..pairs.units() {
                let expected = pair(element(from, row, 2 * p), Some(element(from, row, 2 * p + 1)));
                assert_eq!(pairs.part(panel, p..p + 1)[index], expected);
            }
        }
    });
}

#[test]
fn tiles_hold_rows_of_pairs() {
    every_packing(|from| {
        let tiles = Panels::tiles(from);
        for row in 0..from.rows().next_multiple_of(TILE_ROWS) {
            for p in 0..tiles.units() {
                let step = p / TILE_PAIRS * TILE_PAIRS;
                let found =
                    tiles.part(row / TILE_ROWS, step..step + TILE_PAIRS)[row % TILE_ROWS * TILE_PAIRS + p % TILE_PAIRS];
                assert_eq!(found, pair(element(from, row, 2 * p), Some(element(from, row, 2 * p + 1))));
            }
        }
    });
}

#[test]
fn stored_bits_are_packed_as_their_values() {
    let x = matrix(33, 47);
    let bits: Vec<[u8; 2]> = x.iter().map(|value| narrow(*value).to_le_bytes()).collect();
    let layout = Layout { rows: 33, columns: 47, stride: 50 };
    for sum in [Sum::AlongRows, Sum::DownColumns] {
        let by = By::ThisThread;
        let (values, stored) = (Packing { x: &x, layout, sum, by }, Packing { x: &bits, layout, sum, by });
        assert_eq!(Panels::pairs::<f32, 32>(values).values, Panels::pairs::<[u8; 2], 32>(stored).values);
        assert_eq!(Panels::rounded::<f32, 32>(values, 64).values, Panels::values::<[u8; 2], 32>(stored, 64).values);
    }
}
