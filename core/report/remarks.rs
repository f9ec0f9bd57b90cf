//! What a reader must know of the nodes behind a table: machines, observers, fallbacks, warnings, proofs of equivalence.

use serde_json::Value;

use crate::{
    graph::{Graph, Key, NodeId},
    store::Store,
};

/// The CPUs that results were computed on.
pub(super) fn machines(closure: &[NodeId], keys: &[(Value, Key)], store: &Store) -> Vec<(String, String)> {
    let mut cpus: Vec<String> = closure
        .iter()
        .filter_map(|id| store.object(&keys[id.0].1).ok()?.provenance().ok()?["cpu"].as_str().map(str::to_owned))
        .collect();
    cpus.sort();
    cpus.dedup();
    cpus.into_iter().map(|cpu| ("cpu".to_owned(), cpu)).collect()
}

/// What a reader must know about how the models were made.
pub(super) fn remarks(closure: &[NodeId], graph: &Graph, keys: &[(Value, Key)], store: &Store) -> Vec<String> {
    let mut lines = Vec::new();
    for id in closure {
        let Some(record) = store.object(&keys[id.0].1).ok().and_then(|o| o.record().ok()) else { continue };
        let facts = &record.facts;
        lines.extend(calibrated(facts));
        lines.extend(stored_in_bytes(facts));
        if let Some(observer) = facts["input_scales"]["observer"].as_str() {
            lines.push(observed("static input scales", observer, &facts["input_scales"], facts));
        }
        lines.extend(fallbacks(&graph.node(*id).label, &facts["plugin"]));
        if let Some(observer) = facts["kv_cache"]["observer"].as_str() {
            lines.push(observed("static KV-cache scales", observer, &facts["kv_cache"], facts));
        }
        let label = &graph.node(*id).label;
        lines.extend(
            facts["warnings"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(|warning| format!("Warning: {label}: {warning}")),
        );
        if let Some(difference) = facts["equivalence"]["logit_difference"].as_f64() {
            lines.push(format!(
                "{}: logits differ from the original's by {difference:.1e} of their standard deviation (limit {:.0e})",
                label,
                facts["equivalence"]["limit"].as_f64().unwrap_or_default(),
            ));
        }
    }
    lines.sort();
    lines.dedup();
    lines
}

/// How calibration data passed the model, and what it was computed in.
fn calibrated(facts: &Value) -> Option<String> {
    let observed = &facts["observed"];
    let order = match observed["order"].as_str()? {
        "sequential" => "each linear quantized before the next one sees its data",
        "block" => "block by block, each block quantized before the next one sees its data",
        _ => "through the model as it was given",
    };
    let (kept, factors) = (observed["hidden_states"].as_str()?, observed["compute_dtype"].as_str()?);
    let (tokens, sequences) = (&facts["calibration"]["tokens"], &facts["calibration"]["sequences"]);
    Some(format!(
        "calibration: {tokens} tokens in {sequences} sequences, {order}; activations kept in {kept}, matrix products of {factors} factors with f32 sums"
    ))
}

/// Why narrow codes take a byte each.
fn stored_in_bytes(facts: &Value) -> Option<String> {
    let in_bytes = |layers: &&Value| {
        let (weights, inputs) = (&layers["grid"]["weights"]["args"], &layers["grid"]["inputs"]);
        weights["type"] == "int" && weights["num_bits"].as_u64().is_some_and(|bits| bits < 8) && !inputs.is_null()
    };
    let found = facts["grids"].as_array()?.iter().find(in_bytes)?;
    Some(format!(
        "bits/weight counts what is stored: the {}-bit codes of linears with quantized inputs lie in bytes (int-quantized)",
        found["grid"]["weights"]["args"]["num_bits"]
    ))
}

/// Where static scales come from.
fn observed(what: &str, observer: &str, fact: &Value, facts: &Value) -> String {
    let from = match fact["observed"]["mode"].as_str() {
        Some("sequential") => "seen by each layer behind all that is quantized before it",
        Some("block") => "seen behind the quantized blocks before",
        _ => "taken from the unquantized model",
    };
    let (tokens, sequences) = (&facts["calibration"]["tokens"], &facts["calibration"]["sequences"]);
    format!("{what}: observer {observer}, {from}, over {tokens} tokens of calibration data in {sequences} sequences")
}

/// What a method had to do otherwise than it was asked to.
fn fallbacks(label: &str, reports: &Value) -> Vec<String> {
    let reports = || reports.as_object().into_iter().flatten();
    let count = |key: &str| reports().filter(|(_, report)| !report[key].is_null()).count();
    let known = [
        ("dampening_raised_to", "the dampening was raised until the Hessian was positive definite"),
        ("dead_channels", "some input channels were zero for all of the calibration data"),
    ];
    let of = reports().count();
    let told = known.iter().filter_map(|(key, what)| Some((count(key), what)).filter(|(n, _)| *n > 0));
    told.map(|(n, what)| format!("{label}: in {n} of {of} layers {what}")).collect()
}
