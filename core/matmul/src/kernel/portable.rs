//! Loops that any compiler understands.

use super::{LEFT, Loops, MicroKernel, RIGHT};
use crate::narrow::widen;

type Sums = [[f32; RIGHT]; LEFT];

#[inline(always)]
fn add_products(sums: &mut Sums, left: &[f32; LEFT], right: &[f32; RIGHT]) {
    for (sums, left) in sums.iter_mut().zip(left) {
        for (sum, right) in sums.iter_mut().zip(right) {
            *sum += left * right;
        }
    }
}

#[inline(always)]
fn store(sums: &Sums, to: &mut [f32], stride: usize, add: bool) {
    for (to, sums) in to.chunks_mut(stride).zip(sums) {
        for (to, sum) in to[..RIGHT].iter_mut().zip(sums) {
            *to = if add { *to + sum } else { *sum };
        }
    }
}

impl MicroKernel for Loops<f32> {
    type Left = f32;
    type Right = f32;

    const ROWS: usize = LEFT;
    const LEFT_UNITS: usize = 1;

    fn whole(left: &[f32], right: &[f32], to: &mut [f32], stride: usize, add: bool) {
        let mut sums = [[0.0; RIGHT]; LEFT];
        for (left, right) in left.as_chunks::<LEFT>().0.iter().zip(right.as_chunks::<RIGHT>().0) {
            add_products(&mut sums, left, right);
        }
        store(&sums, to, stride, add);
    }
}

/// Of a pair the second comes first, as the dot-product instruction has it.
impl MicroKernel for Loops<u32> {
    type Left = f32;
    type Right = u32;

    const ROWS: usize = LEFT;
    const LEFT_UNITS: usize = 2;

    fn whole(left: &[f32], right: &[u32], to: &mut [f32], stride: usize, add: bool) {
        let mut sums = [[0.0; RIGHT]; LEFT];
        let lefts = left.as_chunks::<LEFT>().0.as_chunks::<2>().0;
        for ([first, second], right) in lefts.iter().zip(right.as_chunks::<RIGHT>().0) {
            add_products(&mut sums, second, &right.map(|pair| widen((pair >> 16) as u16)));
            add_products(&mut sums, first, &right.map(|pair| widen(pair as u16)));
        }
        store(&sums, to, stride, add);
    }
}
