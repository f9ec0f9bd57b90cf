//! Which examples a step takes.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The order in which epochs go through the examples: each epoch a fresh shuffle, its last step perhaps a short one.
///
/// It is a function of seed and step: nothing has to be remembered in order to continue.
#[derive(Clone, Debug)]
pub struct Order {
    examples: usize,
    per_step: usize,
    seed: u64,
    /// The last epoch asked for and its permutation.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// `per_step` examples a step, of `examples`. Both at least 1.
    pub fn new(examples: usize, per_step: usize, seed: u64) -> Self {
        Self { examples, per_step: per_step.max(1), seed, epoch: None }
    }

    /// Steps of one epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.examples.div_ceil(self.per_step).max(1) as u64
    }

    /// The examples of step `step`, counted from 0.
    pub fn step(&mut self, step: u64) -> Vec<usize> {
        let (epoch, within) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        let start = within * self.per_step;
        let end = (start + self.per_step).min(self.examples);
        self.permutation(epoch)[start..end].to_vec()
    }

    fn permutation(&mut self, epoch: u64) -> &[usize] {
        let (seed, examples) = (self.seed, self.examples);
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.epoch = None;
        }
        let (_, permutation) = self.epoch.get_or_insert_with(|| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(epoch);
            let mut all: Vec<usize> = (0..examples).collect();
            all.shuffle(&mut rng);
            (epoch, all)
        });
        permutation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_takes_every_example_once_in_another_order() {
        let mut order = Order::new(10, 4, 1);
        assert_eq!(order.steps_per_epoch(), 3);
        let epochs: Vec<Vec<usize>> =
            (0..3).map(|e| (3 * e..3 * e + 3).flat_map(|step| order.step(step)).collect()).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_eq!(order.step(2).len(), 2);
        // Any step can be asked for at any time.
        assert_eq!(Order::new(10, 4, 1).step(7), order.step(7));
        assert_ne!(Order::new(10, 4, 2).step(7), order.step(7));
    }
}
