//! Text files, a piece at a time: nobody should hold a text of gigabytes for the sake of its beginning.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::format::{check_beginning, plain_lines};
use crate::error::{Error, Result};

/// Bytes that are read together.
const PIECE: usize = 64 << 10;

/// The pieces of a text file, in order and as Python reads them: without the mark of its byte order, lines that end in `\r\n` or
/// `\r` with `\n`. No piece ends within a character.
pub struct TextPieces {
    path: PathBuf,
    file: File,
    /// Read, and not yet part of a piece.
    bytes: Vec<u8>,
    /// Bytes of the file before `bytes`.
    done: u64,
    /// Characters that may still be read.
    left: usize,
    ended: bool,
}

impl TextPieces {
    /// Opens a file; `characters` keeps only the first of them.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, characters: Option<usize>) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read the text", path, &e))?;
        let left = characters.unwrap_or(usize::MAX);
        Ok(Self { path: path.to_owned(), file, bytes: Vec::new(), done: 0, left, ended: false })
    }

    fn read(&mut self) -> Result<Option<String>> {
        while !self.ended && self.left > 0 {
            let before = self.bytes.len();
            let more = self.file.by_ref().take(PIECE as u64).read_to_end(&mut self.bytes);
            more.map_err(|e| Error::io("read the text", &self.path, &e))?;
            self.ended = self.bytes.len() == before;
            if self.done == 0 {
                let refused = |(_, message, hint)| {
                    Error::refused(format!("`{}` {message}", self.path.display())).maybe_hint(hint)
                };
                check_beginning(&self.bytes).map_err(refused)?;
            }
            let end = self.whole_characters()?;
            if end > 0 {
                return self.cut(end).map(Some);
            }
        }
        Ok(None)
    }

    /// Bytes at hand that are whole characters, without a `\r` that a `\n` may follow.
    fn whole_characters(&self) -> Result<usize> {
        let end = match std::str::from_utf8(&self.bytes) {
            Ok(text) => text.len(),
            Err(e) if e.error_len().is_none() && !self.ended => e.valid_up_to(),
            Err(e) => {
                let at = self.done + e.valid_up_to() as u64;
                let message = format!("`{}` is no text in UTF-8: see its byte {at}", self.path.display());
                return Err(Error::refused(message).hint("convert it, for example with iconv"));
            }
        };
        Ok(if self.ended || self.bytes[..end].last() != Some(&b'\r') { end } else { end - 1 })
    }

    /// Takes the first bytes away, as far as characters may be read.
    fn cut(&mut self, end: usize) -> Result<String> {
        let rest = self.bytes.split_off(end);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        let text = String::from_utf8(bytes).map_err(|e| Error::internal(e.to_string()))?;
        let mark = if self.done == 0 { text.strip_prefix('\u{feff}') } else { None };
        let mut text = plain_lines(mark.map(str::to_owned).unwrap_or(text));
        self.done += end as u64;
        if self.left < text.len()
            && let Some((end, _)) = text.char_indices().nth(self.left)
        {
            text.truncate(end);
            self.left = 0;
        } else if self.left != usize::MAX {
            self.left -= text.chars().count();
        }
        Ok(text)
    }
}

impl Iterator for TextPieces {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// What stands between blank lines, without the line breaks around it. Paragraphs of nothing but white space are left out.
pub(super) struct Paragraphs<P> {
    pieces: P,
    text: String,
    /// Where the next paragraph begins, and from where on its end has not been looked for.
    start: usize,
    searched: usize,
    ended: bool,
}

impl<P: Iterator<Item = Result<String>>> Paragraphs<P> {
    pub(super) fn of(pieces: P) -> Self {
        Self { pieces, text: String::new(), start: 0, searched: 0, ended: false }
    }

    /// The next stretch up to a blank line, or to the end.
    fn stretch(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(at) = self.text[self.searched..].find("\n\n") {
                let end = self.searched + at;
                let stretch = self.text[self.start..end].to_owned();
                self.start = end + 2;
                self.searched = self.start;
                return Ok(Some(stretch));
            }
            if self.ended {
                return Ok(None);
            }
            self.text.drain(..self.start);
            self.start = 0;
            match self.pieces.next() {
                Some(piece) => {
                    // The first of two line breaks may stand at the end.
                    self.searched = self.text.len() - usize::from(self.text.ends_with('\n'));
                    self.text.push_str(&piece?);
                }
                None => {
                    self.ended = true;
                    self.searched = 0;
                    return Ok(Some(std::mem::take(&mut self.text)));
                }
            }
        }
    }
}

impl<P: Iterator<Item = Result<String>>> Iterator for Paragraphs<P> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.stretch().transpose()? {
                Ok(stretch) if stretch.trim().is_empty() => {}
                Ok(stretch) => return Some(Ok(stretch.trim_matches('\n').to_owned())),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn read(path: &Path, characters: Option<usize>) -> Result<Vec<String>> {
        TextPieces::open(path, characters)?.collect()
    }

    /// Characters of one to four bytes and line breaks at every place relative to the border of a piece.
    #[test]
    fn pieces_are_the_text() {
        for shift in 0..9 {
            let text = format!("{}{}", "x".repeat(shift), "é猫🚀\r\n".repeat(3 * PIECE / 11));
            let (_dir, path) = file(text.as_bytes());
            let pieces = read(&path, None).unwrap();
            assert!(pieces.len() > 2 && pieces.iter().all(|piece| !piece.ends_with('\r')));
            let text = text.replace("\r\n", "\n");
            assert_eq!(pieces.concat(), text);
            for most in [0, 1, 7, 30_001, 2 * PIECE] {
                let expected: String = text.chars().take(most).collect();
                assert_eq!(read(&path, Some(most)).unwrap().concat(), expected);
            }
        }
        let (_dir, path) = file(b"ends in \n");
        assert_eq!(read(&path, None).unwrap().concat(), "ends in \n");
    }

    #[test]
    fn what_is_no_text_is_refused_where_it_begins() {
        let (_dir, path) = file(&[&b"a".repeat(PIECE)[..], b"bc\xff"].concat());
        assert!(read(&path, None).unwrap_err().message.ends_with(&format!("byte {}", PIECE + 2)));
        // What is not asked for need not be text; what is cut off in a character is an error.
        assert_eq!(read(&path, Some(10)).unwrap().concat(), "a".repeat(10));
        let (_dir, path) = file("né".as_bytes().split_last().unwrap().1);
        assert!(read(&path, None).unwrap_err().message.ends_with("byte 1"));
    }

    /// The same as to split the whole text, wherever the borders of pieces lie.
    #[test]
    fn paragraphs_do_not_depend_on_pieces() {
        let texts = ["", "\n\n\n", "a", "one\ntwo\n\n\nthree\n\n", "\n\na\n \n\n\n\n\nb\n\n \n\nc", "\na\n\n\n\nb\n"];
        for text in texts {
            let whole = text.split("\n\n").map(|p| p.trim_matches('\n')).filter(|p| !p.trim().is_empty());
            let whole: Vec<&str> = whole.collect();
            for size in 1..=text.len().max(1) {
                let pieces = text.as_bytes().chunks(size).map(|piece| Ok(String::from_utf8(piece.to_vec()).unwrap()));
                let found: Vec<String> = Paragraphs::of(pieces).collect::<Result<_>>().unwrap();
                assert_eq!(found, whole, "{text:?} in pieces of {size}");
            }
        }
    }
}
