//! What a search found in the blocks behind it: an interrupted node goes on from there, to the same bytes.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use workbench_api::sdk::{Error, Host};
use workbench_model::{Activations, Precision};
use workbench_plugin_model::{model_error, read_note, write_note};

/// One block: its scales by the labels of its pairs, and what the record says of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BlockFound {
    pub(crate) scales: Vec<(String, Vec<f64>)>,
    pub(crate) facts: Value,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    blocks: Vec<BlockFound>,
    /// Of the file with the hidden states behind them.
    digest: String,
}

/// The node's folder for both. The folder belongs to the key of the node: to this model, these parameters and these sequences.
pub(crate) struct Kept {
    folder: PathBuf,
    note: Note,
}

impl Kept {
    /// Takes up what is there.
    pub(crate) fn open(host: &Host<'_>) -> Result<Self, Error> {
        let folder = host.scratch()?.join("awq");
        fs::create_dir_all(&folder)?;
        let note = read_note(&folder.join("note.json")).unwrap_or_default();
        Ok(Self { folder, note })
    }

    /// The blocks that need not be searched again.
    pub(crate) fn blocks(&self) -> &[BlockFound] {
        &self.note.blocks
    }

    /// Room for activations of all sequences. It lies in a file: what is read often stays in the page cache as far as there is memory.
    pub(crate) fn room(
        &self,
        name: &str,
        shapes: &[[usize; 2]],
        width: usize,
        precision: Precision,
    ) -> Result<Activations, Error> {
        Activations::in_file(&self.folder.join(name), shapes, width, precision).map_err(model_error)
    }

    /// Loads the hidden states behind [`blocks`](Self::blocks); forgets the blocks where these are not what was written.
    pub(crate) fn load(&mut self, states: &mut Activations) -> Result<(), Error> {
        if self.note.blocks.is_empty() {
            return Ok(());
        }
        let path = self.states();
        if !path.is_file() || !states.load(&path, &self.note.digest).map_err(model_error)? {
            self.note = Note::default();
        }
        Ok(())
    }

    /// Keeps one block more, with the hidden states behind it.
    pub(crate) fn add(&mut self, found: BlockFound, states: &Activations) -> Result<(), Error> {
        let before = self.states();
        self.note.blocks.push(found);
        self.note.digest = states.save(&self.states()).map_err(model_error)?;
        write_note(&self.folder.join("note.json"), &self.note)?;
        match fs::remove_file(before) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn states(&self) -> PathBuf {
        self.folder.join(format!("states-{}", self.note.blocks.len()))
    }
}
