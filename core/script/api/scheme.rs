//! Schemes as scripts write them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use workbench_model::ModelConfig;
use workbench_quant::{
    ArgsError, Conventions, Dynamic as Timing, QuantizationArgs, Scheme, Strategy, dividing_group_sizes, kv_cache_args,
};

use crate::{
    error::{Error, Result},
    graph::{
        embeddings::EMBEDDINGS_AND_HEAD,
        params::{self, GroupScheme},
    },
    script::{calls::SchemeOptions, options::Options},
};

/// A scheme, checked and complete.
pub(super) struct Read {
    pub scheme: GroupScheme,
    /// What a preset is for, where it is not for every linear.
    pub targets: Option<Vec<String>>,
    /// For labels.
    pub name: String,
    /// Whether inputs need scales from calibration data.
    pub static_activations: bool,
}

/// Takes `scheme`, its overrides, `observer` (of static input scales) and `conventions` out of the options.
pub(super) fn read(options: &mut Options) -> Result<Read> {
    let SchemeOptions(mut overrides) = options.take()?;
    let observer = overrides.shift_remove("observer");
    let conventions = overrides.shift_remove("conventions");
    let mut keys = match overrides.shift_remove("scheme") {
        Some(Value::Object(keys)) => keys,
        Some(name @ Value::String(_)) => Map::from_iter([("scheme".to_owned(), name)]),
        // Spelled out in place, as in the checkpoint format.
        None if overrides.contains_key("weights") => Map::new(),
        Some(other) => return Err(Error::usage(format!("a scheme is a name or a map, not {other}")).at("scheme")),
        None => {
            return Err(
                Error::usage(format!("{} needs a scheme", options.call())).hint("for example scheme: \"W4A16\"")
            );
        }
    };
    let mut changed = Vec::new();
    for (key, value) in overrides {
        if !value.is_object() {
            changed.push(format!("{key} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        }
        keys.insert(key, value);
    }
    let name = keys
        .get("name")
        .and_then(Value::as_str)
        .or_else(|| keys.get("scheme").and_then(Value::as_str))
        .map(str::to_owned);
    keys.remove("name");
    let mut scheme = Scheme::from_value(&Value::Object(keys.clone())).map_err(wrong)?;
    if scheme.weights.is_none() {
        return Err(Error::usage("the scheme leaves the weights alone: there is nothing to quantize").at("scheme"));
    }
    if keys.contains_key("targets") || keys.contains_key("ignore") {
        return Err(Error::usage("targets and ignore stand beside the scheme, not in it")
            .hint("write #{ scheme: …, ignore: […] }"));
    }
    let targets = Some(std::mem::take(&mut scheme.targets)).filter(|targets| !targets.is_empty());
    let static_activations = scheme.input_activations.as_ref().is_some_and(|a| a.dynamic != Timing::Yes);
    choose_observer(&mut scheme, observer.as_ref().and_then(Value::as_str), static_activations)?;
    let conventions = match conventions {
        None => Conventions::default(),
        Some(given) => serde_json::from_value(given)
            .map_err(|e| Error::usage("`conventions` is not understood").cause(e.to_string()).at("conventions"))?,
    };
    let name = [name.unwrap_or_else(|| describe(&scheme)), changed.join(" ")].join(" ").trim().to_owned();
    Ok(Read { scheme: GroupScheme { args: scheme, conventions }, targets, name, static_activations })
}

/// The observer of static input scales: as asked for, or the moving average that the peers use where none is named.
fn choose_observer(scheme: &mut Scheme, given: Option<&str>, static_activations: bool) -> Result<()> {
    match (&mut scheme.input_activations, given) {
        (Some(args), Some(name)) if static_activations => args.observer = Some(name.to_owned()),
        (Some(args), None) if static_activations => {
            args.observer.get_or_insert_with(|| "minmax".to_owned());
        }
        (_, Some(name)) => {
            return Err(Error::usage("`observer` chooses static input scales, and this scheme has none")
                .at(name)
                .hint("the observer of weights is named as weights: #{ observer: … }"));
        }
        (_, None) => {}
    }
    Ok(())
}

/// How keys and values are quantized, checked and complete.
pub(super) struct KvCache {
    pub params: params::KvCache,
    /// For labels: `KV int8 tensor`.
    pub name: String,
    /// Whether they need scales from calibration data.
    pub is_static: bool,
}

/// Reads a `kv_cache_scheme`.
pub(super) fn read_kv_cache(given: &Value) -> Result<KvCache> {
    let mut args = kv_cache_args(given).map_err(wrong)?;
    let is_static = args.dynamic == Timing::No;
    if is_static {
        args.observer.get_or_insert_with(|| "minmax".to_owned());
    }
    let name = format!("KV {args}");
    Ok(KvCache { params: params::KvCache { args, conventions: Conventions::default() }, name, is_static })
}

/// Groups of a dynamic cache must divide a head.
pub(super) fn check_heads(cache: &KvCache, config: &ModelConfig) -> Result<()> {
    match cache.params.args.group_size {
        Some(size) if !config.head_dim.is_multiple_of(size) => {
            let fitting: Vec<String> = dividing_group_sizes(config.head_dim).iter().map(ToString::to_string).collect();
            let message = format!("groups of {size} do not divide the {} dimensions of a head", config.head_dim);
            Err(Error::usage(message).at("kv_cache_scheme").hint(format!("these sizes do: {}", fitting.join(", "))))
        }
        _ => Ok(()),
    }
}

fn wrong(error: ArgsError) -> Error {
    let needle = error.key.rsplit('.').next().unwrap_or_default().to_owned();
    Error::usage(error.message).maybe_hint(error.hint).at(needle)
}

/// A name for a scheme that has none: `W4 group 32 A8 dynamic`.
fn describe(scheme: &Scheme) -> String {
    let args = |letter: &str, args: &QuantizationArgs| {
        let groups = args.group_size.map(|g| format!(" g{g}")).unwrap_or_default();
        let sign = if args.symmetric { "" } else { " asym" };
        format!("{letter}{}{groups}{sign}", args.num_bits)
    };
    let mut words = Vec::new();
    words.extend(scheme.weights.as_ref().map(|a| args("W", a)));
    words.extend(
        scheme
            .input_activations
            .as_ref()
            .map(|a| format!("{} {}", args("A", a), if a.dynamic == Timing::No { "static" } else { "dynamic" })),
    );
    words.join(" ")
}

/// Group sizes must divide the inputs of every layer that they are asked for, and the width of the embeddings.
pub(super) fn check_shapes(read: &Read, config: &ModelConfig, modules: &[&String]) -> Result<()> {
    for args in [&read.scheme.args.weights, &read.scheme.args.input_activations].into_iter().flatten() {
        let Some(size) = args.group_size.filter(|_| matches!(args.strategy, Strategy::Group | Strategy::TensorGroup))
        else {
            continue;
        };
        let blocks = config.linears().into_iter().map(|linear| (linear.name, linear.in_features));
        let embeddings_and_head = EMBEDDINGS_AND_HEAD.map(|end| (end.to_owned(), config.hidden_size));
        let asked: Vec<(String, usize)> =
            blocks.chain(embeddings_and_head).filter(|(name, _)| modules.contains(&name)).collect();
        if let Some((name, inputs)) = asked.iter().find(|(_, inputs)| inputs % size != 0) {
            let message = format!("groups of {size} do not divide the {inputs} inputs of `{name}`");
            return Err(Error::usage(message).at("group_size").hint(sizes_for_all(args, &asked)));
        }
    }
    Ok(())
}

/// What group sizes the arguments could have that fit every one of the layers.
fn sizes_for_all(args: &QuantizationArgs, layers: &[(String, usize)]) -> String {
    let common = layers.iter().fold(0, |common, (_, inputs)| greatest_common_divisor(common, *inputs));
    let allowed = |size: &usize| QuantizationArgs { group_size: Some(*size), ..args.clone() }.validate().is_ok();
    let fitting: Vec<usize> = dividing_group_sizes(common).into_iter().filter(allowed).collect();
    let listed: Vec<String> = fitting.iter().rev().take(8).rev().map(ToString::to_string).collect();
    let widths: BTreeSet<usize> = layers.iter().map(|(_, inputs)| *inputs).collect();
    let widths: Vec<String> = widths.iter().map(ToString::to_string).collect();
    match (&listed[..], &widths[..]) {
        ([], _) => format!(
            "no size that this format has fits layers of {} inputs: ignore some (`ignore: [\"*.down_proj\"]`), or give them schemes of \
             their own",
            widths.join(", ")
        ),
        (_, [_]) => format!("these sizes do: {}", listed.join(", ")),
        _ => format!("these sizes fit every layer (of {} inputs): {}", widths.join(", "), listed.join(", ")),
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hinted_group_sizes_fit_every_layer() {
        let layers = |inputs: &[usize]| inputs.iter().map(|n| ("layer".to_owned(), *n)).collect::<Vec<_>>();
        // SmolLM2-135M: 96 divides 576 and 1,536; 144 only the first, 512 only the second.
        let int4 = QuantizationArgs { strategy: Strategy::Group, group_size: Some(128), ..QuantizationArgs::default() };
        let sizes = |layers: &[(String, usize)]| sizes_for_all(&int4, layers);
        let hint = sizes(&layers(&[576, 1536, 576]));
        assert_eq!(hint, "these sizes fit every layer (of 576, 1536 inputs): 8, 16, 24, 32, 48, 64, 96, 192");
        assert_eq!(sizes(&layers(&[64, 64])), "these sizes do: 8, 16, 32, 64");
        assert!(sizes(&layers(&[64, 81])).contains("fits layers of 64, 81 inputs"));
        // MX formats have groups of 32 and no others.
        let mxfp4 = workbench_quant::preset("MXFP4A16").and_then(|scheme| scheme.weights).unwrap();
        assert!(sizes_for_all(&mxfp4, &layers(&[64, 172])).starts_with("no size that this format has fits"));
    }
}
