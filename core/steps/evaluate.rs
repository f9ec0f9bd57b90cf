//! Evaluation nodes.

use serde_json::json;

use super::Finding;
use crate::{
    error::{Error, Result},
    eval::{
        self, Loaded, Measured, Protocol, TextOptions,
        task::{Items, Task},
    },
    exec::{Job, NodeReporter},
    graph::node::DataSource,
    store::Scratch,
};

pub(super) fn run(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<Finding> {
    let model = Loaded::open(job.model("model")?)?;
    let params = job.params();
    let limit = params["limit"].as_u64().map(|n| n as usize);
    let batch = params["batch_size"].as_u64().unwrap_or(1).max(1) as usize;
    let measured = match job.method.as_str() {
        "perplexity" => {
            let windows = running_text(job, &model)?;
            eval::perplexity(&model, windows, batch, reporter)?
        }
        "kl" => {
            let windows = running_text(job, &model)?;
            let reference = Loaded::open(job.model("reference")?)?;
            eval::divergence(&model, &reference, windows, batch, reporter)?
        }
        "choice" => eval::choice(&model, &task(job)?, limit, batch, reporter)?,
        "generate" => eval::generate(&model, &task(job)?, limit, batch, reporter)?,
        other => return Err(Error::internal(format!("there is no evaluation `{other}`"))),
    };
    check(&measured)?;
    scratch.write_items(&measured.items)?;
    let facts = json!({ "task": params["task"], "model": model.facts, "measured": measured.description() });
    Ok(Finding { values: measured.values(), facts })
}

/// A model whose likelihoods are no numbers must not become a row of numbers.
fn check(measured: &Measured) -> Result<()> {
    let bad = measured.items.iter().find(|item| item.sums.values().any(|v| !v.is_finite()));
    match bad {
        Some(item) => Err(Error::refused(format!("the score of item `{}` is not finite", item.id))
            .hint("the model's logits overflow or are not numbers")),
        None => Ok(()),
    }
}

fn task(job: &Job) -> Result<Task> {
    let DataSource::File(path) = job.source("task")? else { return Err(Error::internal("a task is a file")) };
    Task::load(path).map_err(|e| Error::refused(e.to_string()).maybe_hint(e.hint))
}

fn running_text(job: &Job, model: &Loaded) -> Result<eval::Windows> {
    let params = job.params();
    if !job.data.contains_key("task") {
        let options: TextOptions = job.typed(params)?;
        return eval::windows(job.source("text")?, &options, &model.tokenizer);
    }
    let task = task(job)?;
    let Items::Text(texts) = task.items else { return Err(Error::internal("not a task of running text")) };
    let options = TextOptions {
        protocol: task.file.protocol.unwrap_or(Protocol::Blocks),
        max_seq_length: params["max_seq_length"].as_u64().unwrap_or(2048) as usize,
        blocks: params["limit"].as_u64().map(|n| n as usize),
        add_bos: task.file.add_bos,
        text_column: String::new(),
        characters: None,
        batch_size: 1,
        task: task.file.name.clone(),
        limit: None,
    };
    eval::windows_of(texts, &options, &model.tokenizer)
}
