//! What an evaluation has found out survives an interruption: it is noted while more is found out, and taken over by the next
//! process that works on the same. What it is about need not be noted, since the process works on one key.

use serde::{Serialize, de::DeserializeOwned};

use super::{Answer, Engine, Limits, Sequence, TokenScore};
use crate::{
    error::{Error, Result},
    progress::Progress,
};

/// Where it is noted. A note is a text of one line.
pub trait Notes {
    /// The notes of before, in their order. One that was cut short is none.
    fn found(&self) -> &[String];

    /// Adds one.
    ///
    /// # Errors
    /// It cannot be written.
    fn add(&mut self, note: &str) -> Result<()>;
}

/// Nothing is noted.
impl Notes for () {
    fn found(&self) -> &[String] {
        &[]
    }

    fn add(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// How an evaluation goes: who hears how far it is, and where it leaves what it has found out.
pub struct Conduct<'a> {
    pub progress: &'a dyn Progress,
    pub notes: &'a mut dyn Notes,
}

impl Conduct<'_> {
    /// What was noted about the first of `total`: whole batches of it, as far as it `fits` what stands at its place.
    pub(super) fn kept<T: DeserializeOwned>(
        &self,
        total: usize,
        batch: usize,
        fits: impl Fn(usize, &T) -> bool,
    ) -> Vec<T> {
        let read = self.notes.found().iter().map_while(|note| serde_json::from_str::<Vec<T>>(note).ok());
        let read = read.flatten().enumerate().take_while(|(place, one)| *place < total && fits(*place, one));
        let mut kept: Vec<T> = read.map(|(_, one)| one).collect();
        if kept.len() < total {
            kept.truncate(kept.len() / batch.max(1) * batch.max(1));
        }
        kept
    }

    /// Notes what was found out behind the first `done` of `total`, unless that was all.
    pub(super) fn note<T: Serialize>(&mut self, done: usize, total: usize, found: &[T]) -> Result<()> {
        if done + found.len() >= total {
            return Ok(());
        }
        let text = serde_json::to_string(found).map_err(|e| Error::internal(e.to_string()))?;
        self.notes.add(&text)
    }

    /// The scores of all sequences.
    ///
    /// # Errors
    /// The model cannot be asked; a note cannot be written.
    pub(super) fn score(
        &mut self,
        engine: &dyn Engine,
        sequences: &[Sequence<'_>],
        batch: usize,
    ) -> Result<Vec<Vec<TokenScore>>> {
        let total = sequences.len();
        let fits = |place: usize, one: &Vec<Noted>| {
            sequences.get(place).is_some_and(|s| one.len() == s.ids.len().saturating_sub(s.scored))
        };
        let mut all: Vec<Vec<TokenScore>> = self
            .kept(total, batch, fits)
            .into_iter()
            .map(|one| one.into_iter().map(TokenScore::from).collect())
            .collect();
        let rest = &sequences[all.len()..];
        let progress = Behind { done: all.len(), total, progress: self.progress };
        engine.score(rest, batch, &progress, &mut |found| {
            let noted: Vec<Vec<Noted>> = found.iter().map(|one| one.iter().map(Noted::from).collect()).collect();
            self.note(all.len(), total, &noted)?;
            all.extend(found);
            Ok(())
        })?;
        Ok(all)
    }

    /// The answers to all prompts.
    ///
    /// # Errors
    /// The model cannot be asked; a note cannot be written.
    pub(super) fn write(
        &mut self,
        engine: &dyn Engine,
        prompts: &[Vec<u32>],
        limits: Limits<'_>,
        batch: usize,
    ) -> Result<Vec<Answer>> {
        let total = prompts.len();
        let mut all: Vec<Answer> = self.kept(total, batch, |_, _| true);
        let progress = Behind { done: all.len(), total, progress: self.progress };
        engine.write(&prompts[all.len()..], limits, batch, &progress, &mut |found| {
            self.note(all.len(), total, &found)?;
            all.extend(found);
            Ok(())
        })?;
        Ok(all)
    }
}

/// A number with a mark, as it is noted: reading a number from text may change its last bit.
pub(super) type Noted = (u64, bool);

impl From<&TokenScore> for Noted {
    fn from(score: &TokenScore) -> Self {
        (score.log_probability.to_bits(), score.likeliest)
    }
}

impl From<Noted> for TokenScore {
    fn from((bits, likeliest): Noted) -> Self {
        Self { log_probability: f64::from_bits(bits), likeliest }
    }
}

/// Counts what was done before into how far the rest is.
pub(super) struct Behind<'a> {
    pub(super) done: usize,
    pub(super) total: usize,
    pub(super) progress: &'a dyn Progress,
}

impl Progress for Behind<'_> {
    fn progress(&self, done: u64, total: u64, unit: &str) {
        let rest = (self.total - self.done).max(1) as u64;
        let before = self.done as u64 * total / rest;
        self.progress.progress(before + done, before + total, unit);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::{Value, json};
    use workbench_model::tokenizer::{ChatTemplate, Tokenizer};

    use super::*;

    /// Scores by arithmetic, and stops after so many batches.
    struct Counting {
        batches: RefCell<usize>,
        asked: RefCell<usize>,
    }

    impl Counting {
        fn with(batches: usize) -> Self {
            Self { batches: RefCell::new(batches), asked: RefCell::new(0) }
        }

        fn next(&self, sequences: usize) -> Result<()> {
            *self.asked.borrow_mut() += sequences;
            let mut left = self.batches.borrow_mut();
            *left = left.checked_sub(1).ok_or_else(|| Error::internal("interrupted"))?;
            Ok(())
        }
    }

    impl Engine for Counting {
        fn facts(&self) -> Value {
            json!({})
        }

        fn tokenizer(&self) -> &Tokenizer {
            panic!("scores need none")
        }

        fn template(&self) -> Option<&ChatTemplate> {
            None
        }

        fn max_positions(&self) -> usize {
            100
        }

        fn score(
            &self,
            sequences: &[Sequence<'_>],
            batch: usize,
            progress: &dyn Progress,
            found: &mut dyn FnMut(Vec<Vec<TokenScore>>) -> Result<()>,
        ) -> Result<()> {
            let mut done = 0;
            for some in sequences.chunks(batch) {
                self.next(some.len())?;
                let of =
                    |id: &u32| TokenScore { log_probability: -f64::from(*id).sqrt(), likeliest: id.is_multiple_of(3) };
                found(some.iter().map(|s| s.ids[s.scored..].iter().map(of).collect()).collect())?;
                done += some.len() as u64;
                progress.progress(done, sequences.len() as u64, "passes");
            }
            Ok(())
        }

        fn write(
            &self,
            prompts: &[Vec<u32>],
            _: Limits<'_>,
            batch: usize,
            _: &dyn Progress,
            found: &mut dyn FnMut(Vec<Answer>) -> Result<()>,
        ) -> Result<()> {
            for some in prompts.chunks(batch) {
                self.next(some.len())?;
                found(some.iter().map(|ids| Answer { text: format!("\n\"{ids:?}"), tokens: ids.len() }).collect())?;
            }
            Ok(())
        }
    }

    #[derive(Default)]
    struct Memory(Vec<String>);

    impl Notes for Memory {
        fn found(&self) -> &[String] {
            &self.0
        }

        fn add(&mut self, note: &str) -> Result<()> {
            assert!(!note.contains('\n'));
            self.0.push(note.to_owned());
            Ok(())
        }
    }

    /// The last progress that was told.
    #[derive(Default)]
    struct Told(RefCell<(u64, u64)>);

    impl Progress for Told {
        fn progress(&self, done: u64, total: u64, _: &str) {
            *self.0.borrow_mut() = (done, total);
        }
    }

    #[test]
    fn what_was_found_out_before_an_interruption_is_not_asked_again() {
        let ids: Vec<Vec<u32>> = (0..11_u32).map(|i| (i..2 * i + 3).collect()).collect();
        let sequences: Vec<_> = ids.iter().map(|ids| Sequence { ids, scored: 1 + ids.len() % 2 }).collect();
        let (mut none, mut kept, told) = ((), Memory::default(), Told::default());
        let all = Counting::with(9);
        let expected = Conduct { progress: &(), notes: &mut none }.score(&all, &sequences, 2).unwrap();
        for (batches, asked) in [(2, 6), (0, 2), (1, 4)] {
            let engine = Counting::with(batches);
            assert!(Conduct { progress: &(), notes: &mut kept }.score(&engine, &sequences, 2).is_err());
            assert_eq!(*engine.asked.borrow(), asked);
        }
        let last = Counting::with(9);
        let found = Conduct { progress: &told, notes: &mut kept }.score(&last, &sequences, 2).unwrap();
        assert_eq!((found, *last.asked.borrow(), told.0.into_inner()), (expected.clone(), 11 - 6, (11, 11)));
        // A note that does not fit what is asked speaks for nothing, and neither does what stands behind it.
        kept.0.truncate(2);
        kept.0[1] = kept.0[0].clone();
        let engine = Counting::with(9);
        let found = Conduct { progress: &(), notes: &mut kept }.score(&engine, &sequences, 2).unwrap();
        assert_eq!((found, *engine.asked.borrow()), (expected, 11 - 2));
    }

    #[test]
    fn answers_are_kept_with_every_letter() {
        let prompts: Vec<Vec<u32>> = (1..6).map(|i| vec![7; i]).collect();
        let limits = Limits { max_new_tokens: 3, stop: &[] };
        let (mut none, mut kept) = ((), Memory::default());
        let expected =
            Conduct { progress: &(), notes: &mut none }.write(&Counting::with(9), &prompts, limits, 1).unwrap();
        let first = Counting::with(3);
        assert!(Conduct { progress: &(), notes: &mut kept }.write(&first, &prompts, limits, 1).is_err());
        let last = Counting::with(9);
        let found = Conduct { progress: &(), notes: &mut kept }.write(&last, &prompts, limits, 1).unwrap();
        assert_eq!((found, *last.asked.borrow()), (expected, 2));
    }
}
