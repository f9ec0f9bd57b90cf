//! Continuing a node that was interrupted: behind the last finished block, to the same bytes.
//!
//! In the scratch folder of a node lie the hidden states behind one of the blocks that it has finished, and a note of what it found in
//! the blocks before. A run continues from there. Where a model is in the making, the shards of its finished blocks lie beside them,
//! and later ones are made again.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use workbench_model::Activations;

use crate::{
    error::{Error, Result},
    store::{Scratch, read_sealed, write_sealed},
};

/// Saving takes at most this share of the time, apart from the first time.
const SHARE: u32 = 10;

#[derive(Debug, Default, Serialize, Deserialize)]
struct State<P> {
    blocks: usize,
    /// Digests of the hidden states' files.
    digests: Vec<String>,
    progress: P,
}

/// What an interrupted run left, and where this one leaves the same.
pub(in crate::steps) struct Resume<P> {
    folder: PathBuf,
    /// The note.
    file: PathBuf,
    state: State<P>,
    saved: Option<(Instant, Duration)>,
}

/// When the state is worth its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::steps) enum When {
    /// It takes little, or nothing comes behind it.
    Now,
    /// When enough time has passed since the last one.
    Sometimes,
}

impl When {
    /// As it was found out whether the node goes on.
    pub(in crate::steps) fn before(stop: &Result<()>) -> Self {
        if stop.is_err() { Self::Now } else { Self::Sometimes }
    }
}

impl<P: Clone + Default + Serialize + DeserializeOwned> Resume<P> {
    /// Reads what is there, in a note of this name.
    pub(in crate::steps) fn open(scratch: &Scratch, name: &str) -> Result<Self> {
        let folder = scratch.work_folder()?;
        let file = folder.join(name);
        // One that is not as it was written, or belongs to another version, speaks for nothing: its work is made anew.
        let state = read_sealed(&file).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Ok(Self { folder, file, state, saved: None })
    }

    /// Blocks that need not be made again.
    pub(in crate::steps) fn blocks(&self) -> usize {
        self.state.blocks
    }

    /// What was found in them.
    pub(in crate::steps) fn progress(&self) -> &P {
        &self.state.progress
    }

    /// The folder of the model in the making.
    pub(in crate::steps) fn model_folder(&self) -> PathBuf {
        self.folder.join("model")
    }

    /// Takes back a model that was moved to its place when the node ended before it was committed.
    ///
    /// # Errors
    /// It cannot be moved.
    pub(in crate::steps) fn take_back(&self, scratch: &Scratch) -> Result<()> {
        let (folder, moved) = (self.model_folder(), scratch.model_path());
        if folder.is_dir() || !moved.is_dir() {
            return Ok(());
        }
        fs::rename(&moved, &folder).map_err(|e| Error::io("move back", &moved, &e))
    }

    /// Forgets everything: the shards are not what they should be.
    pub(in crate::steps) fn start_over(&mut self) -> Result<()> {
        self.state = State::default();
        for left in [self.file.clone(), self.model_folder()] {
            let removed = if left.is_dir() { fs::remove_dir_all(&left) } else { fs::remove_file(&left) };
            match removed {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &left, &e)),
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&self, blocks: usize, number: usize) -> PathBuf {
        self.folder.join(format!("hidden-{blocks}-{number}"))
    }

    /// Loads the hidden states.
    ///
    /// # Errors
    /// A file is not what was written.
    pub(in crate::steps) fn load(&self, into: &mut [&mut Activations]) -> Result<()> {
        for (number, (activations, digest)) in into.iter_mut().zip(&self.state.digests).enumerate() {
            let path = self.file(self.state.blocks, number);
            if !activations.load(&path, digest)? {
                return Err(damaged(&path));
            }
        }
        if into.len() == self.state.digests.len() { Ok(()) } else { Err(damaged(&self.file)) }
    }

    /// Leaves the state behind so many blocks.
    pub(in crate::steps) fn save(
        &mut self,
        blocks: usize,
        hidden: Option<&[&Activations]>,
        progress: &P,
        when: When,
    ) -> Result<()> {
        let began = Instant::now();
        if let Some((at, took)) = self.saved
            && when == When::Sometimes
            && at.elapsed() < took * SHARE
        {
            return Ok(());
        }
        let mut digests = Vec::new();
        for (number, activations) in hidden.unwrap_or_default().iter().enumerate() {
            digests.push(activations.save(&self.file(blocks, number))?);
        }
        let before = std::mem::replace(&mut self.state, State { blocks, digests, progress: progress.clone() });
        let text = serde_json::to_string(&self.state).map_err(|e| Error::internal(e.to_string()))?;
        write_sealed(&self.file, &text)?;
        for number in 0..before.digests.len() {
            let _ = fs::remove_file(self.file(before.blocks, number));
        }
        self.saved = Some((Instant::now(), began.elapsed()));
        Ok(())
    }
}

fn damaged(path: &Path) -> Error {
    Error::refused(format!("`{}` is damaged: the run cannot continue from it", path.display()))
        .hint("`workbench gc --yes` removes unfinished work; then start again")
}
