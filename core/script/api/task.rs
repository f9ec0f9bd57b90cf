//! What can be measured: `perplexity`, `kl`, `task`, and `.evaluate`.

use std::{collections::BTreeMap, time::Instant};

use rhai::{Array, Dynamic, Engine, Map, NativeCallContext};
use serde_json::{Value, json};

use super::{
    Called, Host,
    data::{context, file},
    estimates, placed,
};
use crate::{
    error::{Error, Result},
    eval::task::{Task, TaskKind},
    graph::{
        Node, NodeKind,
        node::{DataSource, Origin},
    },
    script::{DatasetHandle, EvaluationHandle, ModelHandle, TaskHandle, lock, options::Options, place::origin},
};

pub(super) fn register(engine: &mut Engine, host: &Host) {
    engine.register_type_with_name::<TaskHandle>("Task");
    engine.register_type_with_name::<EvaluationHandle>("Evaluation");
    engine.register_fn("perplexity", |context: NativeCallContext<'_>, options: Map| -> Called<TaskHandle> {
        placed(&context, running_text("perplexity", None, options))
    });
    engine.register_fn(
        "kl",
        |context: NativeCallContext<'_>, reference: ModelHandle, options: Map| -> Called<TaskHandle> {
            placed(&context, running_text("kl", Some(reference), options))
        },
    );
    let h = host.clone();
    engine.register_fn("task", move |context: NativeCallContext<'_>, path: &str| -> Called<TaskHandle> {
        placed(&context, from_file(&h, path, Map::new()))
    });
    let h = host.clone();
    engine.register_fn("task", move |context: NativeCallContext<'_>, path: &str, options: Map| -> Called<TaskHandle> {
        placed(&context, from_file(&h, path, options))
    });
    let h = host.clone();
    engine.register_fn(
        "evaluate",
        move |context: NativeCallContext<'_>, model: &mut ModelHandle, tasks: Array| -> Called<EvaluationHandle> {
            placed(&context, evaluate(&h, model, &tasks, &origin(&context)))
        },
    );
    let h = host.clone();
    engine.register_fn(
        "evaluate",
        move |context: NativeCallContext<'_>, model: &mut ModelHandle, task: TaskHandle| -> Called<EvaluationHandle> {
            placed(&context, evaluate(&h, model, &[Dynamic::from(task)], &origin(&context)))
        },
    );
    let h = host.clone();
    engine.register_fn(
        "value",
        move |context: NativeCallContext<'_>, evaluation: &mut EvaluationHandle, name: &str| -> Called<f64> {
            placed(&context, value(&h, evaluation, name))
        },
    );
}

/// Loss, or divergence from a reference, over running text.
pub(super) fn running_text(method: &'static str, reference: Option<ModelHandle>, map: Map) -> Result<TaskHandle> {
    let mut o = Options::new(if method == "kl" { "`kl`" } else { "`perplexity`" }, map);
    let Some(text) = o.handle::<DatasetHandle>("text", "a dataset")? else {
        return Err(Error::usage(format!("`{method}` needs a text")).hint("pass text: dataset(…)"));
    };
    if text.tokens.is_some() {
        return Err(Error::usage("the text of an evaluation is cut by the evaluation's own options")
            .hint("pass dataset(…) without `.tokens`, and max_seq_length, blocks, add_bos here"));
    }
    let name = o.text("name")?.unwrap_or_else(|| method.to_owned());
    let protocol = o.word("protocol", &["blocks", "rolling"], "blocks")?;
    let params = json!({
        "protocol": protocol,
        "max_seq_length": o.count("max_seq_length", 2)?,
        "blocks": o.count("blocks", 1)?,
        "add_bos": o.toggle("add_bos")?,
        "text_column": o.text("text_column")?.unwrap_or_else(|| "text".to_owned()),
        "characters": o.count("characters", 1)?,
        "batch_size": o.count("batch_size", 1)?.unwrap_or(1),
    });
    o.finish()?;
    let data = vec![("text".to_owned(), text.source)];
    Ok(TaskHandle { name, method, params, data, reference, file: None })
}

/// A task of a TOML file. The whole file is checked here, so that nothing of it can fail after an hour.
pub(super) fn from_file(host: &Host, path: &str, map: Map) -> Result<TaskHandle> {
    let path = file(&host.root, path)?;
    let failed = |e: crate::eval::task::TaskError| Error::usage(e.to_string()).maybe_hint(e.hint);
    let Task { file: task, files, .. } = Task::load(&path).map_err(failed)?;
    let mut o = Options::new("`task`", map);
    let method = match task.kind {
        TaskKind::Choice => "choice",
        TaskKind::Generate => "generate",
        TaskKind::Perplexity => "perplexity",
    };
    let params = json!({
        "limit": o.count("limit", 1)?,
        "batch_size": o.count("batch_size", 1)?.unwrap_or(8),
        "max_seq_length": if task.kind == TaskKind::Perplexity { task.context_length.map(Value::from).unwrap_or_default() } else { Value::Null },
    });
    o.finish()?;
    let role = |index: usize| if index == 0 { "task".to_owned() } else { format!("items{index}") };
    let data = files.into_iter().enumerate().map(|(index, used)| (role(index), DataSource::File(used))).collect();
    Ok(TaskHandle { name: task.name.clone(), method, params, data, reference: None, file: Some(path) })
}

/// One node per task, so that tasks run side by side and are cached one by one.
fn evaluate(host: &Host, model: &ModelHandle, tasks: &[Dynamic], origin: &Origin) -> Result<EvaluationHandle> {
    if !model.signature.weights {
        return Err(
            Error::usage(format!("`{}` has no weights to evaluate", model.signature.name)).hint("train it first")
        );
    }
    if tasks.is_empty() {
        return Err(Error::usage("there is no task to evaluate"));
    }
    let mut done: Vec<(String, _)> = Vec::new();
    for task in tasks {
        let Some(task) = task.clone().try_cast::<TaskHandle>() else {
            return Err(Error::usage(format!("a task is wanted, not a {}", task.type_name()))
                .hint("perplexity(#{ … }), kl(model, #{ … }) and task(\"file.toml\") make tasks"));
        };
        if done.iter().any(|(name, _)| *name == task.name) {
            return Err(Error::usage(format!("two tasks are called `{}`", task.name))
                .hint("give one of them another name: #{ name: \"…\" }"));
        }
        warn_of_overlap(host, model, &task);
        let node = evaluation_node(model, &task, origin)?;
        done.push((task.name.clone(), lock(&host.shared).graph.add(node)));
    }
    Ok(EvaluationHandle { tasks: done })
}

/// A model that was calibrated or trained on the very text that it is measured on flatters itself.
fn warn_of_overlap(host: &Host, model: &ModelHandle, task: &TaskHandle) {
    if let Some((_, text)) = task.data.iter().find(|(_, source)| model.seen.contains(source)) {
        let name = match text {
            DataSource::File(path) => path.display().to_string(),
            DataSource::Demo(name) => format!("demo:{name}"),
        };
        let warning =
            format!("`{}` is measured on `{name}`, which {} has seen before", task.name, model.history.join(" > "));
        lock(&host.shared).warn(warning);
    }
}

fn evaluation_node(model: &ModelHandle, task: &TaskHandle, origin: &Origin) -> Result<Node> {
    let mut params = task.params.clone();
    params["task"] = task.name.as_str().into();
    if task.method == "perplexity" || task.method == "kl" {
        let context = context(params["max_seq_length"].as_u64(), &model.signature.config)?;
        params["max_seq_length"] = context.into();
    }
    let mut inputs = BTreeMap::from([("model".to_owned(), model.input.clone())]);
    let mut models = vec![&*model.signature];
    if let Some(reference) = &task.reference {
        if reference.signature.config.vocab_size != model.signature.config.vocab_size {
            return Err(Error::usage(format!(
                "the reference has a vocabulary of {}, the model one of {}",
                reference.signature.config.vocab_size, model.signature.config.vocab_size
            )));
        }
        inputs.insert("reference".to_owned(), reference.input.clone());
        models.push(&reference.signature);
    }
    let memory = estimates::evaluation(task.method, &models, &params, &task.data);
    let subject = if model.history.is_empty() { model.signature.name.clone() } else { model.history.join(" > ") };
    Ok(Node {
        kind: NodeKind::Evaluate,
        method: task.method.to_owned(),
        label: format!("evaluate {} of {subject}", task.name),
        params,
        inputs,
        data: task.data.iter().cloned().collect(),
        plugin: None,
        origin: origin.clone(),
        memory,
        disk: 0,
        scratch: 0,
        note: String::new(),
    })
}

/// A number that the script needs now. The graph so far is run for it.
fn value(host: &Host, evaluation: &EvaluationHandle, name: &str) -> Result<f64> {
    let began = Instant::now();
    let wanted: Vec<_> = evaluation.tasks.iter().map(|t| t.1).collect();
    // The graph leaves the builder while it runs, so that nothing holds the lock for hours.
    let (graph, clock) = {
        let mut builder = lock(&host.shared);
        (std::mem::take(&mut builder.graph), builder.clock.clone())
    };
    let value = host.force.value(&graph, &wanted, name);
    lock(&host.shared).graph = graph;
    if let Ok(mut clock) = clock.lock() {
        clock.forgive(began);
    }
    value
}
