//! What a batch is trained to predict.

/// Target and weight of every position of a batch, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Targets {
    /// The token that should follow each position; any valid id where the weight is zero.
    pub ids: Vec<u32>,
    /// How much each position counts.
    pub weights: Vec<f32>,
}

impl Targets {
    /// Next-token targets of `rows` of one length: position `i` predicts token `i + 1`, and counts if `mask` is set for
    /// that token. Nothing follows the last position, which never counts. Weights are 1 over the number of positions
    /// that count, so that the weighted sum is the mean loss.
    pub fn next_token(rows: &[Vec<u32>], mask: &[Vec<bool>]) -> Self {
        Self::next_token_of(rows, mask, Self::count(mask))
    }

    /// As [`next_token`](Self::next_token), with weights of 1 / `total`: where a batch is taken in several parts, each
    /// divides by the number of positions of the whole.
    pub fn next_token_of(rows: &[Vec<u32>], mask: &[Vec<bool>], total: usize) -> Self {
        let weight = 1.0 / total.max(1) as f32;
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for (row, mask) in rows.iter().zip(mask) {
            for i in 0..row.len() {
                let counts = mask.get(i + 1).copied().unwrap_or(false) && i + 1 < row.len();
                ids.push(if counts { row[i + 1] } else { 0 });
                weights.push(if counts { weight } else { 0.0 });
            }
        }
        Self { ids, weights }
    }

    /// Positions that count in next-token targets under a mask.
    pub fn count(mask: &[Vec<bool>]) -> usize {
        mask.iter().map(|row| row.iter().skip(1).filter(|counts| **counts).count()).sum()
    }
}
