//! `model`, `architecture`, and what can be done to a model.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use rhai::{Engine, Map, NativeCallContext};
use serde_json::{Value, json};
use workbench_model::{
    Checkpoint, ModelConfig,
    config::{EMBEDDINGS, LM_HEAD},
    regular_file,
};
use workbench_quant::Dynamic as Timing;

use super::{
    Called, Host, estimates,
    groups::{self, Asking},
    placed, supply,
};
use crate::{
    error::{Error, Result, did_you_mean},
    graph::{
        Input, Node, NodeKind,
        node::{DataSource, Origin, PluginUse, SourceModel},
        params::{self, Params, TokenOptions},
    },
    plugin::{Descriptor, Kind, PluginInfo, Scope},
    script::{
        Builder, ModelHandle, SaveSpec, Signature,
        builder::Opened,
        calls::{self, Dataset, Texts, Tokens},
        lock,
        options::{Given, Options, given},
        place::origin,
    },
};

/// What to do about missing calibration data.
const PASS_CALIBRATION: &str = "pass calibration: dataset(…).tokens(#{ … })";

/// The folder of the demo's model under a project's root.
const DEMO: &str = "experiments/demo/model";

pub(super) fn register(engine: &mut Engine, host: &Host) {
    engine.register_type_with_name::<ModelHandle>("Model");
    let h = host.clone();
    engine.register_fn("model", move |context: NativeCallContext<'_>, name: &str| -> Called<ModelHandle> {
        placed(&context, open(&h, name, true))
    });
    let h = host.clone();
    engine.register_fn("architecture", move |context: NativeCallContext<'_>, name: &str| -> Called<ModelHandle> {
        placed(&context, open(&h, name, false))
    });
    for (name, kind) in
        [("transform", NodeKind::Transform), ("quantize", NodeKind::Quantize), ("train", NodeKind::Train)]
    {
        let h = host.clone();
        engine.register_fn(
            name,
            move |context: NativeCallContext<'_>,
                  model: &mut ModelHandle,
                  method: &str,
                  options: Map|
                  -> Called<ModelHandle> {
                let draft = given(options).and_then(|given| apply(&h, kind, model, method, given, origin(&context)));
                placed(&context, draft)
            },
        );
        let h = host.clone();
        engine.register_fn(
            name,
            move |context: NativeCallContext<'_>, model: &mut ModelHandle, method: &str| -> Called<ModelHandle> {
                placed(&context, apply(&h, kind, model, method, Given::new(), origin(&context)))
            },
        );
    }
    engine.register_fn("knows_demo", |model: &mut ModelHandle| model.signature.knows_demo);
    let h = host.clone();
    engine.register_fn(
        "save_as",
        move |context: NativeCallContext<'_>, model: &mut ModelHandle, folder: &str| -> Called<()> {
            placed(&context, save_as(&h, model, folder, origin(&context)))
        },
    );
}

fn demo(host: &Host) -> Result<PathBuf> {
    let path = host.root.join(DEMO);
    if path.is_dir() {
        return Ok(path);
    }
    Err(Error::usage(format!("the project `{}` has no `{DEMO}`", host.root.display()))
        .at("demo")
        .hint("the demo model comes with a clone of the workbench: run the script there, or copy that folder"))
}

/// A Hugging Face folder, a GGUF file, or `demo`; with `weights` false, a folder that only says what a model would look like.
fn open(host: &Host, name: &str, weights: bool) -> Result<ModelHandle> {
    let path = if name == "demo" { demo(host)? } else { host.root.find(name)? };
    let mut builder = lock(&host.shared);
    let known = builder.models.get(&path).filter(|(signature, ..)| signature.weights == weights).cloned();
    let (signature, files, absent) = match known {
        Some(known) => known,
        None => {
            let usage = |e: workbench_model::ModelError| {
                Error { kind: crate::error::ErrorKind::Usage, ..Error::from(e) }.at(name)
            };
            let read = if weights { with_weights(name, &path).map_err(usage)? } else { without_weights(name, &path)? };
            builder.models.insert(path.clone(), read.clone());
            read
        }
    };
    let source = SourceModel { name: name.to_owned(), path, files, absent };
    Ok(ModelHandle { input: Input::Source(source), signature, history: Vec::new(), seen: Vec::new() })
}

fn with_weights(name: &str, path: &Path) -> Result<Opened, workbench_model::ModelError> {
    let checkpoint = Checkpoint::open(path)?;
    let quantized = checkpoint.quantization().is_some();
    let signature = Signature {
        quantized,
        coded_experts: checkpoint.has_codes() && !quantized,
        weights: true,
        bytes: checkpoint.bytes_on_disk(),
        knows_demo: knows_demo(path),
        ..signature(name, checkpoint.config())
    };
    let mut files = checkpoint.files();
    let mut absent = checkpoint.absent_files();
    // What is made of a model repeats the recipe that it came with.
    let recipe = path.join(crate::store::RECIPE);
    if recipe.is_file() { &mut files } else { &mut absent }.push(recipe);
    Ok((Arc::new(signature), files, absent))
}

/// Files of a folder that describe a model and its tokenizer.
const DESCRIPTIONS: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
];

fn without_weights(name: &str, path: &Path) -> Result<Opened> {
    let (files, absent) = DESCRIPTIONS.iter().map(|f| path.join(f)).partition(|f| f.is_file());
    let file = path.join("config.json");
    let text = regular_file(&file).and_then(|()| std::fs::read_to_string(&file));
    let text = text.map_err(|e| Error::io("read", &file, &e).at(name))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| Error::usage(format!("`{}` is no JSON", file.display())).cause(e.to_string()).at(name))?;
    let config = ModelConfig::from_json(&json, &file).map_err(|e| Error::from(e).at(name))?;
    Ok((Arc::new(Signature { knows_demo: knows_demo(path), ..signature(name, &config) }), files, absent))
}

fn signature(name: &str, config: &ModelConfig) -> Signature {
    let parameters = config.tensors().iter().map(|t| t.shape.iter().product::<usize>() as u64).sum();
    Signature {
        name: name.to_owned(),
        linears: config.linears().into_iter().map(|l| l.name).collect(),
        config: config.clone(),
        quantized: false,
        coded_experts: false,
        weights: false,
        parameters,
        bytes: parameters * 4,
        knows_demo: false,
    }
}

/// The digest of the demo's tokenizer.
const DEMO_TOKENIZER: &str = "d8ccbe80ccf3922f4583d0e65d0854bc3275b61c2af30d9794d21beb7139d496";

/// Whether a model has the demo's vocabulary, and with it, most likely, its world.
fn knows_demo(folder: &Path) -> bool {
    let file = folder.join("tokenizer.json");
    let bytes = regular_file(&file).and_then(|()| std::fs::read(&file));
    bytes.is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == DEMO_TOKENIZER)
}

/// A node that makes a model of a model.
pub(super) fn apply(
    host: &Host,
    kind: NodeKind,
    model: &ModelHandle,
    method: &str,
    given: Given,
    origin: Origin,
) -> Result<ModelHandle> {
    let plugin = host.registry.find(method, plugin_kind(kind)).map_err(|e| e.at(method))?;
    if !model.signature.weights && kind != NodeKind::Train {
        return Err(Error::usage(format!("`{}` has no weights to {kind}", model.signature.name)).hint("train it first"));
    }
    if model.signature.quantized {
        return Err(Error::usage(format!("cannot {kind} `{}`: its weights are codes already", model.signature.name))
            .hint("start from the model before its quantization"));
    }
    let each_linear = plugin.descriptor.scope == Scope::Linear;
    if model.signature.config.experts.is_some() && !each_linear && !plugin.descriptor.takes_experts {
        return Err(Error::usage(format!(
            "`{method}` does not take mixtures of experts, and `{}` is one",
            model.signature.name
        ))
        .at(method)
        .hint("quantizers that take linears one by one do"));
    }
    if let Some(input) = plugin.descriptor.needs.inputs.first() {
        return Err(Error::usage(format!("`{method}` needs a model `{input}` beside the one that it is given"))
            .at(method)
            .hint("no node of this workbench has a second model"));
    }
    let call = match kind {
        NodeKind::Transform => "`transform`",
        NodeKind::Train => "`train`",
        _ => "`quantize`",
    };
    let options = Options::new(call, given);
    let draft = match kind {
        NodeKind::Quantize => quantize(model, plugin, options, &mut lock(&host.shared))?,
        NodeKind::Train => train(model, plugin, options, &mut lock(&host.shared))?,
        _ => transform(model, plugin, options, &mut lock(&host.shared))?,
    };
    let mut signature = (*model.signature).clone();
    signature.weights = true;
    signature.coded_experts = false;
    signature.quantized = kind == NodeKind::Quantize;
    let by_block = plugin.descriptor.scope == Scope::Block;
    let memory = estimates::making(&signature, &draft.params, &draft.data, by_block);
    let scratch = estimates::scratch(&signature, &draft.params, by_block);
    let step = if draft.note.is_empty() { method.to_owned() } else { format!("{method} {}", draft.label) };
    let mut history = model.history.clone();
    history.push(step.trim().to_owned());
    let label = format!("{kind} {}", history.join(" > "));
    warn(host, &label, &draft.warnings);
    if model.signature.coded_experts {
        let note = "its experts are MXFP4 codes, read as the numbers that they stand for; those that stay as they are, are written out as f32";
        warn(host, &label, &[note.to_owned()]);
    }
    let mut seen = model.seen.clone();
    seen.extend(draft.data.values().cloned());
    let node = Node {
        kind,
        method: method.to_owned(),
        label,
        params: draft.params,
        inputs: BTreeMap::from([("model".to_owned(), model.input.clone())]),
        data: draft.data,
        plugin: Some(PluginUse {
            name: method.to_owned(),
            identity: plugin.identity.clone(),
            file: plugin.file.clone(),
        }),
        origin,
        // Codes take a byte or less; embeddings stay as they are.
        disk: signature.parameters * if kind == NodeKind::Quantize { 2 } else { 4 },
        scratch,
        memory,
        note: draft.note,
    };
    let read: Vec<DataSource> =
        node.data.values().filter(|source| matches!(source, DataSource::Demo(_))).cloned().collect();
    let mut builder = lock(&host.shared);
    let id = builder.graph.add(node);
    if !signature.knows_demo {
        read.iter().for_each(|text| builder.cautions.stranger(&signature.name, &host.root.name_of(text), id));
    }
    Ok(ModelHandle { input: Input::Node(id), signature: Arc::new(signature), history, seen })
}

/// Notes what looks wrong about a node, once.
fn warn(host: &Host, label: &str, warnings: &[String]) {
    let mut builder = lock(&host.shared);
    warnings.iter().for_each(|warning| builder.warn(format!("{label}: {warning}")));
}

/// A node's parameters and what goes with them.
struct NodeDraft {
    params: Params,
    data: BTreeMap<String, DataSource>,
    /// A few words for labels.
    label: String,
    note: String,
    /// What looks wrong but does not stop a run.
    warnings: Vec<String>,
}

impl NodeDraft {
    fn new(params: Params, data: Option<(&str, DataSource)>) -> Self {
        let data = data.into_iter().map(|(role, source)| (role.to_owned(), source)).collect();
        Self { params, data, label: String::new(), note: String::new(), warnings: Vec::new() }
    }
}

/// A dataset's source and its tokens for a model, for calibration.
fn calibration(data: Dataset, model: &ModelHandle) -> Result<(DataSource, TokenOptions)> {
    let Dataset { handle } = data;
    let tokens = handle.tokens.unwrap_or_else(default_tokens).for_model(&model.signature.config)?;
    supply::for_tokens(&handle.source, &tokens)?;
    Ok((handle.source, tokens))
}

fn quantize(
    model: &ModelHandle,
    plugin: &PluginInfo,
    mut options: Options,
    builder: &mut Builder,
) -> Result<NodeDraft> {
    let descriptor = &plugin.descriptor;
    if options.has("dtype") && descriptor.schema["properties"].get("dtype").is_none() {
        return Err(Error::usage("`quantize` has no option `dtype`").at("dtype").hint(
            "what is not quantized keeps the model's dtype; `scale_dtype` is that of scales, and `transform` writes weights in another",
        ));
    }
    let calls::Quantize {
        untie_word_embeddings: untie,
        config_groups,
        targets,
        ignore: Texts(ignore),
        kv_cache_scheme: kv_cache,
        observe,
        hidden_states,
        compute_dtype,
        calibrate_all_experts,
        min_expert_tokens,
        calibration: data,
    } = options.take()?;
    let mixture = model.signature.config.experts.is_some();
    let of_experts = [
        ("calibrate_all_experts", calibrate_all_experts.is_some()),
        ("min_expert_tokens", min_expert_tokens.is_some()),
    ];
    if let Some((option, _)) = of_experts.into_iter().find(|(_, given)| *given && !mixture) {
        return Err(Error::usage(format!("`{}` has no experts", model.signature.name))
            .at(option)
            .hint("leave the option out"));
    }
    let by_block = descriptor.scope == Scope::Block;
    if by_block && min_expert_tokens.is_some() {
        return Err(Error::usage(format!("`{}` takes whole blocks, and judges itself of experts", descriptor.name))
            .at("min_expert_tokens")
            .hint("leave the option out"));
    }
    let targets = targets.map(|Texts(targets)| targets);
    let assigned = groups::read(
        &mut options,
        Asking { untie, config_groups, targets, ignore, kv_cache },
        &groups::Task {
            signature: &model.signature,
            tied: model.signature.config.tie_word_embeddings && model.history.is_empty(),
            method: descriptor.name.as_str(),
            by_block,
        },
    )?;
    accepted(descriptor, &assigned.groups)?;
    let (parameters, notes) = parameters(plugin, options, builder)?;
    let mut params = params::Quantize {
        groups: assigned.groups,
        kv_cache: assigned.kv_cache,
        untie_word_embeddings: assigned.untie,
        observe: None,
        hidden_states: None,
        compute_dtype: None,
        calibrate_all_experts: false,
        min_expert_tokens: None,
        calibration: None,
        parameters,
    };
    if calibrate_all_experts != Some(true) {
        refuse_static_experts(&model.signature.config, &params.groups)?;
    }
    let observes = !descriptor.needs.statistics.is_empty() || !descriptor.needs.streams.is_empty();
    let mut source = None;
    // Data that nobody reads must not make a key of its own.
    if assigned.static_activations.is_some() || observes {
        let Some(data) = data else {
            return Err(match &assigned.static_activations {
                Some(scheme) if !observes => {
                    Error::usage(format!("`{scheme}` has static activation scales, which need calibration data"))
                        .hint(format!("{PASS_CALIBRATION}, or choose dynamic activations"))
                }
                _ => without_data(plugin),
            });
        };
        let (found, tokens) = calibration(data, model)?;
        source = Some(("calibration", found));
        params = params::Quantize {
            observe: Some(observe),
            hidden_states,
            compute_dtype,
            calibrate_all_experts: calibrate_all_experts.unwrap_or_default(),
            min_expert_tokens: (mixture && !by_block).then(|| min_expert_tokens.unwrap_or(params::MIN_EXPERT_TOKENS)),
            calibration: Some(tokens),
            ..params
        };
    }
    let draft = NodeDraft::new(Params::Quantize(params), source);
    let warnings = assigned.warnings.into_iter().chain(notes).collect();
    Ok(NodeDraft { label: assigned.label, note: assigned.note, warnings, ..draft })
}

/// Refuses static scales for inputs of experts that might see no token.
fn refuse_static_experts(config: &ModelConfig, groups: &[params::Group]) -> Result<()> {
    let fixed = |group: &&params::Group| {
        group.scheme.args.input_activations.as_ref().is_some_and(|args| args.dynamic != Timing::Yes)
    };
    let experts = || config.linears().into_iter().filter(|linear| linear.site.expert.is_some());
    let module = groups.iter().filter(fixed).flat_map(|group| &group.modules);
    let Some(module) = module.into_iter().find(|module| experts().any(|linear| linear.name == **module)) else {
        return Ok(());
    };
    Err(Error::usage(format!("`{module}` has static activation scales, and the router may send its expert no token"))
        .at("scheme")
        .hint("calibrate_all_experts: true, or choose dynamic activations"))
}

/// Refuses schemes that the plugin says it does not take, where it is the plugin that rounds: the embeddings are the host's, and so is
/// the head of a method that takes blocks.
fn accepted(plugin: &Descriptor, groups: &[params::Group]) -> Result<()> {
    let by_host = |module: &String| module == EMBEDDINGS || plugin.scope == Scope::Block && module == LM_HEAD;
    let by_plugin = |group: &&params::Group| !group.modules.iter().all(by_host);
    let refusal = groups.iter().filter(by_plugin).find_map(|group| {
        let args = &group.scheme.args;
        plugin.accepts.refusal(&json!(args.weights), &json!(args.input_activations))
    });
    let Some(refusal) = refusal else { return Ok(()) };
    let key = refusal.key.rsplit('.').next().unwrap_or_default().to_owned();
    Err(Error::usage(format!("`{}` does not take this scheme: {}", plugin.name, refusal.message))
        .at(key)
        .hint(refusal.hint))
}

fn transform(
    model: &ModelHandle,
    plugin: &PluginInfo,
    mut options: Options,
    builder: &mut Builder,
) -> Result<NodeDraft> {
    let calls::Transform { dtype, calibration: data } = options.take()?;
    let (parameters, notes) = parameters(plugin, options, builder)?;
    let needs = &plugin.descriptor.needs;
    let must = !needs.streams.is_empty() || needs.statistics.iter().any(|need| !need.optional);
    let (source, tokens) = match data {
        // Data that nobody reads must not make a key of its own.
        Some(data) if must || !needs.statistics.is_empty() || !needs.optional_streams.is_empty() => {
            let (source, tokens) = calibration(data, model)?;
            (Some(("calibration", source)), Some(tokens))
        }
        None if must => return Err(without_data(plugin)),
        _ => (None, None),
    };
    let draft = NodeDraft::new(Params::Transform(params::Transform { dtype, calibration: tokens, parameters }), source);
    Ok(NodeDraft { warnings: notes, ..draft })
}

/// The error for a plugin that observes but was given nothing to look at.
fn without_data(plugin: &PluginInfo) -> Error {
    let name = plugin.descriptor.name.as_str();
    Error::usage(format!("`{name}` needs calibration data")).at(name).hint(PASS_CALIBRATION)
}

fn train(model: &ModelHandle, plugin: &PluginInfo, mut options: Options, builder: &mut Builder) -> Result<NodeDraft> {
    let calls::Train { data, dtype } = options.take()?;
    let Some(Dataset { handle: data }) = data else {
        return Err(Error::usage("`train` needs data").hint("pass data: dataset(…).tokens(#{ … })"));
    };
    let (parameters, notes) = parameters(plugin, options, builder)?;
    let from_scratch = !model.signature.weights;
    let tokens = data.tokens.unwrap_or_default().for_model(&model.signature.config)?;
    supply::for_tokens(&data.source, &tokens)?;
    let params = params::Train { dtype, from_scratch, data: tokens, parameters };
    Ok(NodeDraft { warnings: notes, ..NodeDraft::new(Params::Train(params), Some(("data", data.source))) })
}

/// The tokens of calibration data that say nothing about them.
pub(super) fn default_tokens() -> Tokens {
    Tokens { num_calibration_samples: Some(128), ..Tokens::default() }
}

/// The plugin's parameters, checked against its schema and complete, and notes about them. A plugin that takes a seed gets the run's.
fn parameters(plugin: &PluginInfo, options: Options, builder: &mut Builder) -> Result<(Value, Vec<String>)> {
    let known: Vec<String> = options.known().into_iter().map(str::to_owned).collect();
    let mut given = options.rest()?;
    if given.get("seed").is_none() && plugin.descriptor.schema["properties"].get("seed").is_some() {
        builder.draws = true;
        if builder.seed != 0 {
            given["seed"] = builder.seed.into();
        }
    }
    crate::plugin::validate_noting(&plugin.descriptor, &given).map_err(|error| {
        // An option of the call itself that was misspelled arrives here too.
        let own = plugin.descriptor.schema["properties"].as_object();
        let is_own = |key: &String| own.is_some_and(|own| own.contains_key(key));
        let guessed = error.hint.as_ref().is_some_and(|hint| hint.starts_with("did you mean"));
        if guessed || given.get(&error.key).is_none() || is_own(&error.key) {
            return error.into();
        }
        let known = || known.iter().map(String::as_str);
        let near = did_you_mean(&error.key, known()).map(|near| format!("did you mean `{near}`?"));
        let hint = near.unwrap_or_else(|| {
            let own: Vec<&str> = own.into_iter().flat_map(|own| own.keys()).map(String::as_str).collect();
            let own = if own.is_empty() { "no parameters".to_owned() } else { own.join(", ") };
            format!("the call takes {}; `{}` has {own}", known().collect::<Vec<_>>().join(", "), plugin.descriptor.name)
        });
        Error::usage(error.message).at(error.key).hint(hint)
    })
}

/// The kind of plugin that makes a kind of node.
fn plugin_kind(kind: NodeKind) -> Kind {
    match kind {
        NodeKind::Quantize => Kind::Quantizer,
        NodeKind::Train => Kind::Trainer,
        NodeKind::Transform | NodeKind::Evaluate => Kind::Transform,
    }
}

fn save_as(host: &Host, model: &ModelHandle, folder: &str, origin: Origin) -> Result<()> {
    let Input::Node(node) = model.input else {
        return Err(Error::usage("this model was not made by the script: there is nothing to save"));
    };
    if folder.contains("${") {
        return Err(Error::usage(format!("nothing was filled in for `${{…}}` in `{folder}`")).at(folder));
    }
    // Beside the store and the reports, wherever the command was given.
    let folder = host.root.join(folder);
    crate::store::check_place(&folder, None).map_err(|e| e.at(folder.display().to_string()))?;
    let mut builder = lock(&host.shared);
    let save = SaveSpec { node, folder, origin };
    if builder.saves.iter().any(|s| s.folder == save.folder && s.node != save.node) {
        return Err(Error::usage(format!("two models are saved as `{}`", save.folder.display())));
    }
    if !builder.saves.contains(&save) {
        builder.saves.push(save);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_known_by_its_tokenizer() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(DEMO);
        let digest = blake3::hash(&std::fs::read(folder.join("tokenizer.json")).unwrap()).to_hex();
        assert_eq!(digest.as_str(), DEMO_TOKENIZER);
        assert!(knows_demo(&folder) && !knows_demo(Path::new("core")));
    }
}
