//! What a plugin reports step by step, kept as it comes, so that an interruption takes nothing of it away.
//!
//! A trainer that goes on at a checkpoint reports the steps behind it again: they take the place of the same steps of before.
//! What was written when a process is killed is found by the next one; a machine that loses power can lose the last second.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    store::{Curve, Notebook, Scratch},
};

/// The name of the notes in the scratch folder.
const NOTES: &str = "curve";

/// Numbers of one node, and notes of them, that are kept; a plugin has no bounds of its own.
const MOST: usize = 1_000_000;
const MOST_NOTES: usize = 4 * MOST;

/// Bytes of a metric's name.
const LONGEST: usize = 256;

/// The note that says that something was left out.
const LEFT_OUT: &str = "left out";

/// The time after which what was noted is made durable.
const DURABLE_AFTER: Duration = Duration::from_secs(1);

/// Keeps the numbers of one node.
pub(super) struct Recorder<'a> {
    scratch: &'a Scratch,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Opened with the first number: most nodes report none.
    notes: Option<Notebook>,
    curve: Curve,
    count: usize,
    noted: usize,
    left_out: bool,
    durable: Option<Instant>,
    failed: Option<Error>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(scratch: &'a Scratch) -> Self {
        Self { scratch, kept: Mutex::default() }
    }

    /// Keeps a number.
    pub(super) fn add(&self, step: u64, name: &str, value: f64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.failed.is_none() {
            kept.failed = kept.add(self.scratch, step, &bounded(name), value).err();
        }
    }

    /// Says whether everything could be kept.
    ///
    /// # Errors
    /// The notes could not be read or written.
    pub(super) fn check(&self) -> Result<()> {
        match self.kept.lock().unwrap_or_else(PoisonError::into_inner).failed.clone() {
            Some(error) => Err(error.context("keeping what the plugin reported")),
            None => Ok(()),
        }
    }
}

impl Kept {
    fn add(&mut self, scratch: &Scratch, step: u64, name: &str, value: f64) -> Result<()> {
        let mut notes = match self.notes.take() {
            Some(notes) => notes,
            None => {
                let notes = scratch.notebook(NOTES)?;
                (self.curve, self.left_out) = read(&notes)?;
                (self.count, self.noted) = (self.curve.len(), notes.found().len());
                notes
            }
        };
        self.note(&mut notes, step, name, value)?;
        self.notes = Some(notes);
        Ok(())
    }

    fn note(&mut self, notes: &mut Notebook, step: u64, name: &str, value: f64) -> Result<()> {
        let known = self.curve.get(step, name);
        // What a continued training reports again is the same to the last bit.
        if known.is_some_and(|known| known.to_bits() == value.to_bits()) {
            return Ok(());
        }
        if self.noted >= MOST_NOTES || (known.is_none() && self.count >= MOST) {
            if !self.left_out {
                self.left_out = true;
                notes.add(LEFT_OUT)?;
            }
            return Ok(());
        }
        let spelled = serde_json::to_string(name).map_err(|e| Error::internal(e.to_string()))?;
        notes.add(&format!("{step} {:016x} {spelled}", value.to_bits()))?;
        self.noted += 1;
        self.count += usize::from(self.curve.set(step, name, value).is_none());
        if self.durable.is_none_or(|before| before.elapsed() >= DURABLE_AFTER) {
            notes.make_durable()?;
            self.durable = Some(Instant::now());
        }
        Ok(())
    }
}

/// Puts everything that the node's plugin reported, in this process and in those before it, beside the result that it is going
/// to be; returns what the record says of it, if there is something to say.
///
/// # Errors
/// The notes cannot be read, or the file cannot be written.
pub(in crate::steps) fn keep_curve(scratch: &Scratch) -> Result<Option<Value>> {
    if !scratch.has_notebook(NOTES)? {
        return Ok(None);
    }
    let (curve, left_out) = read(&scratch.notebook(NOTES)?)?;
    if curve.is_empty() {
        return Ok(None);
    }
    scratch.write_curve(&curve)?;
    Ok(left_out.then(|| json!(format!("numbers behind the first {} were left out", curve.len()))))
}

/// The numbers that were noted, and whether others were left out.
fn read(notes: &Notebook) -> Result<(Curve, bool)> {
    let (mut curve, mut left_out) = (Curve::default(), false);
    for note in notes.found() {
        if note == LEFT_OUT {
            left_out = true;
            continue;
        }
        let mut parts = note.splitn(3, ' ');
        let mut next = || parts.next().unwrap_or_default();
        let (step, bits, name) = (next().parse(), u64::from_str_radix(next(), 16), serde_json::from_str(next()));
        let (Ok(step), Ok(bits), Ok(name)) = (step, bits, name) else {
            return Err(Error::internal(format!("`{note}` is no number that a plugin reported")));
        };
        let name: String = name;
        curve.set(step, &name, f64::from_bits(bits));
    }
    Ok((curve, left_out))
}

/// A name cut at the end of a character.
fn bounded(name: &str) -> String {
    let end = name.floor_char_boundary(LONGEST);
    if end < name.len() { format!("{}…", &name[..end]) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn report(scratch: &Scratch, steps: impl Iterator<Item = u64>) {
        let recorder = Recorder::new(scratch);
        for step in steps {
            recorder.add(step, "loss", 1.0 / step as f64);
            recorder.add(step, "rate\n", 1e-3 * step as f64);
        }
        recorder.check().unwrap();
    }

    /// The bytes of the file that a node leaves which was begun anew at these steps.
    fn left(stretches: &[std::ops::RangeInclusive<u64>]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let key = "ab".repeat(32).parse().unwrap();
        for stretch in stretches {
            let scratch = store.scratch(&key).unwrap().unwrap();
            report(&scratch, stretch.clone());
        }
        let scratch = store.scratch(&key).unwrap().unwrap();
        assert_eq!(keep_curve(&scratch).unwrap(), None);
        std::fs::read(dir.path().join("store/v1/scratch").join("ab".repeat(32)).join("curve.csv")).unwrap()
    }

    #[test]
    fn steps_that_are_taken_again_stand_once() {
        let whole = left(&[1..=9]);
        let text = String::from_utf8(whole.clone()).unwrap();
        assert!(text.starts_with("step,loss,\"rate\n\"\n1,1.0,0.001\n2,0.5,0.002\n"), "{text}");
        assert_eq!(left(&[1..=5, 4..=7, 7..=9]), whole);
        assert_eq!(left(&[1..=5, 1..=9]), whole);
        assert_ne!(left(&[1..=5, 7..=9]), whole);
    }

    #[test]
    fn a_later_number_takes_the_place_of_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let scratch = store.scratch(&"cd".repeat(32).parse().unwrap()).unwrap().unwrap();
        assert_eq!(keep_curve(&scratch).unwrap(), None);
        assert!(!scratch.has_notebook(NOTES).unwrap(), "nodes that report nothing keep nothing");
        for (seen, value) in [(1, 2.0), (2, 3.0), (3, f64::NAN), (3, f64::NAN)] {
            let recorder = Recorder::new(&scratch);
            recorder.add(7, "loss", value);
            assert_eq!(scratch.notebook(NOTES).unwrap().found().len(), seen, "what is known is not noted again");
        }
        let (curve, left_out) = read(&scratch.notebook(NOTES).unwrap()).unwrap();
        assert!(curve.len() == 1 && curve.get(7, "loss").unwrap().is_nan() && !left_out);
    }

    #[test]
    fn names_and_numbers_without_end_are_bounded() {
        assert_eq!(bounded(&"ä".repeat(200)), format!("{}…", "ä".repeat(128)));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let scratch = store.scratch(&"ef".repeat(32).parse().unwrap()).unwrap().unwrap();
        let mut kept = Kept::default();
        kept.add(&scratch, 1, "loss", 1.0).unwrap();
        kept.count = MOST;
        kept.add(&scratch, 2, "loss", 1.0).unwrap();
        kept.add(&scratch, 3, "loss", 1.0).unwrap();
        kept.add(&scratch, 1, "loss", 4.0).unwrap();
        let said = keep_curve(&scratch).unwrap().unwrap();
        assert_eq!(said, json!("numbers behind the first 1 were left out"));
        assert_eq!(read(&scratch.notebook(NOTES).unwrap()).unwrap().0.get(1, "loss"), Some(4.0));
    }
}
