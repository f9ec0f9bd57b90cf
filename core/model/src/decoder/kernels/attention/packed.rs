//! Attention whose products have operands in bfloat16.

use rayon::prelude::*;

use workbench_matmul::{Layout, Left, Precision, Right, product};

use super::{Chunk, Problem, Products};

/// Keys and values of every sequence and kv head, packed once for all chunks of queries.
pub(super) struct Packed<'a> {
    heads: Vec<Head>,
    problem: Problem<'a>,
}

struct Head {
    keys: Right,
    values: Right,
}

impl<'a> Packed<'a> {
    /// Packs `k` and `v` `[batch, capacity, kv_heads, dim]`.
    pub(super) fn new(k: &[f32], v: &[f32], problem: Problem<'a>) -> Self {
        let pack = |head: usize| {
            let (sequence, kv_head) = (head / problem.kv_heads, head % problem.kv_heads);
            let rows = problem.past[sequence] + problem.lens[sequence];
            let start = sequence * problem.capacity * problem.kv_row() + kv_head * problem.dim;
            let layout = Layout { rows, columns: problem.dim, stride: problem.kv_row() };
            Head {
                keys: Right::along_rows(&k[start..], layout, Precision::Bf16),
                values: Right::down_columns(&v[start..], layout, Precision::Bf16),
            }
        };
        let heads = (0..problem.past.len() * problem.kv_heads).into_par_iter().map(pack).collect();
        Self { heads, problem }
    }

    fn head(&self, (sequence, kv_head): (usize, usize)) -> &Head {
        &self.heads[sequence * self.problem.kv_heads + kv_head]
    }
}

impl Products for Packed<'_> {
    fn scale(&self) -> f32 {
        self.problem.scale
    }

    fn score(&self, kv_head: (usize, usize), chunk: &Chunk, queries: &[f32], scores: &mut [f32]) {
        let left = pack(queries, self.problem.dim);
        product(scores, chunk.keys, &left, &self.head(kv_head).keys);
    }

    fn attend(&self, kv_head: (usize, usize), chunk: &Chunk, probabilities: &[f32], mixed: &mut [f32]) {
        let left = pack(probabilities, chunk.keys);
        product(mixed, self.problem.dim, &left, &self.head(kv_head).values);
    }
}

fn pack(x: &[f32], columns: usize) -> Left {
    Left::along_rows(x, Layout::dense(x.len() / columns.max(1), columns), Precision::Bf16)
}
