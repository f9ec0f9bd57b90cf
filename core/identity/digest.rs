//! Digests of the files that nodes read, remembered so that a cached run hashes nothing again.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the file system says about a file. Whoever writes into a file can set its time of modification back, but not that of
/// its last change of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

/// Clocks of file systems are coarse: a file that was written within so much time could change again without its stamp
/// showing it.
const COARSE: Duration = Duration::from_secs(2);

/// How often a file that changes while it is hashed is begun anew.
const ATTEMPTS: usize = 3;

impl Stamp {
    /// The stamp of what was found.
    pub fn new(meta: &Metadata) -> Self {
        let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// The stamp of a file; of the one it points to, if it is a link.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        Ok(Self::new(&path.metadata()?))
    }

    /// Whether this is another file than it was, or one that was written into since, as far as sizes and times of modification
    /// tell. A new hard link changes neither.
    pub fn shows_write_since(&self, before: &Self) -> bool {
        let of = |stamp: &Self| (stamp.device, stamp.inode, stamp.size, stamp.modified_ns);
        of(self) != of(before)
    }

    /// Whether every later change would show: the last one lies far enough back.
    pub fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_nanos() as i128 - self.changed_ns.max(self.modified_ns) >= COARSE.as_nanos() as i128
    }
}

/// A file with the digest that a key, or a manifest, knows it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFile {
    pub path: PathBuf,
    /// The blake3 digest of its content in hexadecimal, or the first digits of it.
    pub digest: String,
    /// The stamp that it had then, if that can prove anything.
    pub stamp: Option<Stamp>,
}

/// Hashes a file, and says by which stamp it will be known again: none, if it was written too short a time ago. A file that
/// changes meanwhile is begun anew.
///
/// # Errors
/// It cannot be read, is no regular file, or does not come to rest.
pub fn hash(path: &Path) -> Result<(String, Option<Stamp>)> {
    let fail = |error: std::io::Error| Error::io("read", path, &error);
    for _ in 0..ATTEMPTS {
        // Asked before it is opened: to open a pipe is to wait for whoever writes into it.
        if !path.metadata().map_err(fail)?.is_file() {
            return Err(Error::refused(format!("`{}` is no regular file", path.display())));
        }
        let file = File::open(path).map_err(fail)?;
        let stamp = Stamp::new(&file.metadata().map_err(fail)?);
        let settled = stamp.is_settled();
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file).map_err(fail)?;
        if Stamp::new(&file.metadata().map_err(fail)?) == stamp {
            return Ok((hasher.finalize().to_hex().to_string(), settled.then_some(stamp)));
        }
    }
    Err(Error::refused(format!("`{}` is being written while it is read", path.display()))
        .hint("wait until whoever writes it is done"))
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    stamp: Stamp,
    digest: String,
}

/// Digests by path. The store keeps the memory between runs; it may be lost at any time without harm.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileDigests {
    stamps: BTreeMap<PathBuf, Remembered>,
    /// What was asked for in this process: what its keys stand for.
    #[serde(skip)]
    asked: BTreeMap<PathBuf, KnownFile>,
    #[serde(skip)]
    changed: bool,
}

impl FileDigests {
    /// Reads what [`to_json`](Self::to_json) wrote; anything unreadable counts as an empty memory.
    pub fn from_json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The memory as text, or `None` if nothing was added since it was read.
    pub fn to_json(&self) -> Option<String> {
        self.changed.then(|| serde_json::to_string(self).ok()).flatten()
    }

    /// The blake3 digest of one file.
    pub fn file(&mut self, path: &Path) -> Result<String> {
        let real = path.canonicalize().map_err(|error| Error::io("read", path, &error))?;
        let found = Stamp::of(&real).map_err(|error| Error::io("read", path, &error))?;
        let (digest, stamp) = match self.stamps.get(&real).filter(|known| known.stamp == found) {
            Some(known) => (known.digest.clone(), Some(found)),
            None => hash(&real)?,
        };
        if let Some(stamp) = stamp.filter(|stamp| self.stamps.get(&real).is_none_or(|known| known.stamp != *stamp)) {
            self.stamps.insert(real, Remembered { stamp, digest: digest.clone() });
            self.changed = true;
        }
        let known = KnownFile { path: path.to_owned(), digest: digest.clone(), stamp };
        self.asked.insert(path.to_owned(), known);
        Ok(digest)
    }

    /// A file as it was when its digest was last asked for, by the same path.
    pub fn asked(&self, path: &Path) -> Option<&KnownFile> {
        self.asked.get(path)
    }

    /// One digest for several files, by their names (without folders) and contents, in the order of the names.
    pub fn files(&mut self, paths: &[PathBuf]) -> Result<String> {
        let mut named = BTreeMap::new();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            named.insert(name, self.file(path)?);
        }
        let mut hasher = blake3::Hasher::new();
        for (name, digest) in named {
            hasher.update(format!("{name}\n{digest}\n").as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, FileTimes};

    #[test]
    fn content_decides_and_names_count_but_folders_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let (a, b, c) = (write("x/one", "1"), write("y/one", "1"), write("x/two", "1"));
        let mut digests = FileDigests::default();
        assert_eq!(digests.file(&a).unwrap(), digests.file(&c).unwrap());
        assert_eq!(digests.files(std::slice::from_ref(&a)).unwrap(), digests.files(&[b]).unwrap());
        assert_ne!(digests.files(std::slice::from_ref(&a)).unwrap(), digests.files(&[c]).unwrap());
        let before = digests.file(&a).unwrap();
        write("x/one", "2");
        assert_ne!(before, digests.file(&a).unwrap());
        assert!(digests.file(&dir.path().join("none")).is_err());
        assert!(digests.file(dir.path()).unwrap_err().message.contains("is no regular file"));
    }

    #[test]
    fn a_file_overwritten_in_place_with_its_old_time_is_hashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        fs::write(&path, "one").unwrap();
        // A stamp that lies back far enough to be remembered, as that of a file written long ago does.
        let mut digests = FileDigests::default();
        let before = digests.file(&path).unwrap();
        let stamp = Stamp::of(&path).unwrap();
        let real = path.canonicalize().unwrap();
        digests.stamps.insert(real.clone(), Remembered { stamp, digest: before.clone() });
        let meta = fs::metadata(&path).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&path, "two").unwrap();
        let times = FileTimes::new().set_modified(meta.modified().unwrap());
        File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        let now = Stamp::of(&path).unwrap();
        assert_eq!(
            (now.device, now.inode, now.size, now.modified_ns),
            (stamp.device, stamp.inode, stamp.size, stamp.modified_ns),
            "only the time of change tells"
        );
        assert_ne!(digests.file(&path).unwrap(), before);
        // What was written a moment ago is remembered by nobody.
        assert_eq!(digests.stamps[&real].digest, before);
        assert_eq!(digests.asked(&path).unwrap().stamp, None);
    }
}
