//! Rows of what was written, and what is known of them as a whole.

use serde_json::{Map, Value, json};
use workbench_model::tokenizer::{ChatTemplate, Message, Tokenizer};

use super::{
    Written,
    beginnings::{Beginning, Said},
};
use crate::{error::Result, eval::Loaded};

/// Rows, and counts of them.
pub(super) struct Rows<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    rows: Vec<Map<String, Value>>,
    stopped: usize,
    empty: usize,
    /// How many have the tokens again that they were written in, when they are read.
    same_tokens: usize,
    prompt_tokens: usize,
    completion_tokens: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(model: &'a Loaded) -> Self {
        Self {
            tokenizer: &model.tokenizer,
            template: model.template.as_ref(),
            rows: Vec::new(),
            stopped: 0,
            empty: 0,
            same_tokens: 0,
            prompt_tokens: 0,
            completion_tokens: 0,
        }
    }

    /// Adds the row of a text: what stood in the row of its beginning, and in `messages` or `text` the whole with what was written.
    ///
    /// # Errors
    /// The tokenizer does not know a token; the template refuses the answer.
    pub(super) fn add(&mut self, begins: &Beginning, written: &Written) -> Result<()> {
        let Written { tokens, stopped } = written;
        let mut row = begins.row.clone();
        let own = &begins.ids[begins.front..];
        let ids: Vec<u32> = own.iter().chain(tokens).copied().collect();
        let (new, again) = match &begins.said {
            Said::Turns(turns) => {
                let answer = self.tokenizer.decode(tokens, true)?;
                let turns: Vec<Message> = turns.iter().cloned().chain([Message::new("assistant", &answer)]).collect();
                row.insert("messages".to_owned(), json!(turns));
                let whole = self.template.map(|template| template.render(&turns, false, &Map::new())).transpose()?;
                (answer, whole.unwrap_or_default())
            }
            Said::Text(text) => {
                let (whole, before) = (self.tokenizer.decode(&ids, false)?, self.tokenizer.decode(own, false)?);
                let new = whole.strip_prefix(&before).map(str::to_owned);
                // The prompt as it was given, wherever the tokens can be told apart from it.
                let whole = new.as_ref().map_or(whole, |new| format!("{text}{new}"));
                let new = new.unwrap_or_else(|| whole.clone());
                row.insert("text".to_owned(), whole.clone().into());
                (new, whole)
            }
            Said::Token => {
                let whole = self.tokenizer.decode(&ids, false)?;
                row.insert("text".to_owned(), whole.clone().into());
                (if tokens.is_empty() { String::new() } else { whole.clone() }, whole)
            }
        };
        row.insert("finish_reason".to_owned(), if *stopped { "stop" } else { "length" }.into());
        row.insert("prompt_tokens".to_owned(), begins.ids.len().into());
        row.insert("completion_tokens".to_owned(), tokens.len().into());
        self.stopped += usize::from(*stopped);
        self.empty += usize::from(new.trim().is_empty());
        self.same_tokens += usize::from(self.tokenizer.encode(&again, false)?.starts_with(&ids));
        self.prompt_tokens += begins.ids.len();
        self.completion_tokens += tokens.len();
        self.rows.push(row);
        Ok(())
    }

    pub(super) fn rows(&self) -> &[Map<String, Value>] {
        &self.rows
    }

    /// How many did not end by themselves.
    pub(super) fn cut(&self) -> usize {
        self.rows.len() - self.stopped
    }

    /// Numbers for people and scripts.
    pub(super) fn values(&self) -> Value {
        json!({
            "rows": self.rows.len(),
            "stopped": self.stopped,
            "empty": self.empty,
            "completion_tokens": self.completion_tokens,
            "mean_completion_tokens": self.completion_tokens as f64 / self.rows.len().max(1) as f64,
        })
    }

    /// The same with what else is known.
    pub(super) fn facts(&self) -> Value {
        json!({
            "stop": self.stopped,
            "length": self.cut(),
            "empty": self.empty,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "read_as_the_same_tokens": self.same_tokens,
            "first": self.rows.first(),
        })
    }
}
