//! Perplexity of running text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Item, Loaded, Measured, MetricInfo, Window, windows::Windows};
use crate::{error::Result, exec::NodeReporter};

/// Scores windows of text: mean negative log-likelihood in nats per token, and whether each token was the likeliest.
pub fn perplexity(model: &Loaded, text: Windows, batch: usize, reporter: &NodeReporter) -> Result<Measured> {
    let mut sums: Sums = Sums::default();
    let total = text.windows.len();
    for (index, group) in text.windows.chunks(batch).enumerate() {
        let sequences: Vec<&[u32]> = group.iter().map(|w| &w.ids[..w.ids.len() - 1]).collect();
        let hidden = model.hidden(&sequences)?;
        let (positions, targets) = scored(group);
        let scores = model.score(&Loaded::gather(&hidden, &positions)?, &targets)?;
        for (((sequence, _), target), score) in positions.iter().zip(&targets).zip(scores) {
            let found = [("nll", -score.log_probability), ("token_acc", f64::from(score.top == *target))];
            sums.add(&group[*sequence].item, &found);
        }
        reporter.progress(((index + 1) * batch).min(total) as u64, total as u64, "windows");
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

/// The positions whose next token counts, as (window of the group, position), and those tokens.
pub(super) fn scored(group: &[Window]) -> (Vec<(usize, usize)>, Vec<u32>) {
    let all = group.iter().enumerate().flat_map(|(sequence, window)| {
        (window.scored..window.ids.len()).map(move |i| ((sequence, i - 1), window.ids[i]))
    });
    all.unzip()
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
