//! Which program a process runs.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The file that this process was started from, whatever lies in its place now.
const THIS: &str = "/proc/self/exe";

/// A program: the node of a run has to be that of its driver, since the keys hold what the driver's build would compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// The digest of its content, where another file has taken its place.
    digest: Option<String>,
}

impl Program {
    /// The program of this process.
    ///
    /// # Errors
    /// The system does not show it.
    pub fn this() -> Result<Self> {
        let mut this = Self::of(Path::new(THIS))?;
        // The next process starts from whatever lies there; whether that is the same build only its content tells.
        let replaced =
            std::env::current_exe().ok().and_then(|path| Self::of(&path).ok()).is_none_or(|found| found != this);
        if replaced {
            static DIGEST: OnceLock<Option<String>> = OnceLock::new();
            this.digest = DIGEST.get_or_init(|| content().ok()).clone();
        }
        Ok(this)
    }

    fn of(path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).map_err(|e| Error::io("read", path, &e))?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            digest: None,
        })
    }

    /// Refuses to go on in another program than this one.
    ///
    /// # Errors
    /// This process runs another build.
    pub fn check(&self) -> Result<()> {
        let this = Self::of(Path::new(THIS))?;
        let same_file = Self { digest: None, ..self.clone() } == this;
        if same_file || (self.digest.is_some() && self.digest == content().ok()) {
            return Ok(());
        }
        Err(Error::refused("the program was replaced by another build while the run went on").hint(
            "run the same command again: what is finished is kept as far as the new build would compute the same",
        ))
    }
}

fn content() -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(THIS)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_another_program_unless_it_holds_the_same() {
        let this = Program::this().unwrap();
        this.check().unwrap();
        let moved = Program { inode: this.inode + 1, ..this.clone() };
        assert!(moved.check().unwrap_err().message.contains("replaced by another build"));
        Program { digest: content().ok(), ..moved.clone() }.check().unwrap();
        assert!(Program { digest: Some("0".repeat(64)), ..moved }.check().is_err());
    }
}
