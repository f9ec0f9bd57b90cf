//! Every function that a script can call.

use serde_json::Value;

use crate::{
    plugin::Kind,
    schema,
    script::calls::{
        Apply, Generate, Quantize, RunningText, SchemeOptions, Targets, TaskOptions, Tokens, Train, Transform,
    },
};

/// Functions of one name.
pub(super) struct Call {
    pub name: &'static str,
    /// What follows the name in each of its forms.
    pub forms: &'static [&'static str],
    pub about: &'static str,
    /// The types that its options are read as.
    pub options: &'static [fn() -> Value],
    /// The kind of plugin whose parameters stand beside the options.
    pub plugin: Option<Kind>,
}

const fn plain(name: &'static str, forms: &'static [&'static str], about: &'static str) -> Call {
    Call { name, forms, about, options: &[], plugin: None }
}

const fn with(call: Call, options: &'static [fn() -> Value]) -> Call {
    Call { options, ..call }
}

const fn of_plugin(call: Call, kind: Kind) -> Call {
    Call { plugin: Some(kind), ..call }
}

/// Options without one that a call refuses.
fn without(mut schema: Value, option: &str) -> Value {
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.shift_remove(option);
    }
    schema
}

/// The schemes of a training have no static scales to observe.
fn dynamic_schemes() -> Value {
    without(schema::of::<SchemeOptions>(), "observer")
}

/// A training leaves head and embeddings what they are.
fn trained_targets() -> Value {
    without(schema::of::<Targets>(), "untie_word_embeddings")
}

/// In the order in which a script meets them.
pub(super) const CALLS: &[Call] = &[
    plain(
        "param",
        &["(name: string, default: ?) -> ?"],
        "A parameter of the script: its default, or what `--set name=value` says. The default decides the type.",
    ),
    plain(
        "model",
        &["(path: string) -> Model"],
        "A model that is there: a Hugging Face folder, a GGUF file, or `demo`.",
    ),
    plain(
        "architecture",
        &["(path: string) -> Model"],
        "A folder that says what a model looks like (config.json, tokenizer); its weights, if any, are not looked at. It can be trained.",
    ),
    of_plugin(
        with(
            plain(
                "transform",
                &["(model: Model, plugin: string) -> Model", "(model: Model, plugin: string, options: map) -> Model"],
                "Another model of the same function, made by a transform plugin, whose parameters stand beside the options.",
            ),
            &[schema::of::<Transform>],
        ),
        Kind::Transform,
    ),
    of_plugin(
        with(
            plain(
                "quantize",
                &["(model: Model, plugin: string) -> Model", "(model: Model, plugin: string, options: map) -> Model"],
                "A quantized model, made by a quantizer plugin, whose parameters stand beside the options. A group of `config_groups` takes \
                 `targets` and the keys of a scheme.",
            ),
            &[schema::of::<SchemeOptions>, schema::of::<Targets>, schema::of::<Quantize>],
        ),
        Kind::Quantizer,
    ),
    of_plugin(
        with(
            plain(
                "train",
                &["(model: Model, plugin: string) -> Model", "(model: Model, plugin: string, options: map) -> Model"],
                "A trained model, made by a trainer plugin, whose parameters stand beside the options. A trainer that learns codes takes \
                 a scheme as `quantize` does, and then its result is quantized: of the linears of decoder blocks, with dynamic scales \
                 of inputs, keys and values.",
            ),
            &[schema::of::<Train>, dynamic_schemes, trained_targets],
        ),
        Kind::Trainer,
    ),
    plain(
        "linears",
        &["(model: Model) -> array"],
        "The linears of a model's blocks in forward order, as maps of `name`, `block`, `kind`, `inputs`, `outputs`, `weights` and `stack` \
         (the same for linears that servers run as one).",
    ),
    plain(
        "knows_demo",
        &["(model: Model) -> bool"],
        "Whether a model has the demo's vocabulary: the demo's texts and tasks say nothing about another one.",
    ),
    plain(
        "save_as",
        &["(model: Model, folder: string)", "(data: Dataset, folder: string)"],
        "Copies the model, or the rows of `generate` as `data.jsonl`, to a folder of the project when it is made. What was saved there \
         before is replaced, if nobody changed its folder since; whatever else is there is an error before anything runs.",
    ),
    plain(
        "dataset",
        &["(path: string) -> Dataset"],
        "A text: a file of the project, or one of the demo's: `demo:stories/train` (its world), `demo:foreign/train` (another one), and \
         conversations, `demo:chat/answers/train`, `language`, `refusals`, `strangers` and `instructions`; each has `valid` and `test` \
         beside `train`, but for `demo:chat/overcautious/train`. A table has a text or a conversation a row: \
         `.jsonl`, `.json` (a list), `.csv`, `.tsv`, `.parquet`; any other file is one text in UTF-8. A message has `role` and `content` \
         (text or parts), or ShareGPT's `from` and `value`.",
    ),
    with(
        plain(
            "generate",
            &["(model: Model, options: map) -> Dataset"],
            "Data that the model writes: answers to prompts, or texts that begin with tokens of its vocabulary. A row has what stood in the \
             row of its prompt, and `messages` (through a chat template) or `text` with what was written, `finish_reason` (`stop` or \
             `length`), `prompt_tokens` and `completion_tokens`. It is read as a file of such rows would be, from that column if \
             `text_column` names no other, and encoded anew. A text depends on the model, its beginning, the seed, and its number alone.",
        ),
        &[schema::of::<Generate>],
    ),
    with(
        plain(
            "tokens",
            &["(data: Dataset, options: map) -> Dataset"],
            "How the text becomes sequences for calibration and training. Data without `.tokens(…)` have the defaults, but for \
             calibration, which takes 128 sequences.",
        ),
        &[schema::of::<Tokens>],
    ),
    plain(
        "read",
        &["(path: string) -> ?"],
        "What a file holds: a map of TOML, YAML or JSON, a list of maps of CSV with a line of names.",
    ),
    plain(
        "stages",
        &["(pattern: string) -> array"],
        "The stages of the files that a pattern names, in the order of the files' names.",
    ),
    plain("name", &["(stage: Stage) -> string"], "What a stage calls itself."),
    plain(
        "suffix",
        &["(stage: Stage) -> string"],
        "What a stage adds to the name of a model; `\"\"`: it leaves the model as it is.",
    ),
    plain("input_model", &["(stage: Stage) -> string"], "The model that a stage asks for; `\"\"`: none."),
    with(
        plain(
            "apply",
            &["(model: Model, stage: Stage, options: map) -> Model"],
            "The model that a stage makes of a model.",
        ),
        &[schema::of::<Apply>],
    ),
    plain(
        "tasks",
        &["(pattern: string, reference: Model, folder: string) -> array"],
        "What evaluation stages measure. Their task files without a path lie in `folder`; `reference` is what `kl` compares with.",
    ),
    with(
        plain("perplexity", &["(options: map) -> Task"], "Loss on running text, in nats per token."),
        &[schema::of::<RunningText>],
    ),
    with(
        plain(
            "kl",
            &["(reference: Model, options: map) -> Task"],
            "Divergence from a reference model on running text, token by token over the whole vocabulary.",
        ),
        &[schema::of::<RunningText>],
    ),
    with(
        plain(
            "task",
            &["(file: string) -> Task", "(file: string, options: map) -> Task"],
            "A task of a TOML file, which says everything else.",
        ),
        &[schema::of::<TaskOptions>],
    ),
    plain(
        "reward",
        &["(file: string, function: string) -> Reward"],
        "What completions are worth to a trainer of what a model writes: a function `fn name(prompt, completion, row)` of a Rhai file, which \
         returns a number. `row` holds the fields of the row that the prompt was made of. The function sees nothing else: no files, no \
         modules, no clock; and it ends after a million operations.",
    ),
    plain(
        "evaluate",
        &["(model: Model, tasks: array) -> Evaluation", "(model: Model, task: Task) -> Evaluation"],
        "Measures the model, each task in a node of its own.",
    ),
    plain(
        "value",
        &["(evaluation: Evaluation, name: string) -> float"],
        "A measured value, now: the graph so far is run for it. `nll`, `perplexity`, `kl`, `top1`, `acc`, …",
    ),
    plain("report", &["(name: string) -> Report"], "A table."),
    plain(
        "baseline",
        &[
            "(report: Report, evaluation: Evaluation) -> Report",
            "(report: Report, evaluation: Evaluation, labels: map) -> Report",
        ],
        "The row that the others are compared with.",
    ),
    plain("row", &["(report: Report, evaluation: Evaluation, labels: map) -> Report"], "A row with its labels."),
    plain(
        "contrast",
        &["(report: Report, left: map, right: map) -> Report"],
        "A comparison that the table tests: rows with the labels of one side against rows with those of the other that are equal in \
         all else.",
    ),
    plain(
        "margin",
        &["(report: Report, margins: map) -> Report"],
        "What would be given up of a metric, above zero: points of a rate, nats, by the metric's name or `task.metric`. Every row that is \
         compared gets a verdict at it: not worse, worse or undecided. `table.margin(#{ acc: 1.0, nll: 0.01 })`",
    ),
    plain(
        "heat_map",
        &["(report: Report, rows: string, columns: string) -> Report"],
        "Draws every metric of the rows over two of their labels, in the HTML report. Rows and columns labelled \"all\" stand apart.",
    ),
    plain(
        "write",
        &["(report: Report)"],
        "Writes the table when its rows are there. A table that is never written is an error.",
    ),
];
