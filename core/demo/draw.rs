//! Random draws that stay the same for ever.
//!
//! The committed tokenizer, tasks and trained weights all hang on the exact text, so only ChaCha's words are taken from a
//! library, whose output its specification fixes; turning them into numbers and orders is done here.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// A sequence of draws, named by a purpose and a number.
pub(crate) struct Draw(ChaCha8Rng);

/// Version of the world. Another number is another world: facts, texts and tasks.
pub(crate) const SEED: u64 = 1;

impl Draw {
    /// The sequence number `index` of a purpose. Different purposes and different numbers are independent.
    pub(crate) fn new(purpose: &str, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&SEED.to_le_bytes());
        let length = purpose.len().min(24);
        key[8..8 + length].copy_from_slice(&purpose.as_bytes()[..length]);
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(index);
        Self(generator)
    }

    /// A number below `bound`, which must not be 0. The bias of the multiplication is below 2^-20 for the bounds used here.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.0.next_u32()) * bound as u64) >> 32) as usize
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 draws.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of the elements.
    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Fisher and Yates' shuffle.
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }

    /// `count` values below `bound`, each as often as every other (or once more), in random order.
    pub(crate) fn deck(&mut self, count: usize, bound: usize) -> Vec<usize> {
        let mut values: Vec<usize> = (0..bound).collect();
        self.shuffle(&mut values);
        let mut deck: Vec<usize> = (0..count).map(|i| values[i % bound]).collect();
        self.shuffle(&mut deck);
        deck
    }

    /// For each of `count` elements another one, such that following them leads through all (Sattolo's shuffle).
    pub(crate) fn ring(&mut self, count: usize) -> Vec<usize> {
        let mut next: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            next.swap(i, self.below(i));
        }
        next
    }

    /// `count` different numbers below `bound`, in random order.
    pub(crate) fn distinct(&mut self, count: usize, bound: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..bound).collect();
        self.shuffle(&mut all);
        all.truncate(count);
        all
    }
}

/// A fixed mixing of small numbers (the finaliser of SplitMix64), for choices that hang on a fact alone.
pub(crate) fn mix(parts: &[usize]) -> usize {
    let mut state = SEED;
    for &part in parts {
        state = state.wrapping_add(part as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    (state >> 1) as usize
}
