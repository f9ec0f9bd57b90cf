//! Perplexity of running text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    CHUNK, Item, Loaded, Measured, MetricInfo, Window,
    walk::{Batch, Progress, groups},
    windows::Windows,
};
use crate::{error::Result, exec::NodeReporter};

/// Scores windows of text: mean negative log-likelihood in nats per token, and whether each token was the likeliest.
pub fn perplexity(model: &Loaded, text: Windows, batch: usize, reporter: &NodeReporter) -> Result<Measured> {
    let mut sums: Sums = Sums::default();
    let mut progress = Progress::new(reporter, text.windows.len().div_ceil(batch), &[model]);
    for group in groups(&lens(&text.windows), batch, model.config().hidden_size) {
        let windows = &text.windows[group];
        let batches = batches(windows, batch);
        let hidden = model.walk(&batches, &mut progress)?;
        let head = model.head()?;
        for ((windows, batch), hidden) in windows.chunks(batch).zip(&batches).zip(hidden) {
            let scores = head.score(&hidden, &batch.targets, CHUNK)?;
            for (((sequence, _), target), score) in batch.positions.iter().zip(&batch.targets).zip(scores) {
                let found = [("nll", -score.log_probability), ("token_acc", f64::from(score.top == *target))];
                sums.add(&windows[*sequence].item, &found);
            }
            progress.step();
        }
    }
    let metrics = vec![MetricInfo::nats("nll"), MetricInfo::rate("token_acc")];
    let mut measured =
        Measured { items: sums.items(), metrics, protocol: text.protocol, facts: text.facts, extra: Map::new() };
    let nll = measured.mean("nll");
    let tokens: f64 = measured.items.iter().map(|i| i.weight).sum();
    measured.protocol = format!("{} ({tokens} tokens scored)", measured.protocol);
    measured.extra.insert("perplexity".into(), nll.exp().into());
    measured.extra.insert("tokens".into(), tokens.into());
    if let Some(words) = text.words {
        measured.extra.insert("word_perplexity".into(), (nll * tokens / words.max(1) as f64).exp().into());
        measured.extra.insert("words".into(), words.into());
    }
    Ok(measured)
}

/// How many tokens of each window go through the model.
pub(super) fn lens(windows: &[Window]) -> Vec<usize> {
    windows.iter().map(|window| window.ids.len() - 1).collect()
}

/// Windows in batches of so many.
pub(super) fn batches(windows: &[Window], batch: usize) -> Vec<Batch<'_>> {
    windows.chunks(batch).map(|some| Batch::of(some.iter().map(|w| (&w.ids[..], w.scored)))).collect()
}

/// Sums by item, in the order in which items first appear.
#[derive(Default)]
pub(super) struct Sums {
    order: Vec<Item>,
    known: BTreeMap<String, usize>,
}

impl Sums {
    /// Adds one observation to an item.
    pub(super) fn add(&mut self, item: &str, values: &[(&str, f64)]) {
        let index = *self.known.entry(item.to_owned()).or_insert_with(|| {
            self.order.push(Item {
                id: item.to_owned(),
                weight: 0.0,
                sums: BTreeMap::new(),
                detail: Value::Null,
                unparsed: false,
            });
            self.order.len() - 1
        });
        let item = &mut self.order[index];
        item.weight += 1.0;
        for (name, value) in values {
            *item.sums.entry((*name).to_owned()).or_default() += value;
        }
    }

    pub(super) fn items(self) -> Vec<Item> {
        self.order
    }
}
