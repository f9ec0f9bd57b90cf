//! Lines as Python's text files have them: whatever ends them.

use std::io::{BufRead, Read};

/// The lines of a file, without what ends them: `\n`, `\r\n` or `\r`.
pub(crate) struct Lines<R> {
    bytes: R,
    /// The last line ended in `\r`, and a `\n` behind it belongs to that.
    carriage: bool,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn of(bytes: R) -> Self {
        Self { bytes, carriage: false }
    }

    fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        if std::mem::take(&mut self.carriage) && self.bytes.fill_buf()?.first() == Some(&b'\n') {
            self.bytes.consume(1);
        }
        let mut line = Vec::new();
        loop {
            let more = self.bytes.fill_buf()?;
            if more.is_empty() {
                return Ok((!line.is_empty()).then_some(line));
            }
            let Some(end) = more.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                let length = more.len();
                self.bytes.by_ref().take(length as u64).read_to_end(&mut line)?;
                continue;
            };
            line.extend_from_slice(&more[..end]);
            self.carriage = more[end] == b'\r';
            self.bytes.consume(end + 1);
            return Ok(Some(line));
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = std::io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.line().transpose()
    }
}

/// How many lines have ended in a text.
pub(crate) fn ended(text: &[u8]) -> usize {
    let ends = |(at, byte): (usize, &u8)| *byte == b'\n' || (*byte == b'\r' && text.get(at + 1) != Some(&b'\n'));
    text.iter().enumerate().filter(|place| ends(*place)).count()
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// What `open(…)` of Python iterates over, for buffers that end anywhere.
    #[test]
    fn lines_end_in_every_way() {
        for (text, wanted) in [
            ("", &[][..]),
            ("a", &["a"]),
            ("a\nb\n", &["a", "b"]),
            ("a\r\nb\r\n", &["a", "b"]),
            ("a\rb\r", &["a", "b"]),
            ("a\r\r\nb\n\r\n", &["a", "", "b", ""]),
            ("\n\r", &["", ""]),
        ] {
            for size in 1..=text.len().max(1) {
                let lines = Lines::of(BufReader::with_capacity(size, text.as_bytes()));
                let found: Vec<String> = lines.map(|line| String::from_utf8(line.unwrap()).unwrap()).collect();
                assert_eq!(found, wanted, "{text:?} by {size}");
            }
            let whole = wanted.len() - usize::from(text == "a");
            assert_eq!(ended(text.as_bytes()), whole, "{text:?}");
        }
    }
}
