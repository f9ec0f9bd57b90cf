//! What nodes are expected to take, for plans: estimates from above, no limits. Not counted are the Gram matrices of a mixture's experts:
//! half a GiB at most in sequential order, those of a block at once in the others.

mod coded;
mod making;

use std::path::Path;

pub(super) use self::{coded::training_of_codes, making::making};

use crate::{
    data::{Format, data_bytes},
    demo::Text,
    eval::{Scored, generating_memory, scoring_memory, task::Extent},
    graph::{
        node::DataSource,
        params::{CalibrationDtype, Evaluate, Generate, Params, Protocol},
    },
    script::Signature,
};

/// Bytes of a text in memory for each byte of its file, where all of it is read: token ids with their marks, and the windows
/// made of them.
const TEXT: u64 = 4;

/// Entries from which on a vocabulary has pieces of words.
const USUAL: usize = 8192;

/// Bytes of memory of an evaluation of the first model, with the second as its reference; `extent` is that of a task's items.
pub(super) fn evaluation<'a>(
    method: &str,
    models: &[&Signature],
    params: &Evaluate,
    data: impl IntoIterator<Item = &'a (String, DataSource)>,
    extent: Extent,
) -> u64 {
    let configs: Vec<_> = models.iter().map(|model| &model.config).collect();
    let vocabulary = configs.iter().map(|config| config.vocab_size).min().unwrap_or(0);
    // A longer request than the model takes is an error.
    let positions = configs.iter().map(|config| config.max_positions).min().unwrap_or(0);
    let (scored, characters) = match params {
        Evaluate::RunningText(text) => {
            let sequences = text.blocks.filter(|_| text.protocol == Protocol::Blocks);
            (Scored { batch: text.batch_size, tokens: text.max_seq_length, sequences }, text.characters)
        }
        Evaluate::TextTask(text) => {
            (Scored { batch: text.batch_size, tokens: text.max_seq_length, sequences: None }, None)
        }
        Evaluate::Items(items) => {
            let tokens = extent.longest(vocabulary).min(positions);
            (Scored { batch: items.batch_size, tokens, sequences: Some(extent.requests) }, None)
        }
    };
    let model = match method {
        "generate" => configs.iter().map(|config| generating_memory(config, scored)).sum(),
        _ => scoring_memory(&configs, scored),
    };
    // The items of a task are held whole, with their tokens.
    let whole = scored.sequences.is_none() || matches!(params, Evaluate::Items(_));
    model + data.into_iter().map(|(_, source)| text(source, whole, characters, None)).sum::<u64>()
}

/// Bytes of memory of writing behind beginnings of so many bytes at most; `texts` are all, where that is known.
pub(super) fn writing(model: &Signature, params: &Generate, bytes: usize, texts: Option<usize>) -> u64 {
    let config = &model.config;
    // A vocabulary with pieces of words has two letters in a token at least.
    let tokens = if config.vocab_size < USUAL { bytes } else { bytes.div_ceil(2) };
    let tokens = tokens.saturating_add(params.max_tokens).min(config.max_positions);
    let scored = Scored { batch: params.batch_size, tokens, sequences: texts };
    // A head that shares the table of embeddings is packed beside it.
    let head = if config.tie_word_embeddings { 4 * (config.vocab_size * config.hidden_size) as u64 } else { 0 };
    // Rows and their tokens, until all are there.
    let of_text = 2 * bytes as u64 + 12 * params.max_tokens as u64;
    let held = texts.map_or(0, |texts| (texts as u64).saturating_mul(of_text));
    generating_memory(config, scored).saturating_add(head).saturating_add(held)
}

/// Bytes of memory of what is read of a text: of a table of columns, of this one.
fn text(source: &DataSource, whole: bool, characters: Option<usize>, column: Option<&str>) -> u64 {
    let (bytes, held) = match source {
        DataSource::File(path) => {
            let bytes = data_bytes(path, column);
            (bytes, held(path) * bytes)
        }
        DataSource::Demo(name) => (Text::by_name(name).map_or(0, demo_bytes), 0),
        // Nobody knows before they are made.
        DataSource::Node(_) => (0, 0),
    };
    // A beginning is read in pieces.
    let tokens = if whole { TEXT * characters.map_or(bytes, |most| bytes.min(4 * most as u64)) } else { 0 };
    held + tokens
}

/// How often a file is in memory while its first rows are read: tables that have to be looked at as a whole are.
fn held(path: &Path) -> u64 {
    match Format::of(path) {
        // Its text, and the values that it is parsed to.
        Ok(Format::List) => 4,
        Ok(Format::Cells(_)) => 1,
        _ => 0,
    }
}

/// Bytes of a text of the demo, as far as its first documents tell.
fn demo_bytes(text: Text) -> u64 {
    const LOOK: u64 = 64;
    let look = LOOK.min(text.count()).max(1);
    let bytes: u64 = text.passages().take(LOOK as usize).map(|passage| passage.printed().len() as u64).sum();
    bytes * text.count() / look
}

/// Bytes on disk beside the artifact, from which an interrupted node continues. A plugin that quantizes `by_block` has the
/// calibration set twice: as the model was, and as it is.
pub(super) fn scratch(model: &Signature, params: &Params, by_block: bool) -> u64 {
    match params {
        // Weights and AdamW's two moments in f32: the last checkpoint, and the one that takes its place.
        Params::Train(train) if train.parameters["checkpoint_every"] != 0 => 2 * 3 * 4 * model.parameters,
        Params::Quantize(quantize) => quantize.calibration.as_ref().map_or(0, |tokens| {
            let samples = tokens.num_calibration_samples.unwrap_or(0) as u64;
            let values = samples * tokens.max_seq_length as u64 * model.config.hidden_size as u64;
            let size = if quantize.hidden_states == Some(CalibrationDtype::Bfloat16) { 2 } else { 4 };
            // Hidden states between two blocks, and those that take their place.
            let between = 2 * size * values * if by_block { 2 } else { 1 };
            between + making::block_files(&model.config, quantize, by_block)
        }),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_demo_have_about_their_size() {
        for name in ["stories/valid", "stories/test", "foreign/valid", "chat/strangers/train", "chat/instructions/test"]
        {
            let whole = crate::demo::text(name).unwrap().len() as u64;
            let found = demo_bytes(Text::by_name(name).unwrap());
            assert!(found.abs_diff(whole) < whole / 10, "{name}: {found} of {whole}");
            let source = DataSource::Demo(name.to_owned());
            assert_eq!(text(&source, true, None, None), TEXT * found);
            assert_eq!(text(&source, true, Some(100), None), TEXT * 400);
            assert_eq!(text(&source, false, None, None), 0);
        }
    }

    #[test]
    fn tables_that_are_read_whole_count_whole() {
        let dir = tempfile::tempdir().unwrap();
        for (name, beginning, all) in [("a.txt", 0, 4), ("a.jsonl", 0, 4), ("a.csv", 1, 5), ("a.json", 4, 8)] {
            let path = dir.path().join(name);
            std::fs::write(&path, "x".repeat(100)).unwrap();
            let source = DataSource::File(path);
            let found = [false, true].map(|whole| text(&source, whole, None, Some("text")));
            assert_eq!(found, [100 * beginning, 100 * all], "{name}");
        }
        // Of a table of columns, what the one column takes.
        let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet/types.parquet");
        let bytes = |column| text(&DataSource::File(table.clone()), true, None, column);
        assert!(0 < bytes(Some("text")) && 4 * bytes(Some("text")) < bytes(None), "{}", bytes(Some("text")));
        assert_eq!(bytes(Some("nothing of that name")), 0);
    }
}
