//! `dataset` and `.tokens`.

use std::path::{Path, PathBuf};

use rhai::{Dynamic, Engine, Map, NativeCallContext};
use workbench_model::{ModelConfig, regular_file};

use super::{Called, Host, placed};
use crate::{
    data::Format,
    error::{Error, ErrorKind, Result, did_you_mean},
    graph::node::DataSource,
    script::{
        DatasetHandle,
        calls::Tokens,
        files::DataFile,
        lock,
        options::{Options, given},
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
    let shared = host.shared.clone();
    engine.register_fn(
        "tokens",
        move |context: NativeCallContext<'_>, data: &mut DatasetHandle, options: Map| -> Called<DatasetHandle> {
            let seed = lock(&shared).seed;
            placed(&context, tokens(data, options, seed))
        },
    );
}

/// A file, or a text of the demo as `demo:stories/train`.
pub(super) fn dataset(root: &Path, name: &str) -> Result<DatasetHandle> {
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
            let path = file(root, name)?;
            regular_file(&path).map_err(|e| usage(Error::io("read", &path, &e)).at(name))?;
            Format::of(&path).map_err(|e| e.at(name))?;
            DataSource::File(path)
        }
    };
    Ok(DatasetHandle { name: name.to_owned(), source, tokens: None })
}

/// An error of a file that a script names.
pub(in crate::script) fn usage(error: Error) -> Error {
    Error { kind: ErrorKind::Usage, ..error }
}

/// A path as the user gave it: from the current folder, or else from the project's root.
pub(in crate::script) fn file(root: &Path, name: &str) -> Result<PathBuf> {
    let direct = PathBuf::from(name);
    let found = [direct.clone(), root.join(&direct)].into_iter().find(|p| p.exists());
    found.ok_or_else(|| {
        let error = Error::usage(format!("there is no file or folder `{name}`")).at(name);
        match name.starts_with("hf:") {
            true => error
                .hint("models of the hub are not downloaded during a run: fetch the folder first and give its path"),
            false => error.hint(format!("paths are taken from the current folder, then from `{}`", root.display())),
        }
    })
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
fn read(root: &Path, name: &str) -> Result<Dynamic> {
    let value = DataFile::read(&file(root, name)?, name)?.value;
    rhai::serde::to_dynamic(value)
        .map_err(|e| Error::usage(format!("`{name}` cannot be read")).cause(e.to_string()).at(name))
}

/// Options of `.tokens(…)`, complete. They are part of the key of whatever reads the data.
fn tokens(data: &DatasetHandle, map: Map, seed: u64) -> Result<DatasetHandle> {
    let mut tokens: Tokens = Options::read("`tokens`", given(map)?)?;
    // A seed that draws nothing must not make a key of its own.
    tokens.seed = if tokens.shuffle { Some(tokens.seed.unwrap_or(seed)) } else { None };
    Ok(DatasetHandle { tokens: Some(tokens), ..data.clone() })
}
