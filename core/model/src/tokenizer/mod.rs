//! Text to token ids and back.

mod affixes;
mod chat;
mod seams;
mod special;
mod stream;

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, companion_json, read_json};
use crate::{ModelConfig, ModelError};

pub use self::affixes::Affixes;
pub use self::chat::{ChatTemplate, Message};
use self::seams::Seams;
use self::special::special_token;
pub use self::stream::Stream;

/// Bytes from which on a text is encoded in pieces.
const LONG: usize = 512 << 10;

/// A model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Ids from here on have no embedding.
    vocab_size: usize,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
    /// Found when a text is first encoded in pieces.
    seams: OnceLock<Seams>,
    /// What the tokenizer itself names, whatever `config.json` says.
    own_bos: Option<u32>,
    own_eos: Option<u32>,
}

/// The special tokens and habits of a checkpoint's tokenizer: its `tokenizer_config.json` with what older files beside it
/// add.
pub(crate) fn checkpoint_settings(checkpoint: &Checkpoint) -> Result<Value, ModelError> {
    special::settings(&|name| companion_json(checkpoint, name), checkpoint.path())
}

/// The same of a folder that may hold no weights.
pub(crate) fn folder_settings(folder: &Path) -> Result<Value, ModelError> {
    special::settings(&|name| read_json(&folder.join(name)), folder)
}

impl Tokenizer {
    /// The tokenizer that belongs to a checkpoint: `tokenizer.json` of its folder, or what a GGUF file's metadata hold.
    ///
    /// # Errors
    /// The file is missing or malformed.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let file = checkpoint.path().join("tokenizer.json");
        let bytes = checkpoint.companion("tokenizer.json")?.ok_or_else(|| {
            ModelError::file(&file, "does not exist", "the model needs its tokenizer as tokenizer.json")
        })?;
        Self::from_bytes(&bytes, &checkpoint_settings(checkpoint)?, checkpoint.config(), &file)
    }

    /// The tokenizer in a folder that may hold no weights; `config` is that of the model.
    ///
    /// # Errors
    /// The file is missing or malformed.
    pub fn from_folder(folder: &Path, config: &ModelConfig) -> Result<Self, ModelError> {
        let file = folder.join("tokenizer.json");
        let failed = |error: std::io::Error| ModelError::file(&file, format!("cannot be read: {error}"), "");
        let bytes = std::fs::read(&file).map_err(failed)?;
        Self::from_bytes(&bytes, &folder_settings(folder)?, config, &file)
    }

    /// Reads the bytes of a `tokenizer.json`; `settings` is the parsed `tokenizer_config.json` or null, `file` is only
    /// for messages. Every token that the settings call special is one.
    ///
    /// # Errors
    /// The bytes are no tokenizer, or the settings contradict them.
    pub fn from_bytes(bytes: &[u8], settings: &Value, config: &ModelConfig, file: &Path) -> Result<Self, ModelError> {
        let failed = |error: tokenizers::Error| ModelError::file(file, format!("is no tokenizer: {error}"), "");
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(failed)?;
        // A saved tokenizer may remember the lengths of its last use; here every caller cuts and pads for itself.
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        special::add(&mut inner, settings, file)?;
        // A token without an embedding can neither be read nor written.
        let has_embedding = |id: &u32| (*id as usize) < config.vocab_size;
        let named = |key: &str| {
            let id = special_token(settings, key).and_then(|token| inner.token_to_id(token));
            id.filter(has_embedding)
        };
        let (own_bos, own_eos) = (named("bos_token"), named("eos_token"));
        let bos = own_bos.or(config.bos_token_id);
        let mut eos = config.eos_token_ids.clone();
        eos.extend(own_eos.filter(|id| !config.eos_token_ids.contains(id)));
        let pad = named("pad_token");
        Ok(Self { bos, eos, own_bos, own_eos, pad, vocab_size: config.vocab_size, inner, seams: OnceLock::new() })
    }

    /// The ids of a text; with `add_special` as the model was trained to see a document (a leading BOS where it has one).
    ///
    /// # Errors
    /// The text cannot be encoded, or gives an id that the model has no embedding for.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        match add_special || text.len() < LONG {
            true => self.encode_whole(text, add_special),
            false => self.encode_first(text, usize::MAX),
        }
    }

    fn encode_whole(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        let encoded = self.inner.encode_fast(text, add_special).map_err(text_error)?;
        self.check(encoded.get_ids().to_vec())
    }

    /// Encodes many texts in parallel, in their order.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch(&self, texts: &[&str], add_special: bool) -> Result<Vec<Vec<u32>>, ModelError> {
        let encoded = self.inner.encode_batch_fast(texts.to_vec(), add_special).map_err(text_error)?;
        encoded.into_iter().map(|encoding| self.check(encoding.get_ids().to_vec())).collect()
    }

    /// The text of ids; `skip_special` leaves out special tokens.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, ModelError> {
        self.inner.decode(ids, skip_special).map_err(text_error)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How the vocabulary spells an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The number of ids that the model has embeddings for.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The ids that stand for a piece of text: all that have an embedding and a token, but for special ones.
    pub fn ordinary_ids(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let ordinary =
            |id: &u32| self.inner.id_to_token(*id).is_some() && !added.get(id).is_some_and(|token| token.special);
        (0..self.vocab_size as u32).filter(ordinary).collect()
    }

    /// The id that begins a document.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The ids that end a document or a turn.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The ids at which generation ends: the end of a document or a turn, and padding, after which nothing is meant to come.
    pub fn stop_ids(&self) -> Vec<u32> {
        let mut ids = self.eos.clone();
        ids.extend(self.pad.filter(|pad| !self.eos.contains(pad)));
        ids
    }

    fn check(&self, ids: Vec<u32>) -> Result<Vec<u32>, ModelError> {
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            None => Ok(ids),
            Some(id) => Err(ModelError::Text(format!(
                "the tokenizer gives id {id} (`{}`), but the model has only {} embeddings",
                self.inner.id_to_token(*id).unwrap_or_default(),
                self.vocab_size
            ))),
        }
    }
}

fn text_error(error: tokenizers::Error) -> ModelError {
    ModelError::Text(format!("tokenizing failed: {error}"))
}
