//! The model that a trainer learns from.

use std::path::Path;

use workbench_model::{Checkpoint, Tokenizer};

use super::start::Start;
use crate::{
    data::Sequences,
    error::{Error, Result},
};

/// What to do about a teacher of another tokenizer.
const SAME_TOKENIZER: &str =
    "it is asked about the tokens that the model reads: take a teacher with the model's tokenizer";

/// A teacher, which reads the tokens of the model that it teaches.
pub(super) struct Teacher {
    checkpoint: Checkpoint,
    /// Its tokenizer, where that is not the very file of the model: what it makes of the data has to be compared.
    other: Option<Tokenizer>,
}

impl Teacher {
    /// Opens the teacher of a model.
    ///
    /// # Errors
    /// It is malformed, computes something that its weights do not say, or its vocabulary is another one.
    pub(super) fn open(path: &Path, model: &Start, tokenizer: &Tokenizer) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        checkpoint.check_finite()?;
        let config = checkpoint.config();
        let (ours, theirs) = (model.config().vocab_size, config.vocab_size);
        if ours != theirs {
            return Err(Error::refused(format!("the teacher has a vocabulary of {theirs}, the model one of {ours}"))
                .hint(SAME_TOKENIZER));
        }
        let linears = config.linears().into_iter().chain([config.head()]);
        for linear in linears {
            if checkpoint.input_quantizer(&linear.name)?.is_some() {
                return Err(rounds(&format!("the input of `{}`", linear.name)));
            }
        }
        for block in 0..config.num_layers {
            if checkpoint.kv_quantizer(block)?.is_some() {
                return Err(rounds("keys and values"));
            }
        }
        let same = model.tokenizer_file()?.is_some_and(|ours| {
            checkpoint.companion("tokenizer.json").is_ok_and(|theirs| theirs.is_some_and(|theirs| theirs == ours))
        });
        let other = if same { None } else { Some(Tokenizer::from_checkpoint(&checkpoint)?) };
        if let Some(other) = &other {
            let ids = 0..u32::try_from(ours).unwrap_or(u32::MAX);
            if let Some(id) = ids.into_iter().find(|id| tokenizer.token(*id) != other.token(*id)) {
                let spelled = |token: Option<String>| token.map_or_else(|| "nothing".to_owned(), |t| format!("`{t}`"));
                let (ours, theirs) = (spelled(tokenizer.token(id)), spelled(other.token(id)));
                return Err(Error::refused(format!("token {id} is {theirs} to the teacher, and {ours} to the model"))
                    .hint(SAME_TOKENIZER));
            }
        }
        Ok(Self { checkpoint, other })
    }

    /// The teacher's weights.
    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Compares what its tokenizer makes of the data, by `read`, with what the model's made.
    ///
    /// # Errors
    /// They are other tokens, or more than the teacher takes at once.
    pub(super) fn check(&self, found: &Sequences, read: impl FnOnce(&Tokenizer) -> Result<Sequences>) -> Result<()> {
        let longest = found.ids.iter().map(Vec::len).max().unwrap_or(0);
        let most = self.checkpoint.config().max_positions;
        if longest > most {
            return Err(Error::refused(format!(
                "sequences of {longest} tokens are longer than the teacher's {most} positions"
            ))
            .hint("lower max_seq_length"));
        }
        let Some(other) = &self.other else { return Ok(()) };
        let theirs = read(other)?;
        let differs = found.ids.iter().zip(&theirs.ids).position(|(ours, theirs)| ours != theirs);
        let differs = differs.or_else(|| (found.ids.len() != theirs.ids.len()).then_some(found.ids.len()));
        match differs {
            None => Ok(()),
            Some(sequence) => Err(Error::refused(format!(
                "the teacher's tokenizer makes other tokens of the data than the model's, from sequence {sequence} on"
            ))
            .hint(SAME_TOKENIZER)),
        }
    }
}

/// A trainer reads the teacher's weights, and computes with nothing else.
fn rounds(what: &str) -> Error {
    Error::refused(format!("the teacher rounds {what} while it runs, which a trainer does not see in its weights"))
        .hint("take a teacher whose weights alone are quantized, or the model before its quantization")
}
