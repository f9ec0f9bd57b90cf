//! Beginnings of one token: data from a model alone.
//!
//! Liu et al. 2023, "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models", section 3.1: the first token is any of
//! the vocabulary, the next three to five are the most probable ones, and the others are drawn. What the paper's texts have not is
//! kept apart: special tokens start none, since a text does not go on behind them.

use rand::{Rng, seq::SliceRandom};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Map, json};

use super::{
    beginnings::{Beginning, Found, Said},
    stream,
};
use crate::{
    data::affixes,
    error::{Error, Result},
    eval::Loaded,
    graph::params::Toggle,
};

/// The streams of the generator by which starts are chosen, one for each time that the vocabulary is gone through; and the one bit
/// that parts the numbers of greedy tokens from those that draw the tokens themselves.
const APART: u64 = 1 << 63;
const OF_GREEDY: u64 = 1 << 62;

/// So many starts, in a random order, and drawn anew when all were taken; each once without a number. `n` texts begin with each, of
/// which each has its own number of greedy tokens between the two.
///
/// # Errors
/// A start leaves no room for a text.
pub(super) fn draw(
    model: &Loaded,
    count: Option<usize>,
    (seed, greedy, n): (u64, [usize; 2], usize),
    add_bos: Toggle,
    room: usize,
) -> Result<Found> {
    let prefix = affixes(&model.tokenizer, add_bos)?.prefix;
    if prefix.len() + 1 > room {
        return Err(Error::refused("a start leaves no room for what is to be written").hint("lower max_tokens"));
    }
    let ordinary = model.tokenizer.ordinary_ids();
    if ordinary.is_empty() {
        return Err(Error::refused("the vocabulary has no tokens but special ones"));
    }
    let count = count.unwrap_or(ordinary.len());
    let beginnings = starts(&ordinary, count, seed).into_iter().enumerate().map(|(number, start)| Beginning {
        number,
        ids: prefix.iter().copied().chain([start]).collect(),
        front: prefix.len(),
        row: Map::from_iter([("start_token".to_owned(), json!(start))]),
        said: Said::Token,
        greedy: (0..n).map(|text| greedy_tokens(seed, stream(number, text), greedy)).collect(),
    });
    Ok(Found { beginnings: beginnings.collect(), left_out: 0 })
}

/// More starts begin as fewer do.
fn starts(ordinary: &[u32], count: usize, seed: u64) -> Vec<u32> {
    let mut found = Vec::with_capacity(count);
    let mut round = 0;
    while found.len() < count {
        let mut all = ordinary.to_vec();
        all.shuffle(&mut generator(seed, APART | round));
        all.truncate(count - found.len());
        found.extend(all);
        round += 1;
    }
    found
}

fn greedy_tokens(seed: u64, stream: u64, [least, most]: [usize; 2]) -> usize {
    generator(seed, OF_GREEDY | stream).random_range(least..=most.max(least))
}

fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream);
    generator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_comes_before_one_comes_again() {
        let ordinary: Vec<u32> = (3..50).collect();
        let found = starts(&ordinary, 100, 7);
        for round in found.chunks(ordinary.len()) {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), round.len());
        }
        let mut first = found[..ordinary.len()].to_vec();
        assert_ne!(first, ordinary, "in an order of its own");
        assert_ne!(found[..6], found[ordinary.len()..ordinary.len() + 6]);
        first.sort_unstable();
        assert_eq!(first, ordinary);
        assert_eq!(starts(&ordinary, 10, 7), found[..10]);
        assert_ne!(starts(&ordinary, 10, 8), found[..10]);
    }

    #[test]
    fn greedy_tokens_are_between_the_two() {
        let mut seen = [0; 8];
        (0..300).for_each(|number| seen[greedy_tokens(1, stream(number, number % 3), [3, 5])] += 1);
        assert!(seen[3..=5].iter().all(|count| *count > 60) && seen.iter().sum::<i32>() == 300, "{seen:?}");
        assert!(seen[..3].iter().chain(&seen[6..]).all(|count| *count == 0), "{seen:?}");
    }
}
