//! Long texts, encoded a piece at a time.
//!
//! Pieces overlap. In an overlap the tokens of both pieces are known: those of the first are right but near its end, those of
//! the second are right but near its beginning, and where both agree, at a [seam](super::seams), the one goes on where the
//! other stops. So a text of any length takes the memory of a piece, and whoever needs its beginning only encodes that.

use tokenizers::Encoding;

use super::seams::Seams;
use super::{Tokenizer, text_error};
use crate::ModelError;

/// Sizes in bytes.
#[derive(Clone, Copy)]
struct Sizes {
    /// New text of a piece.
    piece: usize,
    /// What two pieces have in common. Its first and its last quarter are left alone: there a piece does not see enough.
    overlap: usize,
}

const SIZES: Sizes = Sizes { piece: 128 << 10, overlap: 8 << 10 };

/// Tokens on either side of a seam that both pieces must have in common.
const AGREE: usize = 16;

/// Encodes a text that comes in pieces, to the very tokens that [`Tokenizer::encode`] gives for the whole, without what the
/// tokenizer adds to a text.
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    sizes: Sizes,
    /// What was pushed, from the beginning of the piece at hand on.
    text: String,
    /// The tokens of the piece at hand, `covered` bytes of `text`.
    piece: Option<Encoding>,
    covered: usize,
    /// How many of the piece's tokens belong to an earlier piece or were handed out.
    given: usize,
    /// Bytes of `text` at which to encode again.
    goal: usize,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self::of_sizes(tokenizer, SIZES)
    }

    fn of_sizes(tokenizer: &'a Tokenizer, sizes: Sizes) -> Self {
        Self { tokenizer, sizes, text: String::new(), piece: None, covered: 0, given: 0, goal: sizes.piece }
    }

    /// Goes on with the text, and returns the tokens that nothing to come can change.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn push(&mut self, mut text: &str) -> Result<Vec<u32>, ModelError> {
        let mut ids = Vec::new();
        while !text.is_empty() {
            let room = self.goal.saturating_sub(self.text.len()).max(4);
            let (now, later) = text.split_at(text.floor_char_boundary(room));
            self.text.push_str(now);
            text = later;
            if self.text.len() + 4 > self.goal {
                ids.extend(self.advance()?);
            }
        }
        Ok(ids)
    }

    /// The tokens of the rest of the text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn finish(mut self) -> Result<Vec<u32>, ModelError> {
        if self.piece.is_none() {
            return self.tokenizer.encode_whole(&self.text, false);
        }
        let mut ids = if self.covered < self.text.len() { self.advance()? } else { Vec::new() };
        ids.extend(self.rest(usize::MAX)?);
        Ok(ids)
    }

    /// Tokens of the piece at hand from the first that is not handed out to `end`.
    fn rest(&self, end: usize) -> Result<Vec<u32>, ModelError> {
        let ids = self.piece.as_ref().map(Encoding::get_ids).unwrap_or_default();
        self.tokenizer.check(ids[self.given..end.min(ids.len())].to_vec())
    }

    /// Encodes the next piece, and hands out the tokens of the one before up to the seam between them. Where there is none, both
    /// become one piece.
    fn advance(&mut self) -> Result<Vec<u32>, ModelError> {
        let mut ids = Vec::new();
        let mut step = self.sizes.piece;
        match self.piece.take() {
            None => self.piece = Some(self.encode(0)?),
            Some(before) => {
                let start = self.text.floor_char_boundary(self.covered.saturating_sub(self.sizes.overlap));
                let after = self.encode(start)?;
                let seam = self.seam(&before, &after, start);
                self.piece = Some(before);
                match seam.filter(|(end, _)| *end >= self.given) {
                    Some((end, first)) => {
                        ids = self.rest(end)?;
                        self.text.drain(..start);
                        (self.piece, self.given) = (Some(after), first);
                    }
                    None => {
                        self.join()?;
                        // Pieces that grow by as much as they are keep the work in proportion to the text.
                        step = self.text.len();
                    }
                }
            }
        }
        self.covered = self.text.len();
        self.goal = self.covered + step.max(self.sizes.piece);
        Ok(ids)
    }

    /// Encodes all of the text at hand anew.
    fn join(&mut self) -> Result<(), ModelError> {
        let whole = self.encode(0)?;
        let given = self.piece.as_ref().map(|piece| &piece.get_ids()[..self.given]).unwrap_or_default();
        if !whole.get_ids().starts_with(given) {
            let message =
                "the tokens of this text depend on what stands thousands of characters later; make the text shorter";
            return Err(ModelError::Text(message.to_owned()));
        }
        self.piece = Some(whole);
        Ok(())
    }

    fn encode(&self, start: usize) -> Result<Encoding, ModelError> {
        self.tokenizer.inner.encode(&self.text[start..], false).map_err(text_error)
    }

    /// Where to go over from a piece to the next, which begins at the byte `start` of the first: the tokens that are taken of
    /// the one, and those that are left out of the other.
    fn seam(&self, before: &Encoding, after: &Encoding, start: usize) -> Option<(usize, usize)> {
        let seams = self.tokenizer.seams();
        let margin = self.sizes.overlap / 4;
        let (low, high) = (start + margin, self.covered.saturating_sub(margin));
        let (one, other) = (before.get_offsets(), after.get_offsets());
        let first = one.partition_point(|(at, _)| *at < low);
        let last = one.partition_point(|(at, _)| *at < high);
        (first..last).find_map(|i| {
            let at = one[i].0 - start;
            let j = other.partition_point(|(other, _)| *other < at);
            let fits = agree((before, i), (after, j), start) && seams.is_seam(before, i) && seams.is_seam(after, j);
            fits.then_some((i, j))
        })
    }
}

/// Whether the pieces have the same tokens at the same places around these two.
fn agree((before, i): (&Encoding, usize), (after, j): (&Encoding, usize), start: usize) -> bool {
    let (Some(i), Some(j)) = (i.checked_sub(AGREE), j.checked_sub(AGREE)) else { return false };
    let [one, other] = [(before, i), (after, j)].map(|(piece, from)| {
        let range = from..from + 2 * AGREE;
        Some((piece.get_ids().get(range.clone())?, piece.get_offsets().get(range)?))
    });
    let (Some((ids, places)), Some((other_ids, other_places))) = (one, other) else { return false };
    let same = |(a, b): (&(usize, usize), &(usize, usize))| *a == (b.0 + start, b.1 + start);
    ids == other_ids && places.iter().zip(other_places).all(same)
}

impl Tokenizer {
    /// Encodes a text that is not at hand as a whole.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// The first ids of a text, as [`Tokenizer::encode`] gives them without what is added: `most` at least, all if there are
    /// no more, and perhaps some beyond.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_first(&self, text: &str, most: usize) -> Result<Vec<u32>, ModelError> {
        let mut stream = self.stream();
        let (mut ids, mut rest) = (Vec::new(), text);
        while !rest.is_empty() && ids.len() < most {
            let (now, later) = rest.split_at(rest.floor_char_boundary(SIZES.piece));
            ids.extend(stream.push(now)?);
            rest = later;
        }
        if ids.len() < most {
            ids.extend(stream.finish()?);
        }
        Ok(ids)
    }

    fn seams(&self) -> &Seams {
        self.seams.get_or_init(|| Seams::of(&self.inner))
    }
}

#[cfg(test)]
mod tests;
