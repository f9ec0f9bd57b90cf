//! What can be measured: `perplexity`, `kl`, `task`, and `.evaluate`.

use std::{collections::BTreeMap, time::Instant};

use rhai::{Array, Dynamic, Engine, Map, NativeCallContext};

use super::{Called, Host, data::context as fitting, estimates, placed, supply};
use crate::{
    error::{Error, Result},
    eval::task::{Extent, Task, TaskKind},
    graph::{
        Node, NodeId, NodeKind,
        node::{DataSource, Origin, TASK_FILE},
        params::{Evaluate, Items, Params, TextOptions, TextTask},
    },
    script::{
        Builder, EvaluationHandle, Measured, ModelHandle, TaskHandle,
        calls::{Dataset, RunningText, TaskOptions},
        lock,
        options::{Given, Options, given},
        place::origin,
    },
};

pub(super) fn register(engine: &mut Engine, host: &Host) {
    engine.register_type_with_name::<TaskHandle>("Task");
    engine.register_type_with_name::<EvaluationHandle>("Evaluation");
    engine.register_fn("perplexity", |context: NativeCallContext<'_>, options: Map| -> Called<TaskHandle> {
        placed(&context, given(options).and_then(|given| running_text("perplexity", None, given)))
    });
    engine.register_fn(
        "kl",
        |context: NativeCallContext<'_>, reference: ModelHandle, options: Map| -> Called<TaskHandle> {
            placed(&context, given(options).and_then(|given| running_text("kl", Some(reference), given)))
        },
    );
    let h = host.clone();
    engine.register_fn("task", move |context: NativeCallContext<'_>, path: &str| -> Called<TaskHandle> {
        placed(&context, from_file(&h, path, Given::new()).map(|(task, _)| task))
    });
    let h = host.clone();
    engine.register_fn("task", move |context: NativeCallContext<'_>, path: &str, options: Map| -> Called<TaskHandle> {
        placed(&context, given(options).and_then(|given| from_file(&h, path, given)).map(|(task, _)| task))
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
pub(super) fn running_text(method: &'static str, reference: Option<ModelHandle>, given: Given) -> Result<TaskHandle> {
    let call = if method == "kl" { "`kl`" } else { "`perplexity`" };
    let named = given.contains_key("text_column");
    let RunningText {
        text: Dataset { handle: text },
        name,
        protocol,
        max_seq_length: context,
        blocks,
        add_bos,
        text_column,
        characters,
        batch_size,
    } = Options::read(call, given).map_err(|error| match error.message.ends_with("needs `text`") {
        true => error.hint("pass text: dataset(…)"),
        false => error,
    })?;
    if text.tokens.is_some() {
        return Err(Error::usage("the text of an evaluation is cut by the evaluation's own options")
            .hint("pass dataset(…) without `.tokens`, and max_seq_length, blocks, add_bos here"));
    }
    let text_column = text.column().filter(|_| !named).map_or(text_column, str::to_owned);
    let name = name.unwrap_or_else(|| method.to_owned());
    let task = name.clone();
    // The model fills in the length that was not asked for.
    let max_seq_length = context.unwrap_or_default();
    let options = TextOptions { protocol, max_seq_length, blocks, add_bos, text_column, characters, batch_size, task };
    let (measured, data) = (Measured::RunningText { options, context }, vec![("text".to_owned(), text.source)]);
    Ok(TaskHandle { name, method, measured, data, reference, file: None })
}

/// A task of a TOML file, and how many examples stand before a question. The whole file is checked here, so that nothing of it can
/// fail after an hour.
pub(super) fn from_file(host: &Host, path: &str, given: Given) -> Result<(TaskHandle, u64)> {
    let path = host.root.find(path)?;
    let failed = |e: crate::eval::task::TaskError| Error::usage(e.to_string()).maybe_hint(e.hint);
    let loaded = Task::load(&path).map_err(failed)?;
    let TaskOptions { limit, batch_size } = Options::read("`task`", given)?;
    let extent = loaded.extent(limit);
    let Task { file: task, files, .. } = loaded;
    let file = task.meaning();
    let method = task.kind.method().name();
    let measured = match task.kind {
        TaskKind::Choice | TaskKind::Generate => Measured::Items { file, limit, batch_size, extent },
        TaskKind::Perplexity => Measured::TextTask { file, limit, batch_size, context: task.context_length },
    };
    let role = |index: usize| if index == 0 { TASK_FILE.to_owned() } else { format!("items{index}") };
    let data = files.into_iter().enumerate().map(|(index, used)| (role(index), DataSource::File(used))).collect();
    let shots = task.few_shot as u64;
    Ok((TaskHandle { name: task.name, method, measured, data, reference: None, file: Some(path) }, shots))
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
        let node = evaluation_node(model, &task, origin)?;
        let mut builder = lock(&host.shared);
        let id = builder.graph.add(node);
        caution(host, &mut builder, model, &task, id);
        done.push((task.name.clone(), id));
    }
    Ok(EvaluationHandle { tasks: done })
}

/// Notes what a reader of the result has to know about the text behind it.
fn caution(host: &Host, builder: &mut Builder, model: &ModelHandle, task: &TaskHandle, node: NodeId) {
    for (_, text) in &task.data {
        if model.seen.iter().any(|seen| same(seen, text)) {
            builder.cautions.leak(&host.root.name_of(text), &task.name, &model.history.join(" > "), node);
        }
        if matches!(text, DataSource::Demo(_)) && !model.signature.knows_demo {
            builder.cautions.stranger(&model.signature.name, &host.root.name_of(text), node);
        }
    }
}

/// Whether two sources are the same text, by whatever path it is reached.
fn same(one: &DataSource, other: &DataSource) -> bool {
    match (one, other) {
        (DataSource::File(a), DataSource::File(b)) if a != b => {
            a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
        }
        _ => one == other,
    }
}

/// What is asked for, with what only the model knows.
fn params(model: &ModelHandle, task: &TaskHandle) -> Result<Evaluate> {
    let (config, name) = (&model.signature.config, || task.name.clone());
    Ok(match task.measured.clone() {
        Measured::RunningText { options, context } => {
            Evaluate::RunningText(TextOptions { max_seq_length: fitting(context, config)?, ..options })
        }
        Measured::TextTask { file, limit, batch_size, context } => {
            let max_seq_length = fitting(context, config)?;
            Evaluate::TextTask(TextTask { file, limit, batch_size, max_seq_length, task: name() })
        }
        Measured::Items { file, limit, batch_size, .. } => {
            Evaluate::Items(Items { file, limit, batch_size, task: name() })
        }
    })
}

fn evaluation_node(model: &ModelHandle, task: &TaskHandle, origin: &Origin) -> Result<Node> {
    let params = params(model, task)?;
    if let Evaluate::RunningText(options) = &params {
        let mut texts = task.data.iter().filter(|(role, _)| role == "text");
        texts.try_for_each(|(_, text)| supply::for_text(text, options))?;
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
    let extent = match task.measured {
        Measured::Items { extent, .. } => extent,
        _ => Extent::default(),
    };
    let memory = estimates::evaluation(task.method, &models, &params, &task.data, extent);
    let subject = if model.history.is_empty() { model.signature.name.clone() } else { model.history.join(" > ") };
    Ok(Node {
        kind: NodeKind::Evaluate,
        method: task.method.to_owned(),
        label: format!("evaluate {} of {subject}", task.name),
        params: Params::Evaluate(params),
        inputs,
        data: task.data.iter().cloned().collect(),
        plugin: None,
        origin: origin.clone(),
        memory: memory.into(),
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
    let (mut graph, clock) = {
        let mut builder = lock(&host.shared);
        (std::mem::take(&mut builder.graph), builder.clock.clone())
    };
    graph.distinguish();
    let value = host.force.value(&graph, &wanted, name);
    lock(&host.shared).graph = graph;
    if let Ok(mut clock) = clock.lock() {
        clock.forgive(began);
    }
    value
}
