//! What nodes are expected to take, for plans: estimates from above, no limits.

use serde_json::Value;

use crate::{
    eval::{Scored, scoring_memory},
    graph::{NodeKind, node::DataSource},
    script::Signature,
};

/// Bytes of a text in memory for each byte of its file, where all of it is read: token ids with their marks, and the windows
/// made of them.
const TEXT: u64 = 4;

/// Bytes of memory of an evaluation of the first model, with the second as its reference.
pub(super) fn evaluation<'a>(
    method: &str,
    models: &[&Signature],
    params: &Value,
    data: impl IntoIterator<Item = &'a (String, DataSource)>,
) -> u64 {
    let count = |key: &str| params[key].as_u64().map(|n| n as usize);
    let configs: Vec<_> = models.iter().map(|model| &model.config).collect();
    // How long the requests of a task are is not known before its tokens are.
    let positions = configs.iter().map(|config| config.max_positions).min().unwrap_or(0);
    let tokens = count("max_seq_length").unwrap_or(positions.min(1024));
    let sequences = count("blocks").filter(|_| params["protocol"] == "blocks");
    let scored = Scored { batch: count("batch_size").unwrap_or(1), tokens, sequences };
    let model = match method {
        "generate" => models.iter().map(|model| model.memory_estimate()).sum(),
        _ => scoring_memory(&configs, scored),
    };
    let whole = sequences.is_none();
    model + data.into_iter().map(|(_, source)| text(source, whole, count("characters"))).sum::<u64>()
}

/// Bytes of memory of a node that makes a model.
pub(super) fn making<'a>(
    kind: NodeKind,
    model: &Signature,
    params: &Value,
    data: impl IntoIterator<Item = (&'a String, &'a DataSource)>,
) -> u64 {
    let texts = data.into_iter().map(|(role, source)| {
        let options = &params[role];
        let whole = options["num_calibration_samples"].is_null() || options["shuffle"] == true;
        text(source, whole, options["characters"].as_u64().map(|n| n as usize))
    });
    model.memory_estimate() * if kind == NodeKind::Train { 4 } else { 1 } + texts.sum::<u64>()
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
pub(super) fn scratch(kind: NodeKind, model: &Signature, params: &Value, by_block: bool) -> u64 {
    match kind {
        // Weights and AdamW's two moments in f32: the last checkpoint, and the one that takes its place.
        NodeKind::Train if params["parameters"]["checkpoint_every"] != 0 => 2 * 3 * 4 * model.parameters,
        NodeKind::Quantize => {
            let tokens = &params["calibration"];
            let count = |key: &str| tokens[key].as_u64().unwrap_or(0);
            let values = count("num_calibration_samples") * count("max_seq_length") * model.config.hidden_size as u64;
            let size = if params["hidden_states"] == "bfloat16" { 2 } else { 4 };
            // Hidden states between two blocks, and those that take their place.
            2 * size * values * if by_block { 2 } else { 1 }
        }
        _ => 0,
    }
}
