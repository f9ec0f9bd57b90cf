//! `model`, `architecture`, and what can be done to a model.

use std::{collections::BTreeMap, sync::Arc};

use rhai::{Engine, Map, NativeCallContext};
use serde_json::{Value, json};
use workbench_model::{
    ModelConfig,
    config::{EMBEDDINGS, LM_HEAD},
};
use workbench_quant::Dynamic as Timing;

use super::{
    Called, Host, codes, estimates, groups, open, placed, supply,
    training::{self, TEACHER},
};
use crate::{
    error::{Error, Result, did_you_mean},
    graph::{
        Input, Node, NodeId, NodeKind,
        node::{DataSource, Origin, PluginUse},
        params::{self, Params, TokenOptions},
    },
    plugin::{Descriptor, Kind, PluginInfo, Scope, StartsFrom},
    script::{
        Builder, ModelHandle, SaveSpec,
        calls::{self, Dataset, Tokens},
        lock,
        options::{Given, Models, Options, given_with_models},
        place::origin,
    },
};

/// What to do about missing calibration data.
const PASS_CALIBRATION: &str = "pass calibration: dataset(…).tokens(#{ … })";

pub(super) fn register(engine: &mut Engine, host: &Host) {
    engine.register_type_with_name::<ModelHandle>("Model");
    let h = host.clone();
    engine.register_fn("model", move |context: NativeCallContext<'_>, name: &str| -> Called<ModelHandle> {
        placed(&context, open::open(&h, name, true))
    });
    let h = host.clone();
    engine.register_fn("architecture", move |context: NativeCallContext<'_>, name: &str| -> Called<ModelHandle> {
        placed(&context, open::open(&h, name, false))
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
                let given = given_with_models(options);
                placed(&context, given.and_then(|given| apply(&h, kind, model, method, given, origin(&context))))
            },
        );
        let h = host.clone();
        engine.register_fn(
            name,
            move |context: NativeCallContext<'_>, model: &mut ModelHandle, method: &str| -> Called<ModelHandle> {
                placed(&context, apply(&h, kind, model, method, Default::default(), origin(&context)))
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

/// A node that makes a model of a model.
pub(super) fn apply(
    host: &Host,
    kind: NodeKind,
    model: &ModelHandle,
    method: &str,
    (given, models): (Given, Models),
    origin: Origin,
) -> Result<ModelHandle> {
    let plugin = host.registry.find(method, plugin_kind(kind)).map_err(|e| e.at(method))?;
    if !model.signature.weights && kind != NodeKind::Train {
        return Err(Error::usage(format!("`{}` has no weights to {kind}", model.signature.name)).hint("train it first"));
    }
    codes::check(kind, model, &plugin.descriptor, &host.registry)?;
    let each_linear = plugin.descriptor.scope == Scope::Linear;
    if model.signature.config.experts.is_some() && !each_linear && !plugin.descriptor.takes_experts {
        return Err(Error::usage(format!(
            "`{method}` does not take mixtures of experts, and `{}` is one",
            model.signature.name
        ))
        .at(method)
        .hint("quantizers that take linears one by one do"));
    }
    let passed = |input: &&String| kind == NodeKind::Train && *input == TEACHER;
    if let Some(input) = plugin.descriptor.needs.inputs.iter().find(|input| !passed(input)) {
        return Err(Error::usage(format!("`{method}` needs a model `{input}` beside the one that it is given"))
            .at(method)
            .hint("the one second model of this workbench is the `teacher` of a training"));
    }
    let call = match kind {
        NodeKind::Transform => "`transform`",
        NodeKind::Train => "`train`",
        _ => "`quantize`",
    };
    let options = Options::new(call, given);
    let draft = match kind {
        NodeKind::Quantize => quantize(model, plugin, options, &mut lock(&host.shared))?,
        NodeKind::Train => training::train(model, plugin, (options, models), &host.registry, &mut lock(&host.shared))?,
        _ => transform(model, plugin, options, &mut lock(&host.shared))?,
    };
    let mut signature = (*model.signature).clone();
    signature.weights = true;
    signature.coded_experts = false;
    codes::made(&mut signature, &draft.params);
    let by_block = plugin.descriptor.scope == Scope::Block;
    let taught_by = draft.teacher.as_ref().map(|teacher| &*teacher.signature);
    let (mut memory, mut scratch) = (
        estimates::making(&signature, taught_by, &draft.params, &draft.data, by_block),
        estimates::scratch(&signature, &draft.params, by_block),
    );
    if let (StartsFrom::Codes, Params::Train(train)) = (plugin.descriptor.starts_from, &draft.params) {
        (memory, scratch) = estimates::training_of_codes(&signature, taught_by, train, &draft.data);
    }
    let mut history = model.history.clone();
    history.push(format!("{method} {}", draft.label).trim().to_owned());
    let label = format!("{kind} {}", history.join(" > "));
    warn(host, &label, &draft.warnings);
    if model.signature.coded_experts {
        let note = "its experts are MXFP4 codes, read as the numbers that they stand for; those that stay as they are, are written out as f32";
        warn(host, &label, &[note.to_owned()]);
    }
    let mut seen = model.seen.clone();
    seen.extend(draft.data.values().cloned());
    seen.extend(lock(&host.shared).behind(draft.data.values()));
    let mut inputs = BTreeMap::from([("model".to_owned(), model.input.clone())]);
    if let Some(teacher) = draft.teacher {
        // What it knows of a text it passes on.
        seen.extend(teacher.seen);
        inputs.insert(TEACHER.to_owned(), teacher.input);
    }
    let node = Node {
        kind,
        method: method.to_owned(),
        label,
        params: draft.params,
        inputs,
        data: draft.data,
        plugin: Some(PluginUse {
            name: method.to_owned(),
            identity: plugin.identity.clone(),
            file: plugin.file.clone(),
        }),
        origin,
        // Codes take a byte or less; embeddings stay as they are.
        disk: signature.parameters * if signature.quantized { 2 } else { 4 },
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
pub(super) struct NodeDraft {
    pub params: Params,
    pub data: BTreeMap<String, DataSource>,
    /// The model that a trainer learns from.
    pub teacher: Option<ModelHandle>,
    /// A few words for labels.
    pub label: String,
    pub note: String,
    /// What looks wrong but does not stop a run.
    pub warnings: Vec<String>,
}

impl NodeDraft {
    pub(super) fn new<'a>(params: Params, data: impl IntoIterator<Item = (&'a str, DataSource)>) -> Self {
        let data = data.into_iter().map(|(role, source)| (role.to_owned(), source)).collect();
        Self { params, data, teacher: None, label: String::new(), note: String::new(), warnings: Vec::new() }
    }
}

/// A dataset's source and its tokens for a model, for calibration.
fn calibration(data: Dataset, model: &ModelHandle) -> Result<(DataSource, TokenOptions)> {
    let Dataset { handle } = data;
    let tokens = handle.tokens_or(default_tokens()).for_model(&model.signature.config)?;
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
    let asked = groups::Asking::take(&mut options)?;
    let calls::Quantize {
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
    let assigned = groups::read(
        &mut options,
        asked,
        &groups::Task {
            signature: &model.signature,
            tied: model.signature.config.tie_word_embeddings && model.history.is_empty(),
            method: descriptor.name.as_str(),
            by_block,
            trains: false,
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
pub(super) fn accepted(plugin: &Descriptor, groups: &[params::Group]) -> Result<()> {
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

/// The tokens of calibration data that say nothing about them.
pub(super) fn default_tokens() -> Tokens {
    Tokens { num_calibration_samples: Some(128), ..Tokens::default() }
}

/// The plugin's parameters, checked against its schema and complete, and notes about them. A plugin that takes a seed gets the run's.
pub(super) fn parameters(plugin: &PluginInfo, options: Options, builder: &mut Builder) -> Result<(Value, Vec<String>)> {
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
        NodeKind::Transform | NodeKind::Evaluate | NodeKind::Generate => Kind::Transform,
    }
}

fn save_as(host: &Host, model: &ModelHandle, folder: &str, origin: Origin) -> Result<()> {
    let Input::Node(node) = model.input else {
        return Err(Error::usage("this model was not made by the script: there is nothing to save"));
    };
    save(host, node, folder, origin)
}

/// Asks for a copy of what a node makes.
pub(super) fn save(host: &Host, node: NodeId, folder: &str, origin: Origin) -> Result<()> {
    if folder.contains("${") {
        return Err(Error::usage(format!("nothing was filled in for `${{…}}` in `{folder}`")).at(folder));
    }
    // Beside the store and the reports, wherever the command was given.
    let folder = host.root.join(folder);
    crate::store::check_place(&folder, None).map_err(|e| e.at(folder.display().to_string()))?;
    let mut builder = lock(&host.shared);
    let save = SaveSpec { node, folder, origin };
    if builder.saves.iter().any(|s| s.folder == save.folder && s.node != save.node) {
        return Err(Error::usage(format!("two results are saved as `{}`", save.folder.display())));
    }
    if !builder.saves.contains(&save) {
        builder.saves.push(save);
    }
    Ok(())
}
