//! Models that are there: what is known of them without reading their weights.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use workbench_model::{ChatTemplate, Checkpoint, ModelConfig, ModelError, regular_file};

use super::Host;
use crate::{
    error::{Error, ErrorKind, Result},
    graph::{Input, coded::Schemes, node::SourceModel},
    script::{ModelHandle, Signature, builder::Opened, lock},
};

/// The folder of the demo's model under a project's root.
const DEMO: &str = "experiments/demo/model";

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
pub(super) fn open(host: &Host, name: &str, weights: bool) -> Result<ModelHandle> {
    let path = if name == "demo" { demo(host)? } else { host.root.find(name)? };
    let mut builder = lock(&host.shared);
    let known = builder.models.get(&path).filter(|(signature, ..)| signature.weights == weights).cloned();
    let (signature, files, absent) = match known {
        Some(known) => known,
        None => {
            let usage = |e: Error| Error { kind: ErrorKind::Usage, ..e }.at(name);
            let read = if weights { with_weights(name, &path).map_err(usage)? } else { without_weights(name, &path)? };
            builder.models.insert(path.clone(), read.clone());
            read
        }
    };
    let source = SourceModel { name: name.to_owned(), path, files, absent };
    Ok(ModelHandle { input: Input::Source(source), signature, history: Vec::new(), seen: Vec::new() })
}

fn with_weights(name: &str, path: &Path) -> Result<Opened> {
    let checkpoint = Checkpoint::open(path)?;
    let quantized = checkpoint.quantization().is_some();
    let signature = Signature {
        quantized,
        schemes: Schemes::of(&checkpoint)?,
        coded_experts: checkpoint.has_codes() && !quantized,
        weights: true,
        bytes: checkpoint.bytes_on_disk(),
        knows_demo: knows_demo(path),
        rounds_activations: rounds_activations(&checkpoint)?,
        // What is wrong with one is for the node to say that reads it.
        has_template: !matches!(ChatTemplate::from_checkpoint(&checkpoint), Ok(None)),
        tokenizer: tokenizer(path),
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
    let has_template = !matches!(ChatTemplate::from_folder(path), Ok(None));
    let own = Signature {
        knows_demo: knows_demo(path),
        has_template,
        tokenizer: tokenizer(path),
        ..signature(name, &config)
    };
    Ok((Arc::new(own), files, absent))
}

/// The tokenizer of a folder.
fn tokenizer(folder: &Path) -> Option<PathBuf> {
    Some(folder.join("tokenizer.json")).filter(|file| file.is_file())
}

fn rounds_activations(checkpoint: &Checkpoint) -> Result<bool, ModelError> {
    let config = checkpoint.config();
    for linear in config.linears().into_iter().chain([config.head()]) {
        if checkpoint.input_quantizer(&linear.name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(config.num_layers > 0 && checkpoint.kv_quantizer(0)?.is_some())
}

fn signature(name: &str, config: &ModelConfig) -> Signature {
    let parameters = config.tensors().iter().map(|t| t.shape.iter().product::<usize>() as u64).sum();
    Signature {
        name: name.to_owned(),
        linears: config.linears().into_iter().map(|l| l.name).collect(),
        config: config.clone(),
        quantized: false,
        schemes: Schemes::default(),
        coded_experts: false,
        weights: false,
        parameters,
        bytes: parameters * 4,
        knows_demo: false,
        rounds_activations: false,
        has_template: false,
        tokenizer: None,
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
