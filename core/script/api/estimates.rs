//! What nodes are expected to take, for plans: estimates from above, no limits.

use crate::{
    eval::{Scored, scoring_memory},
    graph::{
        node::DataSource,
        params::{CalibrationDtype, Evaluate, Params, Protocol, TokenOptions},
    },
    script::Signature,
};

/// Bytes of a text in memory for each byte of its file, where all of it is read: token ids with their marks, and the windows
/// made of them.
const TEXT: u64 = 4;

/// Bytes of memory of an evaluation of the first model, with the second as its reference.
pub(super) fn evaluation<'a>(
    method: &str,
    models: &[&Signature],
    params: &Evaluate,
    data: impl IntoIterator<Item = &'a (String, DataSource)>,
) -> u64 {
    let configs: Vec<_> = models.iter().map(|model| &model.config).collect();
    // How long the requests of a task are is not known before its tokens are.
    let positions = configs.iter().map(|config| config.max_positions).min().unwrap_or(0).min(1024);
    let (batch, tokens, sequences, characters) = match params {
        Evaluate::RunningText(text) => {
            let blocks = text.blocks.filter(|_| text.protocol == Protocol::Blocks);
            (text.batch_size, text.max_seq_length, blocks, text.characters)
        }
        Evaluate::TextTask(text) => (text.batch_size, text.max_seq_length, None, None),
        Evaluate::Items(items) => (items.batch_size, positions, None, None),
    };
    let scored = Scored { batch, tokens, sequences };
    let model = match method {
        "generate" => models.iter().map(|model| model.memory_estimate()).sum(),
        _ => scoring_memory(&configs, scored),
    };
    let whole = sequences.is_none();
    model + data.into_iter().map(|(_, source)| text(source, whole, characters)).sum::<u64>()
}

/// Bytes of memory of a node that makes a model.
pub(super) fn making<'a>(
    model: &Signature,
    params: &Params,
    data: impl IntoIterator<Item = (&'a String, &'a DataSource)>,
) -> u64 {
    let options = tokens(params);
    let whole = options.is_some_and(|options| options.num_calibration_samples.is_none() || options.shuffle);
    let characters = options.and_then(|options| options.characters);
    let texts = data.into_iter().map(|(_, source)| text(source, whole, characters));
    model.memory_estimate() * if matches!(params, Params::Train(_)) { 4 } else { 1 } + texts.sum::<u64>()
}

/// How the data of a node become tokens.
fn tokens(params: &Params) -> Option<&TokenOptions> {
    match params {
        Params::Transform(transform) => transform.calibration.as_ref(),
        Params::Quantize(quantize) => quantize.calibration.as_ref(),
        Params::Train(train) => Some(&train.data),
        Params::Evaluate(_) => None,
    }
}

/// Bytes of memory of what is read of a text.
fn text(source: &DataSource, whole: bool, characters: Option<usize>) -> u64 {
    // The demo's texts are made as they are read, and a beginning is read in pieces.
    let DataSource::File(path) = source else { return 0 };
    if !whole {
        return 0;
    }
    let bytes = path.metadata().map_or(0, |metadata| metadata.len());
    TEXT * characters.map_or(bytes, |most| bytes.min(4 * most as u64))
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
            2 * size * values * if by_block { 2 } else { 1 }
        }),
        _ => 0,
    }
}
