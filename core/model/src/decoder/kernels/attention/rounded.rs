//! Attention whose products have factors in bfloat16.

use rayon::prelude::*;

use super::{Chunk, Exact, Problem, Products};
use crate::bf16::{self, LEFT, Layout, Panels, RIGHT};

/// Keys and values of every sequence and kv head, packed once for all chunks of queries.
pub(super) struct Packed<'a> {
    heads: Vec<Head>,
    problem: Problem<'a>,
}

struct Head {
    keys: Panels<RIGHT>,
    values: Panels<RIGHT>,
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
                keys: Panels::along_rows_here(&k[start..], layout),
                values: Panels::down_columns_here(&v[start..], layout),
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
        bf16::product(scores, chunk.keys, &left, &self.head(kv_head).keys);
    }

    fn mix(&self, kv_head: (usize, usize), chunk: &Chunk, probabilities: &[f32], mixed: &mut [f32]) {
        let left = pack(probabilities, chunk.keys);
        bf16::product(mixed, self.problem.dim, &left, &self.head(kv_head).values);
    }
}

fn pack(x: &[f32], columns: usize) -> Panels<LEFT> {
    Panels::along_rows_here(x, Layout::dense(x.len() / columns.max(1), columns))
}

/// The same on other CPUs, of queries, keys and values that are rounded already.
pub(super) struct Anywhere<'a>(pub(super) Exact<'a>);

impl Products for Anywhere<'_> {
    fn scale(&self) -> f32 {
        self.0.scale()
    }

    fn score(&self, kv_head: (usize, usize), chunk: &Chunk, queries: &[f32], scores: &mut [f32]) {
        self.0.score(kv_head, chunk, queries, scores);
    }

    fn mix(&self, kv_head: (usize, usize), chunk: &Chunk, probabilities: &[f32], mixed: &mut [f32]) {
        self.0.mix(kv_head, chunk, &bf16::rounded(probabilities), mixed);
    }
}
