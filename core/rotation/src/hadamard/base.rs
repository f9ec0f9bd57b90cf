//! Hadamard matrices whose order is no power of two.
//!
//! Paley 1933, "On orthogonal matrices", for orders q + 1 and 2 (q + 1) with q an odd prime power; where neither works
//! Williamson 1944, "Hadamard's determinant theorem and the sum of four squares", for four more orders below 256, and
//! [`turyn`] for 428; where none of them works, the Kronecker product of two smaller matrices, if their orders multiply to it.
//! The matrices are part of the format of rotated models: a test holds their digests.

use super::field::{Field, odd_prime_power};
use super::turyn;

/// Whether [`matrix`] can construct this order.
pub(super) fn base_order_exists(order: usize) -> bool {
    is_simple(order) || factors(order).is_some()
}

/// Whether each entry is -1, by rows.
pub(super) fn matrix(order: usize) -> Option<Vec<bool>> {
    if order == 1 {
        return Some(vec![false]);
    }
    if is_simple(order) {
        return match paley(order) {
            Some(Paley::One(q)) => Some(paley_one(&Field::new(q)?)),
            Some(Paley::Two(q)) => Some(paley_two(&Field::new(q)?)),
            None if turyn::exists(order) => turyn::matrix(order),
            None => Some(williamson_matrix(williamson(order)?)),
        };
    }
    let [a, b] = factors(order)?;
    let (outer, inner) = (matrix(a)?, matrix(b)?);
    Some(table(order, |row, column| outer[row / b * a + column / b] != inner[row % b * b + column % b]))
}

/// Whether there is a construction that needs no other matrix.
fn is_simple(order: usize) -> bool {
    order.is_multiple_of(4) && (paley(order).is_some() || turyn::exists(order) || williamson(order).is_some())
}

/// Two orders, neither a power of two, that multiply to this one; the first is the smallest that does.
fn factors(order: usize) -> Option<[usize; 2]> {
    let usable = |factor: &usize| !factor.is_power_of_two() && is_simple(*factor);
    let smaller = (12..=order.isqrt()).step_by(4).filter(|factor| order.is_multiple_of(*factor)).filter(usable);
    smaller.map(|factor| [factor, order / factor]).find(|[_, other]| usable(other))
}

enum Paley {
    One(usize),
    Two(usize),
}

fn paley(order: usize) -> Option<Paley> {
    let q = order.checked_sub(1)?;
    if q % 4 == 3 && odd_prime_power(q).is_some() {
        return Some(Paley::One(q));
    }
    let q = (order / 2).checked_sub(1)?;
    (order.is_multiple_of(4) && q % 4 == 1 && odd_prime_power(q).is_some()).then_some(Paley::Two(q))
}

/// H = I + S, S = [[0, -1], [1, Q]], Q_ij = χ(a_i - a_j), with χ(a) = 1 for squares, -1 for other elements, 0 for 0. For
/// q = 3 mod 4 S is skew, and S Sᵀ = q I. These are the signs of QuaRot's table for order 12.
fn paley_one(field: &Field) -> Vec<bool> {
    let (squares, order) = (field.squares(), field.size() + 1);
    let negative = |row: usize, column: usize| match (row, column) {
        (0, 0) => false,
        (0, _) => true,
        (_, 0) => false,
        _ => row != column && !squares[field.difference(row - 1, column - 1)],
    };
    table(order, negative)
}

/// H = S ⊗ [[1, 1], [1, -1]] + I ⊗ [[1, -1], [-1, -1]], S = [[0, 1], [1, Q]], symmetric for q = 1 mod 4.
fn paley_two(field: &Field) -> Vec<bool> {
    let (squares, order) = (field.squares(), 2 * (field.size() + 1));
    let negative = |row: usize, column: usize| {
        let (i, j) = (row / 2, column / 2);
        let (inner_row, inner_column) = (row % 2, column % 2);
        if i == j {
            return inner_row + inner_column > 0;
        }
        let other = i > 0 && j > 0 && !squares[field.difference(i - 1, j - 1)];
        other != (inner_row * inner_column == 1)
    };
    table(order, negative)
}

pub(super) fn table(order: usize, negative: impl Fn(usize, usize) -> bool) -> Vec<bool> {
    (0..order).flat_map(|row| (0..order).map(move |column| (row, column))).map(|(r, c)| negative(r, c)).collect()
}

/// First rows of four symmetric circulant matrices A, B, C, D of order n with A² + B² + C² + D² = 4n I: the orders up to 256
/// that Paley's constructions leave out and that are of this type. Such rows are found by search; orders 4 n = 92
/// (Baumert, Golomb, Hall 1962), 116, 156 (Baumert, Hall 1965) and 172 (Williamson 1944).
const WILLIAMSON: [[&str; 4]; 4] = [
    ["+++-+++-+------+-+++-++", "+++---++-+-++-+-++---++", "+-++-++--++++++--++-++-", "++---+---+-++-+---+---+"],
    [
        "++--+--+-+++-++++-+++-+--+--+",
        "++++-++-+---++++++---+-++-+++",
        "+-+---++--+-++++++-+--++---+-",
        "+++---++--+-+----+-+--++---++",
    ],
    [
        "+++--+-+-----+--++----++--+-----+-+--++",
        "++++---+--++----+-+--+-+----++--+---+++",
        "+++--++-+---+-+--+----+--+-+---+-++--++",
        "+---++-+-+-----+++-++-+++-----+-+-++---",
    ],
    [
        "+---++--++++-+-+++-++--++-+++-+-++++--++---",
        "++-++++++----+-+--++-++-++--+-+----++++++-+",
        "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
        "++---++++-+--+--++--------++--+--+-++++---+",
    ],
];

fn williamson(order: usize) -> Option<&'static [&'static str; 4]> {
    WILLIAMSON.iter().find(|rows| 4 * rows[0].len() == order)
}

/// [[A, B, C, D], [-B, A, -D, C], [-C, D, A, -B], [-D, -C, B, A]].
fn williamson_matrix(rows: &[&str; 4]) -> Vec<bool> {
    const ARRAY: [[(usize, bool); 4]; 4] = [
        [(0, false), (1, false), (2, false), (3, false)],
        [(1, true), (0, false), (3, true), (2, false)],
        [(2, true), (3, false), (0, false), (1, true)],
        [(3, true), (2, true), (1, false), (0, false)],
    ];
    let n = rows[0].len();
    table(4 * n, |row, column| {
        let (block, minus) = ARRAY[row / n][column / n];
        (rows[block].as_bytes()[(column % n + n - row % n) % n] == b'-') != minus
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> Vec<usize> {
        (3..=64).map(|quarter| 4 * quarter).filter(|order| base_order_exists(*order)).collect()
    }

    #[test]
    fn rows_are_orthogonal() {
        // Paley's second construction for Qwen2-72B, Turyn's sequences for the models with 13,696, a product.
        for order in orders().into_iter().chain([1, 300, 428, 924, 1904]) {
            let negative = matrix(order).unwrap();
            assert_eq!(negative.len(), order * order);
            // Of the large ones every 29th row against all before it.
            for i in (0..order).step_by(if order > 512 { 29 } else { 1 }) {
                for j in 0..=i {
                    let (a, b) = (&negative[i * order..(i + 1) * order], &negative[j * order..(j + 1) * order]);
                    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
                    assert_eq!(equal, if i == j { order } else { order / 2 }, "rows {i} and {j} of order {order}");
                }
            }
        }
    }

    /// Rotated models are read with these matrices: another construction would read them as other models.
    #[test]
    fn the_matrices_stay_as_they_are() {
        let digest = |order: usize| {
            matrix(order).unwrap().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, negative| {
                (hash ^ u64::from(*negative)).wrapping_mul(0x0000_0100_0000_01b3)
            })
        };
        let found: Vec<(usize, u64)> = [12, 20, 28, 36, 52, 76, 100, 156, 172].map(|o| (o, digest(o))).into();
        assert_eq!(found, DIGESTS);
    }

    const DIGESTS: &[(usize, u64)] = &[
        (12, 0x472d_1adc_7b0d_1269),
        (20, 0xd22c_29e2_feda_ef21),
        (28, 0x2288_a465_cc65_3d01),
        (36, 0xd655_31a4_ce7f_9935),
        (52, 0x1926_5462_8218_e9f5),
        (76, 0x75af_2288_acd8_d995),
        (100, 0xae38_5d2b_4bc3_cc35),
        (156, 0x54c7_629c_9bee_46a9),
        (172, 0x5adf_cf03_4eff_aca9),
    ];
}
