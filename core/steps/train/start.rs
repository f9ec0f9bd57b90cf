//! What training starts from.

use std::path::{Path, PathBuf};

use serde_json::Value;
use workbench_model::{ChatTemplate, Checkpoint, ModelConfig, Tokenizer};

use super::super::host;
use crate::error::{Error, Result};

/// The model that is trained.
pub(super) enum Start {
    Weights(Box<Checkpoint>),
    Blank(Box<Blank>),
}

/// A folder that says what the model looks like, and nothing else.
pub(super) struct Blank {
    config_json: Value,
    config: ModelConfig,
    folder: PathBuf,
}

impl Blank {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Start {
    /// Opens a model; `from_scratch` looks at no weights.
    ///
    /// # Errors
    /// It is none that can be trained.
    pub(super) fn open(path: &Path, from_scratch: bool) -> Result<Self> {
        if !from_scratch {
            let checkpoint = Checkpoint::open(path)?;
            checkpoint.check_finite()?;
            return Ok(Self::Weights(Box::new(checkpoint)));
        }
        let file = path.join("config.json");
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io("read", &file, &e))?;
        let config_json: Value = serde_json::from_str(&text)
            .map_err(|e| Error::refused(format!("`{}` is no JSON", file.display())).cause(e.to_string()))?;
        let config = ModelConfig::from_json(&config_json, &file)?;
        Ok(Self::Blank(Box::new(Blank { config_json, config, folder: path.to_owned() })))
    }

    /// The model as a plugin reads it.
    pub(super) fn model(&self) -> host::Model<'_> {
        match self {
            Self::Weights(checkpoint) => host::Model::Weights(checkpoint),
            Self::Blank(blank) => host::Model::Blank(&blank.config_json),
        }
    }

    pub(super) fn config(&self) -> &ModelConfig {
        match self {
            Self::Weights(checkpoint) => checkpoint.config(),
            Self::Blank(blank) => &blank.config,
        }
    }

    pub(super) fn config_json(&self) -> &Value {
        match self {
            Self::Weights(checkpoint) => checkpoint.config_json(),
            Self::Blank(blank) => &blank.config_json,
        }
    }

    /// The tokenizer and the template of conversations, if it has one.
    ///
    /// # Errors
    /// There is no tokenizer, or one of them is malformed.
    pub(super) fn tokenizer(&self) -> Result<(Tokenizer, Option<ChatTemplate>)> {
        match self {
            Self::Weights(checkpoint) => {
                Ok((Tokenizer::from_checkpoint(checkpoint)?, ChatTemplate::from_checkpoint(checkpoint)?))
            }
            Self::Blank(blank) => {
                let Blank { config, folder, .. } = &**blank;
                Ok((Tokenizer::from_folder(folder, config)?, ChatTemplate::from_folder(folder)?))
            }
        }
    }

    /// The bytes of its `tokenizer.json`, as they are or as they would be written.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn tokenizer_file(&self) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Weights(checkpoint) => Ok(checkpoint.companion("tokenizer.json")?),
            Self::Blank(blank) => {
                let file = blank.folder.join("tokenizer.json");
                std::fs::read(&file).map(Some).map_err(|e| Error::io("read", &file, &e))
            }
        }
    }
}
