//! What a script can call and what it can write, from the types that read it.

mod calls;
mod page;

use serde::Serialize;
use serde_json::Value;
use workbench_quant::{Conventions, QuantizationArgs, preset_names};

use self::calls::{CALLS, Call};
use super::{
    calls::{EvaluationKeys, MeasureKeys, Sampling, StageKeys},
    stages::modifier_keys,
};
use crate::{
    eval::task::TaskFile,
    plugin::{self, Registry},
    schema::{self, Field, fields},
};

/// Everything that the reference says.
#[derive(Debug, Serialize)]
pub struct Reference {
    calls: Vec<Function>,
    schemes: Schemes,
    files: Vec<File>,
    modifiers: Vec<Modifier>,
    plugins: Vec<Plugin>,
}

/// Functions of one name.
#[derive(Debug, Serialize)]
struct Function {
    name: &'static str,
    signatures: Vec<String>,
    about: &'static str,
    options: Vec<Field>,
    /// The kind of plugin whose parameters stand beside the options.
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'static str>,
}

/// What can be quantized how.
#[derive(Debug, Serialize)]
struct Schemes {
    presets: Vec<&'static str>,
    arguments: Vec<Field>,
    conventions: Vec<Field>,
}

/// A modifier of llm-compressor's recipes.
#[derive(Debug, Serialize)]
struct Modifier {
    name: &'static str,
    keys: Vec<&'static str>,
}

/// A kind of file.
#[derive(Debug, Serialize)]
struct File {
    title: &'static str,
    about: &'static str,
    keys: Vec<Field>,
}

#[derive(Debug, Serialize)]
struct Plugin {
    name: String,
    kind: &'static str,
    summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    paper: Option<String>,
    parameters: Vec<Field>,
}

/// The fields of a type.
fn of(schema: &Value) -> Vec<Field> {
    fields(schema, &Value::Null)
}

impl Reference {
    /// With the parameters of the plugins at hand.
    pub fn new(registry: &Registry) -> Self {
        let file = |title, about, schema: Value| File { title, about, keys: of(&schema) };
        let plugins = registry.plugins().map(|info| Plugin {
            name: info.descriptor.name.clone(),
            kind: info.descriptor.kind.name(),
            summary: info.descriptor.summary.clone(),
            paper: info.descriptor.paper.clone(),
            parameters: plugin::parameters(&info.descriptor),
        });
        Self {
            calls: CALLS.iter().map(Function::from).collect(),
            schemes: Schemes {
                presets: preset_names().collect(),
                arguments: of(&schema::of::<QuantizationArgs>()),
                conventions: of(&schema::of::<Conventions>()),
            },
            files: vec![
                file("Task files", "A task is a TOML file beside its data, read by `task`.", schema::of::<TaskFile>()),
                file(
                    "Stages that make a model",
                    "TOML or YAML, read by `stages`. A recipe of llm-compressor as it is takes name and suffix from its file.",
                    schema::of::<StageKeys>(),
                ),
                file("Stages that measure", "TOML or YAML, read by `tasks`.", schema::of::<EvaluationKeys>()),
                file("`sampling` of a stage that measures", "How many samples there are.", schema::of::<Sampling>()),
                file(
                    "An entry of `datasets` of a stage that measures",
                    "Those of the types perplexity and kl take the options of these calls besides.",
                    schema::of::<MeasureKeys>(),
                ),
            ],
            modifiers: modifier_keys().into_iter().map(|(name, keys)| Modifier { name, keys }).collect(),
            plugins: plugins.collect(),
        }
    }

    /// As a page of Markdown.
    pub fn page(&self) -> String {
        page::page(self)
    }
}

impl From<&Call> for Function {
    fn from(call: &Call) -> Self {
        Self {
            name: call.name,
            signatures: call.forms.iter().map(|form| format!("{}{form}", call.name)).collect(),
            about: call.about,
            options: call.options.iter().flat_map(|schema| of(&schema())).collect(),
            plugin: call.plugin.map(plugin::Kind::name),
        }
    }
}

/// The longest line of definitions.
const WIDTH: usize = 130;

/// The definitions of everything a script can call, for editors that understand `.d.rhai` files.
pub fn definitions() -> String {
    let mut text = "module static;\n".to_owned();
    for function in CALLS.iter().map(Function::from) {
        let mut about = function.about.to_owned();
        let options: Vec<String> = function
            .options
            .iter()
            .filter(|field| !field.name.contains('.'))
            .map(|field| format!("`{}`", field.name))
            .collect();
        if !options.is_empty() {
            about.push_str(&format!(" Options: {}.", options.join(", ")));
        }
        let signatures = function.signatures.iter().map(|signature| format!("fn {signature};\n"));
        text.push_str(&format!("\n{}{}", comment(&about), signatures.collect::<String>()));
    }
    text
}

/// A text as lines of a comment.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = "///".to_owned();
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = "///".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    format!("{lines}{line}\n")
}
