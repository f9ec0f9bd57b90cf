//! Hadamard matrices of order 4 (3 n - 1) from Turyn-type sequences of length n, for orders that nothing simpler gives.
//!
//! Four sequences of signs, x, y and z of length n and w of length n - 1, whose aperiodic autocorrelations add up as
//! N_x + N_y + 2 N_z + 2 N_w = 0 at every shift but 0, give four circulant matrices of order t = 3 n - 1 with
//! A Aᵀ + B Bᵀ + C Cᵀ + D Dᵀ = 4 t I, and the array of Goethals and Seidel (1967) makes a Hadamard matrix of them. The
//! sequences of length 36 are those of Kharaghani and Tayfeh-Rezaie 2005, "A Hadamard matrix of order 428".

use super::base::table;

/// One digit a place: its bits, the highest first, are the signs of x, y, z and w (1 for minus; the last of w is no part).
const SEQUENCES: [&str; 1] = ["060989975b685d8fc80750b21c0212eceb2c"];

/// The sequences for an order, if there are some.
fn sequences(order: usize) -> Option<&'static str> {
    SEQUENCES.into_iter().find(|digits| 4 * (3 * digits.len() - 1) == order)
}

pub(super) fn exists(order: usize) -> bool {
    sequences(order).is_some()
}

/// The matrix: whether each entry is -1, by rows.
pub(super) fn matrix(order: usize) -> Option<Vec<bool>> {
    let digits = sequences(order)?;
    let sign = |bit: usize| move |digit: char| digit.to_digit(16).is_some_and(|digit| digit >> (3 - bit) & 1 == 1);
    let sequence = |bit: usize| digits.chars().map(sign(bit)).collect::<Vec<bool>>();
    let ([x, y, z], mut w) = ([0, 1, 2].map(sequence), sequence(3));
    w.pop();
    // (z, w) and (z, -w) with x and y are the base sequences; the first rows of the circulants follow from them.
    let join = |parts: [(&[bool], bool); 3]| -> Vec<bool> {
        parts.into_iter().flat_map(|(part, minus)| part.iter().map(move |negative| *negative != minus)).collect()
    };
    Some(goethals_seidel(&[
        join([(&z, false), (&w, false), (&x, false)]),
        join([(&z, true), (&w, false), (&y, false)]),
        join([(&z, true), (&w, true), (&x, false)]),
        join([(&z, true), (&w, false), (&y, true)]),
    ]))
}

/// The block rows of the array: which circulant stands there, with which sign, and whether it is transposed.
const ARRAY: [[(usize, bool, bool); 4]; 4] = [
    [(0, false, false), (1, false, false), (2, false, false), (3, false, false)],
    [(1, true, false), (0, false, false), (3, false, true), (2, true, true)],
    [(2, true, false), (3, true, true), (0, false, false), (1, false, true)],
    [(3, true, false), (2, false, true), (1, true, true), (0, false, false)],
];

/// Every circulant but the first is multiplied by the matrix of ones on the other diagonal.
fn goethals_seidel(rows: &[Vec<bool>; 4]) -> Vec<bool> {
    let t = rows[0].len();
    table(4 * t, |row, column| {
        let (circulant, minus, transposed) = ARRAY[row / t][column / t];
        let (i, j) = (row % t, if circulant == 0 { column % t } else { t - 1 - column % t });
        let shift = if transposed { i + t - j } else { j + t - i };
        rows[circulant][shift % t] != minus
    })
}
