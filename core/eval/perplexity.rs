//! Perplexity of running text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Conduct, Engine, Item, Measured, Method, Window, windows::Windows};
use crate::error::Result;

/// Scores windows of text: mean negative log-likelihood in nats per token, and whether each token was the likeliest.
///
/// # Errors
/// The model cannot be asked.
pub fn perplexity(engine: &dyn Engine, text: Windows, batch: usize, conduct: &mut Conduct<'_>) -> Result<Measured> {
    let sequences: Vec<_> = text.windows.iter().map(Window::sequence).collect();
    let scores = conduct.score(engine, &sequences, batch)?;
    let mut sums = Sums::default();
    for (window, scores) in text.windows.iter().zip(scores) {
        for score in scores {
            let found = [("nll", -score.log_probability), ("token_acc", f64::from(score.likeliest))];
            sums.add(&window.item, &found);
        }
    }
    let metrics = Method::Perplexity.metric_infos();
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
