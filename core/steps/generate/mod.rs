//! Nodes in which a model writes texts: answers to prompts, or texts that begin with tokens of its vocabulary.
//!
//! A text depends on the model, its beginning, the seed, its number among the beginnings and its number behind that beginning, and
//! on nothing else: not on what is written beside it, on threads, or on an interruption.

mod beginnings;
mod rows;
mod starts;

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use serde_json::json;
use workbench_model::generate::{Finish, Generation, Sampler, Sampling, generate_by};

use self::{beginnings::Beginning, rows::Rows};
use super::common::StepOutput;
use crate::{
    error::{Error, Result},
    eval::{Engine, Loaded},
    exec::{Job, NodeReporter},
    graph::params::{Begin, Generate},
    progress::Progress,
    store::{Notebook, Scratch},
};

/// Bits of the number of a text among those with the same beginning.
const OF_A_BEGINNING: u32 = 24;

/// What was written behind a beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    tokens: Vec<u32>,
    /// Whether the model ended it.
    stopped: bool,
}

impl From<Generation> for Written {
    fn from(generation: Generation) -> Self {
        Self { tokens: generation.tokens, stopped: generation.finish == Finish::Stop }
    }
}

pub(super) fn run(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<StepOutput> {
    let Generate { begin, n, max_tokens, temperature, top_p, top_k, seed, add_bos, batch_size } = job.typed()?;
    let model = Loaded::open(job.model("model")?)?;
    let room = model.max_positions().saturating_sub(max_tokens);
    let found = match &begin {
        Begin::Prompts { text_column, chat_template, limit } => {
            let how = beginnings::How { column: text_column, chat: *chat_template, add_bos };
            beginnings::read(job.source("prompts")?, *limit, how, &model, room)?
        }
        Begin::Starts { count, greedy_tokens } => {
            starts::draw(&model, *count, (seed.unwrap_or(0), *greedy_tokens, n), add_bos, room)?
        }
    };
    if found.left_out > 0 {
        let (left_out, all) = (found.left_out, found.left_out + found.beginnings.len());
        reporter.log(
            "warn",
            format!("{left_out} of {all} prompts leave no room for {max_tokens} tokens, and are left out"),
        );
    }
    let texts = Texts {
        beginnings: &found.beginnings,
        n,
        max_tokens,
        sampling: Sampling { temperature, top_k, top_p },
        seed: seed.unwrap_or(0),
        // What rounds by all that stands side by side stands alone.
        batch: if model.rounds_together()? { 1 } else { batch_size },
    };
    let written = texts.write(&model, &mut scratch.notebook("texts")?, reporter)?;
    let mut rows = Rows::new(&model);
    for (index, written) in written.iter().enumerate() {
        rows.add(texts.beginning(index), written)?;
    }
    if rows.cut() > 0 {
        let (cut, all) = (rows.cut(), written.len());
        let message = format!(
            "{cut} of {all} texts were cut at {max_tokens} tokens (`finish_reason` \"length\"): who learns of them learns to end there"
        );
        reporter.log("warn", message);
    }
    scratch.write_data(rows.rows())?;
    let values = rows.values();
    let facts = json!({
        "model": Engine::facts(&model),
        "beginnings": { "read": found.left_out + found.beginnings.len(), "left_out": found.left_out },
        "rows": rows.facts(),
    });
    Ok(StepOutput { values, facts })
}

/// The texts that are wanted: `n` behind each beginning.
struct Texts<'a> {
    beginnings: &'a [Beginning],
    n: usize,
    max_tokens: usize,
    sampling: Sampling,
    seed: u64,
    batch: usize,
}

impl Texts<'_> {
    fn len(&self) -> usize {
        self.beginnings.len() * self.n
    }

    /// The beginning of a text.
    fn beginning(&self, index: usize) -> &Beginning {
        &self.beginnings[index / self.n]
    }

    /// What draws the tokens of a text.
    fn sampler(&self, index: usize) -> Sampler {
        let (beginning, number) = (self.beginning(index), index % self.n);
        let greedy = beginning.greedy.get(number).copied().unwrap_or(0);
        Sampler::new(self.sampling, self.seed, stream(beginning.number, number)).greedy_at_first(greedy)
    }

    /// All of them, in their order. Those that were noted before an interruption are not written again.
    fn write(&self, model: &Loaded, notes: &mut Notebook, progress: &dyn Progress) -> Result<Vec<Written>> {
        let read = notes.found().iter().map_while(|note| serde_json::from_str::<Vec<Written>>(note).ok());
        let mut done: Vec<Written> = read.flatten().take(self.len()).collect();
        let total = self.len() as u64;
        progress.progress(done.len() as u64, total, "texts");
        if done.len() == self.len() {
            return Ok(done);
        }
        let (decoder, stops) = (model.writer()?, model.tokenizer.stop_ids());
        while done.len() < self.len() {
            let batch = done.len()..self.len().min(done.len() + self.batch);
            let prompts: Vec<Vec<u32>> = batch.clone().map(|index| self.beginning(index).ids.clone()).collect();
            let samplers = batch.map(|index| self.sampler(index)).collect();
            let ends = (self.max_tokens, stops.as_slice());
            let found = generate_by(&decoder, &prompts, samplers, ends, &mut |_, _| ControlFlow::Continue(()))?;
            let found: Vec<Written> = found.into_iter().map(Written::from).collect();
            notes.add(&serde_json::to_string(&found).map_err(|e| Error::internal(e.to_string()))?)?;
            done.extend(found);
            progress.progress(done.len() as u64, total, "texts");
        }
        Ok(done)
    }
}

/// The random numbers of a text.
fn stream(beginning: usize, number: usize) -> u64 {
    ((beginning as u64) << OF_A_BEGINNING) | number as u64
}
