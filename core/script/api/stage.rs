//! `stages`, `tasks`, and what can be done with a stage.

use std::sync::Arc;

use rhai::{Array, Dynamic, Engine, Map, NativeCallContext};

use super::{Called, Host, data, model, placed, task};
use crate::{
    error::{Error, Result},
    graph::node::Origin,
    script::{
        DatasetHandle, ModelHandle, TaskHandle,
        calls::Apply,
        files::{DataFile, matching},
        lock,
        options::{Given, Models, Options, dataset, given},
        place::origin,
        stages::{self, Stage, Subject, measures},
    },
};

/// Nothing but a stage file that was read: it makes no node by itself.
#[derive(Clone, Debug)]
struct StageHandle(Arc<Stage>);

pub(super) fn register(engine: &mut Engine, host: &Host) {
    engine.register_type_with_name::<StageHandle>("Stage");
    let h = host.clone();
    engine.register_fn("stages", move |context: NativeCallContext<'_>, pattern: &str| -> Called<Array> {
        placed(&context, read(&h, pattern))
    });
    engine.register_fn("name", |stage: &mut StageHandle| stage.0.name.clone());
    engine.register_fn("suffix", |stage: &mut StageHandle| stage.0.suffix.clone().unwrap_or_default());
    engine.register_fn("input_model", |stage: &mut StageHandle| stage.0.input_model.clone().unwrap_or_default());
    let h = host.clone();
    engine.register_fn(
        "apply",
        move |context: NativeCallContext<'_>,
              model: &mut ModelHandle,
              stage: StageHandle,
              options: Map|
              -> Called<ModelHandle> {
            placed(&context, apply(&h, model, &stage.0, options, &origin(&context)))
        },
    );
    let h = host.clone();
    engine.register_fn(
        "tasks",
        move |context: NativeCallContext<'_>, pattern: &str, reference: ModelHandle, folder: &str| -> Called<Array> {
            placed(&context, tasks(&h, pattern, &reference, folder))
        },
    );
}

/// The stages of the files that a pattern names, in the order of the files.
fn read(host: &Host, pattern: &str) -> Result<Array> {
    let files = matching(&host.root, pattern)?;
    let stages =
        files.iter().map(|(path, name)| Stage::read(path, name, &host.registry)).collect::<Result<Vec<_>>>()?;
    stages::distinct(&stages)?;
    let mut builder = lock(&host.shared);
    stages.iter().flat_map(|stage| &stage.notes).for_each(|note| builder.warn(note.clone()));
    Ok(stages.into_iter().map(|stage| Dynamic::from(StageHandle(Arc::new(stage)))).collect())
}

/// The model that a stage makes of a model: a node for each of its modifiers, or the model itself.
fn apply(host: &Host, model: &ModelHandle, stage: &Stage, options: Map, origin: &Origin) -> Result<ModelHandle> {
    let Apply { calibration } = Options::read("`apply`", given(options)?)?;
    let calibration =
        own_data(host, stage, calibration.map(|data| data.handle)).map_err(|error| stage.locate(error, None))?;
    let mut made = model.clone();
    for step in &stage.steps {
        if stages::means_head(step) {
            lock(&host.shared).warn(format!(
                "{}: llm-compressor's `{}` quantizes lm_head as well, which is left as it is here: `ignore` it, or name it as a target",
                stage.file.name, step.modifier
            ));
        }
        let head = model.signature.config.head_dim as u64;
        if let Some(other) = step.head_size.filter(|size| *size != head) {
            let error =
                Error::usage(format!("`transform_config` is for heads of {other}, and those of the model have {head}"));
            return Err(stage.locate(error.at("transform_config").hint("leave it out"), Some(step)));
        }
        let mut options = step.options.clone();
        stages::complete(step, &made.signature.config, stage.all_experts, &mut options);
        for pattern in stages::without_idle_ignores(step, &made.signature.config, &mut options) {
            let note = format!("{}: `ignore` names `{pattern}`, which this model does not have", stage.file.name);
            lock(&host.shared).warn(note);
        }
        if let Some(data) = calibration.as_ref().filter(|_| step.calibrated) {
            options.insert("calibration".into(), dataset(data.clone())?);
        }
        made = model::apply(host, step.kind, &made, &step.method, (options, Models::new()), origin.clone())
            .map_err(|error| stage.locate(error, Some(step)))?;
    }
    Ok(made)
}

/// The script's calibration data, with what the stage says of it.
fn own_data(host: &Host, stage: &Stage, given: Option<DatasetHandle>) -> Result<Option<DatasetHandle>> {
    let mut data = match &stage.dataset {
        None => given,
        Some(name) => {
            let tokens = given.and_then(|given| given.tokens);
            Some(DatasetHandle { tokens, ..data::dataset(&host.root, name)? })
        }
    };
    match &mut data {
        Some(data) => {
            let tokens = data.tokens.get_or_insert_with(model::default_tokens);
            if let Some(samples) = stage.num_calibration_samples {
                tokens.num_calibration_samples = samples.count();
            }
            tokens.max_seq_length = stage.max_seq_length.or(tokens.max_seq_length);
        }
        None => {
            if let Some(key) = stage.about_data() {
                return Err(Error::usage(format!("`{key}` is about calibration data, and there is none"))
                    .at(key)
                    .hint("name it in the file, dataset = \"…\", or pass calibration: to `apply`"));
            }
        }
    }
    Ok(data)
}

/// What the evaluation files of a pattern measure, each name once. Task files without a path lie in `folder`.
fn tasks(host: &Host, pattern: &str, reference: &ModelHandle, folder: &str) -> Result<Array> {
    let mut found: Vec<(TaskHandle, String)> = Vec::new();
    for (path, name) in matching(&host.root, pattern)? {
        let stage = DataFile::read_stage(&path, &name)?;
        let (wanted, warnings) = measures(&stage)?;
        warnings.into_iter().for_each(|warning| lock(&host.shared).warn(warning));
        for measure in wanted {
            let located = |error| stage.locate(error, &[&measure.name]);
            let task = match measure.subject {
                Subject::Text { method, text, mut options } => data::dataset(&host.root, &text).and_then(|text| {
                    options.insert("text".into(), dataset(text)?);
                    options.insert("name".into(), measure.name.as_str().into());
                    task::running_text(method, (method == "kl").then(|| reference.clone()), options)
                }),
                Subject::File { file, few_shot, options } => {
                    let path =
                        file.unwrap_or_else(|| format!("{}/{}.toml", folder.trim_end_matches('/'), measure.name));
                    task_file(host, &path, few_shot, options)
                }
            };
            let task = task.map_err(located)?;
            if let Some((_, other)) = found.iter().find(|(other, _)| other.name == task.name) {
                let message = format!("`{other}` and `{name}` both measure `{}`", task.name);
                return Err(located(Error::usage(message).hint("choose one of the files, or rename a dataset")));
            }
            found.push((task, name.clone()));
        }
    }
    Ok(found.into_iter().map(|(task, _)| Dynamic::from(task)).collect())
}

/// A task file, which says itself how many examples stand before a question.
fn task_file(host: &Host, path: &str, few_shot: Option<u64>, options: Given) -> Result<TaskHandle> {
    let (task, shots) = task::from_file(host, path, options)?;
    match few_shot.filter(|wanted| *wanted != shots) {
        Some(wanted) => {
            let message = format!("`{}` has {shots} examples before a question, not {wanted}", task.name);
            Err(Error::usage(message)
                .at("few_shot_num")
                .hint(format!("set few_shot in `{path}`, or name another task file")))
        }
        None => Ok(task),
    }
}
