//! What `train` takes: data, a scheme for trainers that learn codes, a teacher, data to validate on.

use std::path::Path;

use serde_json::Value;
use workbench_quant::Dynamic as Timing;

use super::{
    codes,
    groups::{self, Asking, Assignment},
    model::{NodeDraft, accepted, parameters},
    reward, supply,
};
use crate::{
    error::{Error, Result},
    graph::{
        node::DataSource,
        params::{self, Params, TokenOptions},
    },
    plugin::{Descriptor, Kind, PluginInfo, Registry},
    schema,
    script::{
        Builder, ModelHandle, Signature,
        calls::{self, Dataset, SchemeOptions, Targets, Tokens},
        options::{Models, Options},
    },
};

/// The role of the model that a trainer learns from, and the option that names it.
pub(super) const TEACHER: &str = "teacher";

/// The role of data that nothing is learned of, their stream, and the option that names them.
pub(super) const VALIDATION: &str = "validation";

/// The parameters of a node that trains.
pub(super) fn train(
    model: &ModelHandle,
    plugin: &PluginInfo,
    (mut options, mut models): (Options, Models),
    registry: &Registry,
    builder: &mut Builder,
) -> Result<NodeDraft> {
    let descriptor = &plugin.descriptor;
    let calls::Train { data, dtype, teacher, validation, prompts, rewards } = options.take()?;
    let (data, rewards) = reward::source(descriptor, data, prompts, rewards)?;
    if !rewards.is_empty() && !model.signature.weights {
        return Err(Error::usage(format!("`{}` has no weights to write by", model.signature.name))
            .hint("train it first, by a trainer that learns from data"));
    }
    let quantized = model.signature.quantized;
    let kept = quantized.then(|| codes::train(model, descriptor, dtype.is_some(), &options)).transpose()?;
    let assigned = if quantized { None } else { schemes(model, descriptor, registry, &mut options)? };
    // The mark says that a model was given, and the handle lies beside it.
    let teacher = teacher.and_then(|_| models.remove(TEACHER));
    check_need(descriptor, TEACHER, teacher.is_some())?;
    check_need(descriptor, VALIDATION, validation.is_some())?;
    let (parameters, notes) = parameters(plugin, options, builder)?;
    if quantized && teacher.is_none() && parameters["loss"] == "distillation" {
        return Err(Error::usage(format!(
            "`{}` learns from a teacher, and `{}` has codes and no numbers behind them to learn from",
            descriptor.name, model.signature.name
        ))
        .at("loss")
        .hint("pass teacher: model(…), the model before its quantization, or take loss: \"cross_entropy\""));
    }
    let (source, tokens) = read(data, model)?;
    let (watched, validation) = validation.map(|data| read(data, model)).transpose()?.unzip();
    if let Some(teacher) = &teacher {
        check_teacher(teacher, model, [Some(&tokens), validation.as_ref()])?;
    }
    let mut warnings: Vec<String> = assigned.iter().flat_map(|assigned| assigned.warnings.clone()).collect();
    warnings.extend(notes);
    if watched.as_ref() == Some(&source) {
        warnings.push("its validation data are what it is trained on".to_owned());
    }
    let taught = teacher.as_ref().map(|teacher| format!("{TEACHER} {}", subject(teacher)));
    let (label, note) = assigned.as_ref().map(|a| (a.label.clone(), a.note.clone())).unzip();
    let (groups, kv_cache) = assigned.map(|assigned| (assigned.groups, assigned.kv_cache)).unwrap_or_default();
    let from_scratch = !model.signature.weights;
    let params = params::Train {
        dtype,
        from_scratch,
        codes: quantized,
        data: tokens,
        validation,
        rewards,
        groups,
        kv_cache,
        parameters,
    };
    let sources = [("data", source)].into_iter().chain(watched.map(|source| (VALIDATION, source)));
    Ok(NodeDraft {
        teacher,
        label: label.into_iter().chain(taught).collect::<Vec<_>>().join(" "),
        note: note.or(kept).unwrap_or_default(),
        warnings,
        ..NodeDraft::new(Params::Train(params), sources)
    })
}

/// What a label calls a teacher: by its name, or by what was done to it.
fn subject(teacher: &ModelHandle) -> String {
    match teacher.history.is_empty() {
        true => teacher.signature.name.clone(),
        false => format!("[{}]", teacher.history.join(" > ")),
    }
}

/// Data and how they become tokens for a model.
fn read(Dataset { handle: data }: Dataset, model: &ModelHandle) -> Result<(DataSource, TokenOptions)> {
    let tokens = data.tokens_or(Tokens::default()).for_model(&model.signature.config)?;
    supply::for_tokens(&data.source, &tokens)?;
    Ok((data.source, tokens))
}

/// Refuses what the trainer does not read, and misses what it cannot do without.
fn check_need(plugin: &Descriptor, role: &str, given: bool) -> Result<()> {
    let (needs, name) = (&plugin.needs, &plugin.name);
    let (what, needed, optional, example) = match role {
        TEACHER => ("a model `teacher`", &needs.inputs, &needs.optional_inputs, "teacher: model(…)"),
        _ => ("validation data", &needs.streams, &needs.optional_streams, "validation: dataset(…).tokens(#{ … })"),
    };
    let has = |names: &[String]| names.iter().any(|name| name == role);
    match (has(needed), given) {
        (true, false) => {
            Err(Error::usage(format!("`{name}` needs {what} beside the model and the data that it is given"))
                .at(name.as_str())
                .hint(format!("pass {example}")))
        }
        (false, true) if !has(optional) => {
            Err(Error::usage(format!("`{name}` reads no {role}")).at(role).hint("leave the option out"))
        }
        _ => Ok(()),
    }
}

/// The schemes that a training is for; `None` for a trainer that learns plain weights.
fn schemes(
    model: &ModelHandle,
    plugin: &Descriptor,
    registry: &Registry,
    options: &mut Options,
) -> Result<Option<Assignment>> {
    let name = plugin.name.as_str();
    if !plugin.quantizes {
        return refuse_schemes(plugin, registry, options).map(|()| None);
    }
    if !["scheme", "weights", "config_groups", "kv_cache_scheme"].iter().any(|key| options.has(key)) {
        if plugin.scheme_optional && !words().iter().any(|word| options.has(word)) {
            return Ok(None);
        }
        return Err(Error::usage(format!("`{name}` learns codes, and needs a scheme to learn them for"))
            .at(name)
            .hint("for example scheme: \"W4A16\""));
    }
    if !model.signature.weights {
        return Err(Error::usage(format!("`{}` has no weights to choose grids by", model.signature.name))
            .hint("train it first, by a trainer of plain weights"));
    }
    let asked = Asking::take(options)?;
    let task = groups::Task {
        signature: &model.signature,
        tied: model.signature.config.tie_word_embeddings && model.history.is_empty(),
        method: name,
        by_block: false,
        trains: true,
    };
    let assigned = groups::read(options, asked, &task)?;
    if assigned.untie {
        return Err(Error::usage(format!("`{name}` trains head and embeddings as the model has them, as one tensor"))
            .at("untie_word_embeddings")
            .hint("leave the option out"));
    }
    let fixed = format!("`{}`", assigned.static_activations.as_deref().unwrap_or_default());
    refuse_static(name, &assigned.groups, assigned.kv_cache.as_ref(), &fixed)?;
    accepted(plugin, &assigned.groups)?;
    Ok(Some(assigned))
}

/// Refuses static scales, which come from calibration data, of schemes that are named.
pub(super) fn refuse_static(
    method: &str,
    groups: &[params::Group],
    kv_cache: Option<&params::KvCache>,
    schemes: &str,
) -> Result<()> {
    let fixed = |group: &&params::Group| {
        group.scheme.args.input_activations.as_ref().is_some_and(|args| args.dynamic != Timing::Yes)
    };
    if let Some(module) = groups.iter().find(fixed).and_then(|group| group.modules.first()) {
        return Err(Error::usage(format!(
            "{schemes} has static activation scales (of `{module}`), and `{method}` trains without calibration data"
        ))
        .at("scheme")
        .hint("choose dynamic activations"));
    }
    match kv_cache {
        Some(cache) if cache.args.dynamic == Timing::No => Err(Error::usage(format!(
            "`kv_cache_scheme` has static scales, and `{method}` trains without calibration data"
        ))
        .at("kv_cache_scheme")
        .hint("choose a dynamic cache: kv_cache_scheme: #{ …, dynamic: true }")),
        _ => Ok(()),
    }
}

/// What says something about schemes, or what they are for.
fn words() -> Vec<String> {
    [schema::of::<SchemeOptions>(), schema::of::<Targets>()].map(|schema| schema::names(&schema)).concat()
}

/// A word of schemes among the options that is no parameter of the trainer.
pub(super) fn scheme_words(plugin: &Descriptor, options: &Options) -> Option<String> {
    let words = words();
    let own = plugin.schema["properties"].as_object();
    let is_own = |word: &String| own.is_some_and(|own| own.contains_key(word));
    words.into_iter().find(|word| options.has(word) && !is_own(word))
}

/// Refuses words of schemes that are no parameters of the trainer.
fn refuse_schemes(plugin: &Descriptor, registry: &Registry, options: &Options) -> Result<()> {
    let Some(word) = scheme_words(plugin, options) else { return Ok(()) };
    let others: Vec<String> = registry
        .plugins()
        .map(|info| &info.descriptor)
        .filter(|other| other.kind == Kind::Trainer && other.quantizes)
        .map(|other| format!("`{}`", other.name))
        .collect();
    let error = Error::usage(format!("`{}` learns plain weights, and takes no scheme", plugin.name)).at(word.as_str());
    Err(match others.is_empty() {
        true => error.hint("quantize what it makes: .train(…).quantize(method, #{ scheme: … })"),
        false => error.hint(format!(
            "quantize what it makes: .train(…).quantize(method, #{{ scheme: … }}); on grids train {}",
            others.join(", ")
        )),
    })
}

/// Refuses a teacher that has nothing to say about the tokens of the model.
fn check_teacher(teacher: &ModelHandle, model: &ModelHandle, data: [Option<&TokenOptions>; 2]) -> Result<()> {
    let (name, theirs, ours) = (&teacher.signature.name, &*teacher.signature, &*model.signature);
    let refuse = |message: String, hint: &str| Err(Error::usage(message).at(TEACHER).hint(hint));
    if !theirs.weights {
        return refuse(format!("the teacher `{name}` has no weights"), "train it first");
    }
    if theirs.config.experts.is_some() {
        return refuse(format!("the teacher `{name}` is a mixture of experts"), "trainers take models without experts");
    }
    if theirs.rounds_activations {
        return refuse(
            format!(
                "the teacher `{name}` rounds activations while it runs, which a trainer does not see in its weights"
            ),
            "take a teacher whose weights alone are quantized, or the model before its quantization",
        );
    }
    let (of_teacher, of_model) = (theirs.config.vocab_size, ours.config.vocab_size);
    if of_teacher != of_model {
        return refuse(
            format!("the teacher has a vocabulary of {of_teacher}, the model one of {of_model}"),
            "take a teacher with the model's tokenizer",
        );
    }
    if !may_read_alike(theirs, ours)? {
        return refuse(
            format!("the teacher `{name}` has another tokenizer than `{}`", ours.name),
            "it is asked about the tokens that the model reads: take a teacher with the model's tokenizer",
        );
    }
    let most = theirs.config.max_positions;
    match data.into_iter().flatten().map(|tokens| tokens.max_seq_length).find(|length| *length > most) {
        Some(length) => refuse(
            format!("sequences of {length} tokens are longer than the teacher's context of {most}"),
            "lower max_seq_length",
        ),
        None => Ok(()),
    }
}

/// Whether the tokenizers of two models can be the same: the files say so, or there are none and the node compares what they make
/// of the data.
fn may_read_alike(one: &Signature, other: &Signature) -> Result<bool> {
    let (Some(a), Some(b)) = (&one.tokenizer, &other.tokenizer) else { return Ok(true) };
    if a == b {
        return Ok(true);
    }
    let bytes = |file: &Path| std::fs::read(file).map_err(|e| Error::io("read", file, &e));
    let (a, b) = (bytes(a)?, bytes(b)?);
    // The lengths of its last use that a saved tokenizer remembers are not looked at.
    let meaning = |bytes: &[u8]| -> Option<Value> {
        let mut json: Value = serde_json::from_slice(bytes).ok()?;
        let map = json.as_object_mut()?;
        ["truncation", "padding"].into_iter().for_each(|key| drop(map.remove(key)));
        Some(json)
    };
    Ok(a == b || meaning(&a).is_some_and(|a| meaning(&b) == Some(a)))
}
