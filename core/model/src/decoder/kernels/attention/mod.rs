//! Causal grouped-query attention, without ever holding the whole score matrix.
//!
//! Queries are taken in chunks. A chunk needs the keys up to its last position only, so the products skip most of the
//! masked half, and its scores stay in the cache of one core. The backward pass computes the scores again.

mod packed;

use std::cell::RefCell;

use gemm::Parallelism;
use rayon::prelude::*;

use super::matmul::{Operand, product};
use super::vector::{exp, max, sum, vectorized};
use super::{PARALLEL, Shared};
use workbench_matmul::{Precision, by_pieces};

/// Queries per chunk.
const QUERIES: usize = 64;

/// Shapes: queries `[batch, len, heads, dim]`, keys and values `[batch, capacity, kv_heads, dim]`.
///
/// Query `i` of sequence `b` stands at position `past[b] + i` and sees the keys `0..=past[b] + i`. Queries from
/// `lens[b]` on are padding: their output is zero, and no gradient passes through them.
#[derive(Clone, Copy)]
pub(crate) struct Problem<'a> {
    pub(crate) past: &'a [usize],
    pub(crate) lens: &'a [usize],
    pub(crate) len: usize,
    pub(crate) capacity: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
    pub(crate) scale: f32,
    /// How many keys a query sees at most, its own the last; `usize::MAX` where it sees all.
    pub(crate) window: usize,
    /// For each query head a score that takes its share of the probability and mixes nothing in (attention sinks).
    pub(crate) sinks: Option<&'a [f32]>,
}

/// The queries `first..last` of one head of one sequence, and the keys `0..keys` that they see.
struct Chunk {
    query_start: usize,
    key_start: usize,
    rows: usize,
    keys: usize,
    /// Keys that the chunk's first query sees.
    visible: usize,
}

impl Problem<'_> {
    fn row(&self) -> usize {
        self.heads * self.dim
    }

    fn kv_row(&self) -> usize {
        self.kv_heads * self.dim
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Softmax of the scores of one head of a chunk, times `scale`; the share of the sink of each row where there are sinks.
    fn softmax(&self, scores: &mut [f32], chunk: &Chunk, head: usize, scale: f32) -> Vec<f32> {
        match self.sinks {
            None => {
                causal_softmax(scores, chunk.keys, chunk.visible, self.window, scale);
                Vec::new()
            }
            Some(sinks) => {
                let mut shares = vec![0.0; chunk.rows];
                sink_softmax(scores, chunk.keys, chunk.visible, self.window, scale, sinks[head], &mut shares);
                shares
            }
        }
    }

    fn chunk(&self, sequence: usize, head: usize, first: usize) -> Chunk {
        let rows = QUERIES.min(self.lens[sequence] - first);
        let visible = self.past[sequence] + first + 1;
        Chunk {
            query_start: (sequence * self.len + first) * self.row() + head * self.dim,
            key_start: sequence * self.capacity * self.kv_row() + head / self.group() * self.dim,
            rows,
            keys: visible + rows - 1,
            visible,
        }
    }

    fn check(&self, q: &[f32], k: &[f32], v: &[f32]) {
        let batch = self.past.len();
        assert_eq!(q.len(), batch * self.len * self.row());
        assert_eq!(k.len(), batch * self.capacity * self.kv_row());
        assert_eq!(v.len(), k.len());
        assert!(self.lens.len() == batch && self.heads.is_multiple_of(self.kv_heads) && self.window > 0);
        assert!(self.sinks.is_none_or(|sinks| sinks.len() == self.heads));
        let fits = |(past, len): (&usize, &usize)| *len <= self.len && past + len <= self.capacity;
        assert!(self.past.iter().zip(self.lens).all(fits));
    }
}

vectorized! {
    /// Softmax over the last `window` of the first `visible + row` scores of each row times `scale`, zero elsewhere.
    fn causal_softmax(scores: &mut [f32], keys: usize, visible: usize, window: usize, scale: f32) {
        for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let (seen, masked) = scores.split_at_mut(visible + row);
            masked.fill(0.0);
            let (past, seen) = seen.split_at_mut((visible + row).saturating_sub(window));
            past.fill(0.0);
            let most = max(seen);
            for score in seen.iter_mut() {
                *score = exp((*score - most) * scale);
            }
            let inverse = 1.0 / sum(seen.len(), |i| seen[i]);
            for score in seen.iter_mut() {
                *score *= inverse;
            }
        }
    }
}

vectorized! {
    /// The same with one more score, `sink`, in each row, whose probability goes to `shares`.
    fn sink_softmax(
        scores: &mut [f32],
        keys: usize,
        visible: usize,
        window: usize,
        scale: f32,
        sink: f32,
        shares: &mut [f32],
    ) {
        for ((row, scores), share) in scores.chunks_exact_mut(keys).enumerate().zip(shares) {
            let (seen, masked) = scores.split_at_mut(visible + row);
            masked.fill(0.0);
            let (past, seen) = seen.split_at_mut((visible + row).saturating_sub(window));
            past.fill(0.0);
            let most = (max(seen) * scale).max(sink);
            for score in seen.iter_mut() {
                *score = exp(*score * scale - most);
            }
            let sink = exp(sink - most);
            let inverse = 1.0 / (sum(seen.len(), |i| seen[i]) + sink);
            for score in seen.iter_mut() {
                *score *= inverse;
            }
            *share = sink * inverse;
        }
    }
}

vectorized! {
    /// The softmax's backward pass in place: dS = P (dP - sum(P dP)). What a sink would get goes to `by_sink`, row by row.
    fn causal_softmax_backward(
        p: &[f32],
        dp: &mut [f32],
        keys: usize,
        visible: usize,
        shares: &[f32],
        by_sink: &mut f32,
    ) {
        for (row, (p, dp)) in p.chunks_exact(keys).zip(dp.chunks_exact_mut(keys)).enumerate() {
            let seen = visible + row;
            let dot = sum(seen, |i| p[i] * dp[i]);
            if let Some(share) = shares.get(row) {
                *by_sink -= share * dot;
            }
            for i in 0..seen {
                dp[i] = p[i] * (dp[i] - dot);
            }
            dp[seen..].fill(0.0);
        }
    }
}

thread_local! {
    /// Scores of one chunk, and other numbers of its rows; kept, because fresh pages cost more than the arithmetic.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

fn with_scratch(first: usize, second: usize, f: impl FnOnce(&mut [f32], &mut [f32])) {
    SCRATCH.with_borrow_mut(|(a, b)| {
        for (buffer, len) in [(&mut *a, first), (&mut *b, second)] {
            if buffer.len() < len {
                buffer.resize(len, 0.0);
            }
        }
        f(&mut a[..first], &mut b[..second]);
    });
}

/// The two products of attention, for the query heads of one kv head.
trait Products: Sync {
    /// What the scores still have to be multiplied by.
    fn scale(&self) -> f32;

    /// `scores` `[rows, keys]` of `queries` `[rows, dim]`.
    fn score(&self, kv_head: (usize, usize), chunk: &Chunk, queries: &[f32], scores: &mut [f32]);

    /// Values `mixed` `[rows, dim]` by `probabilities` `[rows, keys]`.
    fn attend(&self, kv_head: (usize, usize), chunk: &Chunk, probabilities: &[f32], mixed: &mut [f32]);
}

/// softmax(scale q k^T) v, of the shape of `q`. In bfloat16 the operands of both products are rounded, the probabilities too.
///
/// The query heads that share a kv head are taken together: a product then brings the keys into its own order once for all of
/// them, which costs as much as the product itself where only a few rows use them.
pub(crate) fn forward(q: &[f32], k: &[f32], v: &[f32], problem: Problem<'_>, precision: Precision) -> Vec<f32> {
    problem.check(q, k, v);
    match precision {
        Precision::F32 => each_chunk(q, problem, &Exact { k, v, problem }),
        Precision::Bf16 => each_chunk(q, problem, &packed::Packed::new(k, v, problem)),
    }
}

fn each_chunk(q: &[f32], problem: Problem<'_>, products: &impl Products) -> Vec<f32> {
    let mut out = by_pieces(q.len(), PARALLEL, |_, _| {});
    let to = Shared(out.as_mut_ptr());
    let tasks: Vec<(usize, usize, usize)> = (0..problem.past.len())
        .flat_map(|sequence| {
            let firsts = (0..problem.lens[sequence]).step_by(QUERIES);
            firsts.flat_map(move |first| (0..problem.kv_heads).map(move |head| (sequence, head, first)))
        })
        .collect();
    tasks.into_par_iter().for_each(|(sequence, kv_head, first)| {
        let (group, dim) = (problem.group(), problem.dim);
        let chunk = problem.chunk(sequence, kv_head * group, first);
        let rows = group * chunk.rows;
        with_scratch(rows * chunk.keys, rows * dim, |scores, heads| {
            // [group, rows, dim]
            for (row, to) in heads.chunks_exact_mut(dim).enumerate() {
                let from = chunk.query_start + row % chunk.rows * problem.row() + row / chunk.rows * dim;
                to.copy_from_slice(&q[from..from + dim]);
            }
            products.score((sequence, kv_head), &chunk, heads, scores);
            for (index, scores) in scores.chunks_exact_mut(chunk.rows * chunk.keys).enumerate() {
                problem.softmax(scores, &chunk, kv_head * group + index, products.scale());
            }
            products.attend((sequence, kv_head), &chunk, scores, heads);
            for (row, from) in heads.chunks_exact(dim).enumerate() {
                let start = chunk.query_start + row % chunk.rows * problem.row() + row / chunk.rows * dim;
                // SAFETY: `check` has held the slices against the problem's shapes, and each task writes the rows of its own
                // sequence, chunk and heads, which lie inside of `out`.
                #[allow(unsafe_code)]
                unsafe {
                    std::ptr::copy_nonoverlapping(from.as_ptr(), to.get().add(start), dim);
                }
            }
        });
    });
    out
}

/// Products in f32.
struct Exact<'a> {
    k: &'a [f32],
    v: &'a [f32],
    problem: Problem<'a>,
}

impl Products for Exact<'_> {
    fn scale(&self) -> f32 {
        1.0
    }

    fn score(&self, _: (usize, usize), chunk: &Chunk, queries: &[f32], scores: &mut [f32]) {
        let (rows, dim) = (queries.len() / self.problem.dim, self.problem.dim);
        // SAFETY: `check` has held the keys against the problem's shapes; there are `keys` scores for each row.
        #[allow(unsafe_code)]
        unsafe {
            let key = Operand::new(self.k.as_ptr().add(chunk.key_start), self.problem.kv_row()).transposed();
            let query = Operand::new(queries.as_ptr(), dim);
            let (shape, scale) = ((rows, chunk.keys, dim), self.problem.scale);
            product(shape, scores.as_mut_ptr(), chunk.keys, query, key, scale, false, Parallelism::None);
        }
    }

    fn attend(&self, _: (usize, usize), chunk: &Chunk, probabilities: &[f32], mixed: &mut [f32]) {
        let (rows, dim) = (mixed.len() / self.problem.dim, self.problem.dim);
        // SAFETY: as above, for the values.
        #[allow(unsafe_code)]
        unsafe {
            let value = Operand::new(self.v.as_ptr().add(chunk.key_start), self.problem.kv_row());
            let probability = Operand::new(probabilities.as_ptr(), chunk.keys);
            let shape = (rows, dim, chunk.keys);
            product(shape, mixed.as_mut_ptr(), dim, probability, value, 1.0, false, Parallelism::None);
        }
    }
}

/// # Safety
/// The chunk must lie inside of `q` and `k`, and `scores` hold `rows * keys` elements.
#[allow(unsafe_code)]
unsafe fn probabilities(
    q: &[f32],
    k: &[f32],
    problem: &Problem<'_>,
    (chunk, head): (&Chunk, usize),
    scores: &mut [f32],
) -> Vec<f32> {
    // SAFETY: the caller vouches for the ranges.
    unsafe {
        product(
            (chunk.rows, chunk.keys, problem.dim),
            scores.as_mut_ptr(),
            chunk.keys,
            Operand::new(q.as_ptr().add(chunk.query_start), problem.row()),
            Operand::new(k.as_ptr().add(chunk.key_start), problem.kv_row()).transposed(),
            problem.scale,
            false,
            Parallelism::None,
        );
    }
    problem.softmax(scores, chunk, head, 1.0)
}

/// The gradients by queries, keys and values, and by the sinks where there are any, given `g`, the gradient by the output.
pub(crate) fn backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    g: &[f32],
    problem: Problem<'_>,
) -> (Vec<f32>, Vec<f32>, Vec<f32>, Vec<f32>) {
    problem.check(q, k, v);
    assert_eq!(g.len(), q.len());
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    // By sequence and query head.
    let mut by_sink = vec![0.0; if problem.sinks.is_some() { problem.past.len() * problem.heads } else { 0 }];
    let to = (Shared(dq.as_mut_ptr()), Shared(dk.as_mut_ptr()), Shared(dv.as_mut_ptr()));
    let sinks = Shared(by_sink.as_mut_ptr());
    let tasks = problem.past.len() * problem.kv_heads;
    // A task owns the keys and values of one kv head, so that nothing is added up across threads.
    (0..tasks).into_par_iter().for_each(|task| {
        let (sequence, kv_head) = (task / problem.kv_heads, task % problem.kv_heads);
        for head in kv_head * problem.group()..(kv_head + 1) * problem.group() {
            let mut of_head = 0.0;
            for first in (0..problem.lens[sequence]).step_by(QUERIES) {
                let chunk = problem.chunk(sequence, head, first);
                with_scratch(chunk.rows * chunk.keys, chunk.rows * chunk.keys, |p, dp| {
                    // SAFETY: as in `forward`; tasks differ in sequence or kv head, so their rows are disjoint.
                    #[allow(unsafe_code)]
                    unsafe {
                        backward_chunk((q, k, v, g), &problem, (&chunk, head), (p, dp), to, &mut of_head);
                    }
                });
            }
            if problem.sinks.is_some() {
                // SAFETY: there is an element for each sequence and head, and each belongs to one task.
                #[allow(unsafe_code)]
                unsafe {
                    *sinks.get().add(sequence * problem.heads + head) = of_head;
                }
            }
        }
    });
    let mut d_sinks = vec![0.0; by_sink.len() / problem.past.len().max(1)];
    for heads in by_sink.chunks_exact(problem.heads) {
        d_sinks.iter_mut().zip(heads).for_each(|(sum, g)| *sum += g);
    }
    (dq, dk, dv, d_sinks)
}

/// # Safety
/// The chunk must lie inside of all tensors, the scratch hold `rows * keys` elements each, and no other thread may write
/// the chunk's queries, keys and values.
#[allow(unsafe_code)]
unsafe fn backward_chunk(
    (q, k, v, g): (&[f32], &[f32], &[f32], &[f32]),
    problem: &Problem<'_>,
    (chunk, head): (&Chunk, usize),
    (p, dp): (&mut [f32], &mut [f32]),
    (dq, dk, dv): (Shared, Shared, Shared),
    by_sink: &mut f32,
) {
    let (rows, keys, dim) = (chunk.rows, chunk.keys, problem.dim);
    let (row, kv_row) = (problem.row(), problem.kv_row());
    // SAFETY: the caller vouches for the ranges.
    unsafe {
        let queries = Operand::new(q.as_ptr().add(chunk.query_start), row);
        let upstream = Operand::new(g.as_ptr().add(chunk.query_start), row);
        let key = Operand::new(k.as_ptr().add(chunk.key_start), kv_row);
        let value = Operand::new(v.as_ptr().add(chunk.key_start), kv_row);
        let none = Parallelism::None;
        let shares = probabilities(q, k, problem, (chunk, head), p);
        // dV += P^T g, dP = g V^T
        let scores = Operand::new(p.as_ptr(), keys);
        product(
            (keys, dim, rows),
            dv.get().add(chunk.key_start),
            kv_row,
            scores.transposed(),
            upstream,
            1.0,
            true,
            none,
        );
        product((rows, keys, dim), dp.as_mut_ptr(), keys, upstream, value.transposed(), 1.0, false, none);
        causal_softmax_backward(p, dp, keys, chunk.visible, &shares, by_sink);
        // dQ = scale dS K, dK += scale dS^T Q
        let gradient = Operand::new(dp.as_ptr(), keys);
        let scale = problem.scale;
        product((rows, dim, keys), dq.get().add(chunk.query_start), row, gradient, key, scale, false, none);
        product(
            (keys, dim, rows),
            dk.get().add(chunk.key_start),
            kv_row,
            gradient.transposed(),
            queries,
            scale,
            true,
            none,
        );
    }
}

#[cfg(test)]
mod tests;
