//! Evaluation nodes.

use serde_json::{Value, json};

use super::common::StepOutput;
use crate::{
    error::{Error, Result},
    eval::{
        self, Conduct, Engine, Loaded, Measured, Method, Notes,
        task::{Items, Task},
    },
    exec::{Job, NodeReporter},
    graph::{
        canonical::canonical,
        node::{DataSource, TASK_FILE},
        params::{self, Protocol, TextOptions},
    },
    store::{Notebook, Scratch},
};

impl Notes for Notebook {
    fn found(&self) -> &[String] {
        Self::found(self)
    }

    fn add(&mut self, note: &str) -> Result<()> {
        Self::add(self, note)
    }
}

pub(super) fn run(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<StepOutput> {
    let model = Loaded::open(job.model("model")?)?;
    let method = Method::named(&job.method)
        .ok_or_else(|| Error::internal(format!("there is no evaluation `{}`", job.method)))?;
    let mut notebook = scratch.notebook("evaluation")?;
    let conduct = &mut Conduct { progress: reporter, notes: &mut notebook };
    let (measured, task) = match method {
        Method::Perplexity | Method::Divergence => {
            let (windows, batch, task) = running_text(job, &model)?;
            let measured = if method == Method::Divergence {
                let reference = Loaded::open(job.model("reference")?)?;
                same_tokens(&windows, &running_text(job, &reference)?.0)?;
                let mut measured = eval::divergence(&model, &reference, windows, batch, conduct)?;
                let known = canonical(&job.identity["inputs"]["reference"]);
                measured.facts["reference_digest"] = blake3::hash(known.as_bytes()).to_hex()[..32].into();
                measured
            } else {
                eval::perplexity(&model, windows, batch, conduct)?
            };
            (measured, task)
        }
        Method::Choice | Method::Generate => {
            let params::Items { file, limit, batch_size, task: name } = job.typed()?;
            let task = task(job, &file)?;
            let measured = if method == Method::Choice {
                eval::choice(&model, &task, limit, batch_size, conduct)?
            } else {
                eval::generate(&model, &task, limit, batch_size, conduct)?
            };
            (measured, name)
        }
    };
    check(&measured)?;
    scratch.write_items(&measured.items)?;
    let facts = json!({ "task": task, "model": Engine::facts(&model), "measured": measured.description() });
    Ok(StepOutput { values: measured.values(), facts })
}

/// A divergence compares predictions of the same token, so both models have to read a text as the same tokens.
fn same_tokens(ours: &eval::Windows, theirs: &eval::Windows) -> Result<()> {
    if ours.windows == theirs.windows {
        return Ok(());
    }
    let differs = ours.windows.iter().zip(&theirs.windows).find(|(a, b)| a != b);
    let place = differs.map_or_else(|| "its end".to_owned(), |(window, _)| format!("`{}`", window.item));
    Err(Error::refused(format!(
        "the reference's tokenizer makes other tokens of the text than the model's, from {place} on"
    ))
    .hint("a divergence compares predictions for the same tokens: take models with the same tokenizer"))
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

/// The job's task file, if it still means what the job's key was made of.
fn task(job: &Job, meaning: &Value) -> Result<Task> {
    let DataSource::File(path) = job.source(TASK_FILE)? else { return Err(Error::internal("a task is a file")) };
    let task = Task::load(path).map_err(|e| Error::refused(e.to_string()).maybe_hint(e.hint))?;
    if canonical(&task.file.meaning()) != canonical(meaning) {
        return Err(Error::refused(format!("`{}` says something else than when the run began", path.display()))
            .hint("run the same command again"));
    }
    Ok(task)
}

/// The windows of a text or of a text's task file, how many of them pass at once, and the task's name.
fn running_text(job: &Job, model: &Loaded) -> Result<(eval::Windows, usize, String)> {
    if !job.data.contains_key(TASK_FILE) {
        let options: TextOptions = job.typed()?;
        let windows = eval::windows(job.source("text")?, &options, &model.tokenizer)?;
        // The others are read where the text is cut; none may be left out.
        let TextOptions {
            batch_size,
            task,
            protocol: _,
            max_seq_length: _,
            blocks: _,
            add_bos: _,
            text_column: _,
            characters: _,
        } = options;
        return Ok((windows, batch_size, task));
    }
    let params::TextTask { file, limit, batch_size, max_seq_length, task: name } = job.typed()?;
    let task = task(job, &file)?;
    let Items::Text(texts) = task.items else { return Err(Error::internal("not a task of running text")) };
    let options = TextOptions {
        protocol: task.file.protocol.unwrap_or(Protocol::Blocks),
        max_seq_length,
        blocks: limit,
        add_bos: task.file.add_bos,
        text_column: String::new(),
        characters: None,
        batch_size,
        task: task.file.name.clone(),
    };
    Ok((eval::windows_of(texts, task.file.is_one_text(), &options, &model.tokenizer)?, batch_size, name))
}
