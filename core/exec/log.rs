//! The log of a node: all that its process prints, as long as that is not too much.

use std::{collections::VecDeque, fs::File, io::Write, path::PathBuf};

use crate::{
    error::{Error, Result},
    graph::Key,
    store::RunFolder,
};

/// Bytes that are kept as they come.
const FIRST: usize = 4 << 20;

/// Bytes of the end that are kept of what comes after those: the end is what tells why a process ended.
const LAST: usize = 256 << 10;

/// A log on its way. Dropped, it is complete.
#[derive(Debug)]
pub(super) struct NodeLog {
    path: PathBuf,
    file: File,
    room: usize,
    rest: VecDeque<u8>,
    left_out: u64,
    broken: bool,
}

impl NodeLog {
    /// Opens the log of a node in the folder of its run.
    pub(super) fn open(run: &RunFolder, key: &Key) -> Result<Self> {
        Ok(Self::at(run.log(key), run.open_log(key)?))
    }

    fn at(path: PathBuf, file: File) -> Self {
        Self { path, file, room: FIRST, rest: VecDeque::new(), left_out: 0, broken: false }
    }

    /// Takes what was printed.
    ///
    /// # Errors
    /// The first write that fails; from then on nothing more is written.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (now, later) = bytes.split_at(bytes.len().min(self.room));
        self.room -= now.len();
        self.rest.extend(later);
        let surplus = self.rest.len().saturating_sub(LAST);
        self.rest.drain(..surplus);
        self.left_out += surplus as u64;
        self.put(now)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.broken || bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all(bytes).map_err(|e| {
            self.broken = true;
            Error::io("write", &self.path, &e)
        })
    }
}

impl Drop for NodeLog {
    fn drop(&mut self) {
        let mut rest: Vec<u8> = std::mem::take(&mut self.rest).into();
        if self.left_out > 0 {
            rest.splice(..0, format!("\n[{} bytes are left out here]\n", self.left_out).into_bytes());
        }
        // Whoever could have been told is gone.
        let _ = self.put(&rest);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

    use std::fs;

    use super::*;

    fn written(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = NodeLog::at(path.clone(), File::create(&path).unwrap());
        pieces.into_iter().for_each(|piece| log.write(&piece).unwrap());
        drop(log);
        fs::read(path).unwrap()
    }

    #[test]
    fn beginning_and_end_are_kept() {
        assert_eq!(written([b"\xff\0not text".to_vec(), b" at all".to_vec()]), b"\xff\0not text at all");
        // Numbered, so that every place of the log tells where it comes from.
        let numbered = |from: u32| (from..from + 50_000).flat_map(|i| format!("{i:09}\n").into_bytes()).collect();
        let log = written((0..40).map(|part| numbered(part * 50_000)));
        let notice = format!("\n[{} bytes are left out here]\n", 20_000_000 - FIRST - LAST);
        assert_eq!(log.len(), FIRST + notice.len() + LAST);
        assert!(log.starts_with(b"000000000\n000000001\n") && log.ends_with(b"001999999\n"));
        assert_eq!(&log[FIRST..FIRST + notice.len()], notice.as_bytes());
        // What just fits is whole.
        assert_eq!(written([vec![b'x'; FIRST + LAST]]).len(), FIRST + LAST);
    }

    #[test]
    fn a_full_disk_is_told_once() {
        let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
            eprintln!("skipped: a_full_disk_is_told_once: there is no /dev/full");
            return;
        };
        let mut log = NodeLog::at("/results/logs/a.log".into(), full);
        let error = log.write(b"x").unwrap_err().to_string();
        assert!(error.contains("`/results/logs/a.log`") && error.contains("No space left"), "{error}");
        assert!(log.write(b"y").is_ok());
    }
}
