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
            let mut ids = 0..u32::try_from(ours).unwrap_or(u32::MAX);
            if let Some(id) = ids.find(|id| tokenizer.token(*id) != other.token(*id)) {
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

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use serde_json::{Value, json};

    use super::*;

    fn demo() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo/model")
    }

    /// The demo's model in another folder, with another tokenizer.json.
    fn with_tokenizer(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(demo()).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&entry, folder.path().join(entry.file_name().unwrap())).unwrap();
        }
        let file = folder.path().join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut json);
        fs::write(file, json.to_string()).unwrap();
        folder
    }

    fn sequences(ids: &[&[u32]]) -> Sequences {
        let ids: Vec<Vec<u32>> = ids.iter().map(|ids| ids.to_vec()).collect();
        let learn = ids.iter().map(|ids| vec![true; ids.len()]).collect();
        Sequences { ids, learn, facts: json!({}) }
    }

    #[test]
    fn where_the_file_is_another_one_tokens_and_data_are_compared() {
        let start = Start::open(&demo(), false).unwrap();
        let tokenizer = start.tokenizer().unwrap().0;
        let open = |folder: &Path| Teacher::open(folder, &start, &tokenizer);
        let found = sequences(&[&[1, 2, 3], &[4, 5]]);
        // The same file: nothing is read again.
        open(&demo()).unwrap().check(&found, |_| panic!("the data were read again")).unwrap();

        let reformatted = with_tokenizer(
            |json| json["padding"] = json!({ "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x" }),
        );
        let teacher = open(reformatted.path()).unwrap();
        assert!(teacher.other.is_some());
        teacher.check(&found, |_| Ok(sequences(&[&[1, 2, 3], &[4, 5]]))).unwrap();
        for other in [&[&[1, 2, 3][..], &[4, 6]][..], &[&[1, 2, 3]], &[&[1, 2, 3], &[4, 5], &[6]]] {
            let message = teacher.check(&found, |_| Ok(sequences(other))).unwrap_err().message;
            assert!(message.starts_with("the teacher's tokenizer makes other tokens of the data"), "{message}");
        }
        let most = start.config().max_positions;
        let long = sequences(&[&vec![1; most + 1]]);
        let message = teacher.check(&long, |_| Ok(sequences(&[&vec![1; most + 1]]))).unwrap_err().message;
        assert!(message.contains(&format!("longer than the teacher's {most} positions")), "{message}");

        let swapped = with_tokenizer(|json| {
            let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
            let named = |id: u64| vocabulary.iter().find(|(_, found)| found.as_u64() == Some(id)).unwrap().0.clone();
            let (one, two) = (named(1200), named(1300));
            vocabulary[&one] = 1300.into();
            vocabulary[&two] = 1200.into();
        });
        let error = open(swapped.path()).map(drop).unwrap_err();
        assert!(error.message.starts_with("token 1200 is `"), "{}", error.message);
        assert!(error.hints[0].contains("take a teacher with the model's tokenizer"), "{:?}", error.hints);
    }
}
