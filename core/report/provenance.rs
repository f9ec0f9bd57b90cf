//! What a reader must know of the nodes behind a table: machines, observers, fallbacks, warnings, proofs of equivalence.

use std::collections::BTreeMap;

use serde_json::Value;
use workbench_api::sdk::{LEFT_ALONE, SILENT_CHANNELS};

use super::whose::{Behind, attributed};
use crate::{
    graph::{Graph, Key, NodeId},
    script::RowSpec,
    store::Store,
    words::plural,
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
pub(super) fn remarks(
    closure: &[NodeId],
    rows: &[RowSpec],
    graph: &Graph,
    keys: &[(Value, Key)],
    store: &Store,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut of_rows: Vec<(String, NodeId)> = Vec::new();
    for id in closure {
        let Some(record) = store.object(&keys[id.0].1).ok().and_then(|o| o.record().ok()) else { continue };
        let facts = &record.facts;
        of_rows.extend(calibrated(facts).map(|line| (line, *id)));
        lines.extend(stored_in_bytes(facts));
        if let Some(observer) = facts["input_scales"]["observer"].as_str() {
            of_rows.push((observed("static input scales", observer, &facts["input_scales"], facts), *id));
        }
        lines.extend(fallbacks(&graph.node(*id).label, &facts["plugin"]));
        lines.extend(unseen(&graph.node(*id).label, "static input scales", &facts["input_scales"]));
        lines.extend(unseen(&graph.node(*id).label, "static KV-cache scales", &facts["kv_cache"]));
        if let Some(observer) = facts["kv_cache"]["observer"].as_str() {
            of_rows.push((observed("static KV-cache scales", observer, &facts["kv_cache"], facts), *id));
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
    lines.extend(attributed(of_rows, &Behind::new(rows, graph)));
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
    Some(format!(
        "calibration: {}, {order}; activations kept in {kept}, matrix products of {factors} operands with f32 sums",
        amount(facts)
    ))
}

/// `8224 tokens in 32 sequences`
fn amount(facts: &Value) -> String {
    let count = |key: &str| facts["calibration"][key].as_u64().unwrap_or_default() as usize;
    format!("{} in {}", plural(count("tokens"), "token"), plural(count("sequences"), "sequence"))
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
    let amount = amount(facts).replace(" in ", " of calibration data in ");
    format!("{what}: observer {observer}, {from}, over {amount}")
}

/// What a method had to do otherwise than it was asked to.
fn fallbacks(label: &str, reports: &Value) -> Vec<String> {
    let reports = || reports.as_object().into_iter().flatten();
    let of = reports().count();
    let mut lines = Vec::new();
    let raised = reports().filter(|(_, report)| !report["dampening_raised_to"].is_null()).count();
    if raised > 0 {
        lines.push(format!(
            "{label}: in {raised} of {of} layers the dampening was raised until the Hessian was positive definite"
        ));
    }
    let mut whole: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (module, report) in reports() {
        if let Some(reason) = report["rounded_to_nearest"].as_str() {
            whole.entry(reason).or_default().push(module.clone());
        }
    }
    for (reason, modules) in whole {
        let (n, named) = (modules.len(), named(&modules));
        lines.push(format!("Warning: {label}: {n} of {of} layers were rounded to nearest, because {reason}: {named}"));
    }
    lines.extend(silent(label, reports().map(|(place, report)| (vec![place.as_str()], report)).collect()));
    lines
}

/// Channels that no calibration token excited and what was left alone, wherever in the reports they are noted.
fn silent<'a>(label: &str, mut open: Vec<(Vec<&'a str>, &'a Value)>) -> Vec<String> {
    let mut found: BTreeMap<&str, (u64, Vec<String>)> = BTreeMap::new();
    let mut left: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    open.reverse();
    while let Some((path, report)) = open.pop() {
        let Some(report) = report.as_object() else { continue };
        let inside = report.iter().map(|(key, value)| ([&path[..], &[key.as_str()]].concat(), value));
        open.extend(inside.filter(|(path, _)| path.last() != Some(&SILENT_CHANNELS)).rev());
        // A method may group its blocks under a word of its own.
        let place: Vec<&str> = path.iter().copied().skip_while(|part| !part.contains('.')).collect();
        if let Some(why) = report.get(LEFT_ALONE).and_then(Value::as_str) {
            left.entry(why).or_default().push(place.join(" "));
        }
        let Some(fact) = report.get(SILENT_CHANNELS) else { continue };
        let (Some(count), Some(what)) = (fact["count"].as_u64(), fact["what"].as_str()) else { continue };
        let first: Vec<String> = fact["first"].as_array().into_iter().flatten().map(Value::to_string).collect();
        let more = if first.len() as u64 == count { "" } else { ", …" };
        let (total, places) = found.entry(what).or_default();
        *total += count;
        places.push(format!("{} ({}{more})", place.join(" "), first.join(", ")));
    }
    let line = |(what, (total, places)): (&str, (u64, Vec<String>))| {
        let channels = if total == 1 { "channel that was" } else { "channels that were" };
        format!(
            "Warning: {label}: {total} input {channels} zero for every calibration token {what}: {}",
            named(&places)
        )
    };
    let left_alone = left.into_iter().map(|(why, places)| {
        let (n, named) = (super::format::plural(places.len(), "place"), named(&places));
        format!("Warning: {label}: {n} left as they were, because {why}: {named}")
    });
    left_alone.chain(found.into_iter().map(line)).collect()
}

/// Names in a line; of many the first ones.
fn named(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}, and {more} more"),
    }
}

/// Static scales that stand for nothing: their inputs were zero throughout.
fn unseen(label: &str, what: &str, fact: &Value) -> Option<String> {
    let sites: Vec<String> =
        fact["silent_sites"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Some(format!(
        "Warning: {label}: {what} of {} are the least there are, because all calibration tokens were zero there; whatever is \
         not will be clipped: {}",
        super::format::plural(sites.len(), "site"),
        named(&sites)
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fallbacks_are_counted_and_named() {
        let silent = |channels: &[usize]| json!({ "silent_channels": { "count": channels.len(), "of": 64, "first": channels, "what": "were kept" } });
        let reports = json!({ "model.layers.0.up": silent(&[5, 9]), "model.layers.1.up": silent(&[7]),
            "model.layers.1.down": { "rounded_to_nearest": "its input is zero" }, "model.layers.2.up": { "loss": 1.0 } });
        assert_eq!(
            fallbacks("gptq W4", &reports),
            [
                "Warning: gptq W4: 1 of 4 layers were rounded to nearest, because its input is zero: model.layers.1.down",
                "Warning: gptq W4: 3 input channels that were zero for every calibration token were kept: model.layers.0.up \
                 (5, 9), model.layers.1.up (7)",
            ]
        );
        // Under a word of the method's own, and more than are named.
        let many = json!({ "silent_channels": { "count": 40, "first": [1, 2], "what": "were kept" } });
        let reports = json!({ "scales": { "model.layers.0": { "norm->qkv": many } }, "strength": 0.5 });
        let [line] = &fallbacks("smooth", &reports)[..] else { panic!("one line") };
        assert!(line.ends_with("were kept: model.layers.0 norm->qkv (1, 2, …)"), "{line}");
        let left = json!({ "tokens": 0, "left_alone": "no token came" });
        let reports =
            json!({ "blocks": { "model.layers.0": { "up->down a": left, "up->down b": left, "norm->qkv": {} } } });
        assert_eq!(
            fallbacks("awq", &reports),
            [
                "Warning: awq: 2 places left as they were, because no token came: model.layers.0 up->down a, model.layers.0 up->down b"
            ]
        );
        assert!(fallbacks("rtn", &Value::Null).is_empty());
    }
}
