//! `dataset` and `.tokens`.

use rhai::{Dynamic, Engine, Map, NativeCallContext};
use workbench_model::{ModelConfig, regular_file};

use super::{Called, Host, model::save, placed};
use crate::{
    data::Format,
    error::{Error, ErrorKind, Result, did_you_mean},
    graph::node::{DataSource, Origin},
    script::{
        Builder, DatasetHandle, Root,
        calls::Tokens,
        files::DataFile,
        lock,
        options::{Options, given},
        place::origin,
    },
};

pub(super) fn register(engine: &mut Engine, host: &Host) {
    engine.register_type_with_name::<DatasetHandle>("Dataset");
    let root = host.root.clone();
    engine.register_fn("dataset", move |context: NativeCallContext<'_>, name: &str| -> Called<DatasetHandle> {
        placed(&context, dataset(&root, name))
    });
    let root = host.root.clone();
    engine.register_fn("read", move |context: NativeCallContext<'_>, name: &str| -> Called<Dynamic> {
        placed(&context, read(&root, name))
    });
    let h = host.clone();
    engine.register_fn(
        "save_as",
        move |context: NativeCallContext<'_>, data: &mut DatasetHandle, folder: &str| -> Called<()> {
            placed(&context, save_as(&h, data, folder, origin(&context)))
        },
    );
    let shared = host.shared.clone();
    engine.register_fn(
        "tokens",
        move |context: NativeCallContext<'_>, data: &mut DatasetHandle, options: Map| -> Called<DatasetHandle> {
            placed(&context, tokens(&mut lock(&shared), data, options))
        },
    );
}

/// A file, or a text of the demo as `demo:stories/train`.
pub(super) fn dataset(root: &Root, name: &str) -> Result<DatasetHandle> {
    let source = match name.strip_prefix("demo:") {
        Some(text) => {
            let known = crate::demo::names();
            if !known.contains(&text) {
                let near = did_you_mean(text, known.iter().copied()).map(|n| format!("did you mean `demo:{n}`?"));
                let error = Error::usage(format!("the demo has no text `{text}`")).at(name);
                return Err(error.maybe_hint(near.or_else(|| Some(format!("it has {}", known.join(", "))))));
            }
            DataSource::Demo(text.to_owned())
        }
        None => {
            let path = root.find(name)?;
            regular_file(&path).map_err(|e| usage(Error::io("read", &path, &e)).at(name))?;
            Format::of(&path).map_err(|e| e.at(name))?;
            DataSource::File(path)
        }
    };
    Ok(DatasetHandle { name: name.to_owned(), source, tokens: None })
}

/// Saves what a node made: the folder has the rows, the record and the recipe.
fn save_as(host: &Host, data: &DatasetHandle, folder: &str, origin: Origin) -> Result<()> {
    match &data.source {
        DataSource::Node(made) => save(host, made.node, folder, origin),
        DataSource::File(_) | DataSource::Demo(_) => {
            Err(Error::usage("these data were not made by the script: there is nothing to save"))
        }
    }
}

/// An error of a file that a script names.
pub(in crate::script) fn usage(error: Error) -> Error {
    Error { kind: ErrorKind::Usage, ..error }
}

/// How many tokens a sequence for a model has: so many as were asked for, or else what the model takes, at most 2048.
pub(in crate::script) fn context(wanted: Option<usize>, config: &ModelConfig) -> Result<usize> {
    let positions = config.max_positions;
    match wanted {
        Some(wanted) if wanted > positions => {
            Err(Error::usage(format!("a context of {wanted} tokens is longer than the model's {positions} positions"))
                .at("max_seq_length")
                .hint("lower max_seq_length, or leave it out"))
        }
        Some(wanted) => Ok(wanted),
        None => Ok(positions.min(2048)),
    }
}

/// What a file holds, as a script's own value.
fn read(root: &Root, name: &str) -> Result<Dynamic> {
    let value = DataFile::read(&root.find(name)?, name)?.value;
    rhai::serde::to_dynamic(value)
        .map_err(|e| Error::usage(format!("`{name}` cannot be read")).cause(e.to_string()).at(name))
}

/// Options of `.tokens(…)`, complete. They are part of the key of whatever reads the data.
fn tokens(builder: &mut Builder, data: &DatasetHandle, map: Map) -> Result<DatasetHandle> {
    let named = map.contains_key("text_column");
    let (mut tokens, notes): (Tokens, _) = Options::read_noting("`tokens`", given(map)?)?;
    notes.into_iter().for_each(|note| builder.warn(format!("`tokens`: {note}")));
    if let Some(column) = data.column().filter(|_| !named) {
        tokens.text_column = column.to_owned();
    }
    builder.draws |= tokens.shuffle && tokens.seed.is_none();
    // A seed that draws nothing must not make a key of its own.
    tokens.seed = if tokens.shuffle { Some(tokens.seed.unwrap_or(builder.seed)) } else { None };
    Ok(DatasetHandle { tokens: Some(tokens), ..data.clone() })
}
