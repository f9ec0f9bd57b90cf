//! How prompts become text and tokens.

use serde_json::Map;
use workbench_model::tokenizer::{Message, Tokenizer};

use super::{
    Engine,
    task::{Prompt, Task, Toggle},
};
use crate::{
    data::{affixes, begins_itself, spelled},
    error::{Error, Result},
};

/// How the prompts of a task are written for a model.
///
/// A raw prompt begins with what the tokenizer puts in front of a text, unless it spells the tokenizer's BOS itself; nothing
/// that a tokenizer would put behind a text stands there, since a prompt goes on. A rendered conversation is encoded as it
/// stands, as transformers and servers do: its template writes what belongs in front. (lm-eval puts the tokenizer's BOS there where
/// a template writes none; `add_bos = true` does that.)
pub(super) struct Style {
    pub(super) chat: bool,
    /// In front of each prompt.
    prefix: Vec<u32>,
    /// What an empty prompt is made of, and how it is spelled.
    start: Option<(u32, String)>,
    described: String,
}

impl Style {
    pub(super) fn new(engine: &dyn Engine, task: &Task) -> Result<Self> {
        let has_template = engine.template().is_some();
        let chat = task.uses_chat_template() && (has_template || task.file.chat_template == Toggle::On);
        if chat && !has_template {
            return Err(Error::refused(format!(
                "task `{}` wants a chat template, and the model has none",
                task.file.name
            ))
            .hint("set chat_template = \"auto\" in the task file"));
        }
        Self::of(engine.tokenizer(), chat, task.file.add_bos)
            .map_err(|e| e.context(format!("the prompts of task `{}`", task.file.name)))
    }

    /// The style of prompts for a tokenizer: raw, or rendered by a chat template.
    pub(super) fn of(tokenizer: &Tokenizer, chat: bool, add_bos: Toggle) -> Result<Self> {
        let prefix = match add_bos {
            Toggle::Auto if chat => Vec::new(),
            toggle => affixes(tokenizer, toggle)?.prefix,
        };
        let start = tokenizer.start_id().map(|id| Ok::<_, Error>((id, tokenizer.decode(&[id], false)?))).transpose()?;
        let front = match spelled(&prefix, tokenizer).as_str() {
            "" => String::new(),
            tokens => format!(", {tokens}"),
        };
        let described = format!("{}{front}", if chat { "chat template" } else { "raw prompts" });
        Ok(Self { chat, prefix, start, described })
    }

    /// The text of a prompt.
    pub(super) fn render(&self, prompt: &Prompt, engine: &dyn Engine) -> Result<String> {
        let Some(template) = engine.template().filter(|_| self.chat) else { return Ok(prompt.text()) };
        let turns = prompt
            .turns()
            .into_iter()
            .map(|(role, content)| Message { role: role.to_owned(), content: content.to_owned() });
        Ok(template.render(&turns.collect::<Vec<_>>(), true, &Map::new())?)
    }

    /// The words for the protocol line.
    pub(super) fn describe(&self) -> &str {
        &self.described
    }

    /// The tokens of a prompt, or of a prompt with what follows it.
    pub(super) fn encode(&self, text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let ids = tokenizer.encode(text, false)?;
        let spells_bos =
            self.start.as_ref().is_some_and(|(_, spelled)| !spelled.is_empty() && text.starts_with(spelled));
        if spells_bos || begins_itself(&ids, &self.prefix) {
            return Ok(ids);
        }
        Ok(self.prefix.iter().copied().chain(ids).collect())
    }

    /// What stands before the first token that is predicted where the prompt is empty: the tokenizer's BOS, or else its
    /// end-of-text token.
    pub(super) fn start(&self) -> Result<u32> {
        self.start.as_ref().map(|(id, _)| *id).ok_or_else(|| {
            Error::refused(
                "a prompt is empty, and the tokenizer has neither BOS nor an end-of-text token to begin with",
            )
        })
    }

    /// The tokens of a prompt with a continuation, and how many are the prompt's, as lm-eval's `_encode_pair` has them: white space
    /// at the end of the prompt moves to the continuation, both are encoded as one text, and what follows as many tokens as the
    /// prompt alone has is put behind the prompt as it is encoded alone. Where a token lies across the seam, its part of
    /// the prompt is replaced by the prompt's own.
    pub(super) fn continued(&self, prompt: &str, next: &str, tokenizer: &Tokenizer) -> Result<(Vec<u32>, usize)> {
        let context = prompt.trim_end();
        let whole = format!("{prompt}{next}");
        // A prompt that is empty has nothing that belongs in front of it either; one of white space has.
        let mut ids =
            if prompt.is_empty() { tokenizer.encode(&whole, false)? } else { self.encode(&whole, tokenizer)? };
        let alone = if prompt.is_empty() { Vec::new() } else { self.encode(context, tokenizer)? };
        let mut context = alone.len();
        // A continuation that melts into the prompt's last token has none of its own: that token is scored.
        if context < ids.len() {
            ids.splice(..context, alone);
        }
        if context == 0 {
            let start = self.start()?;
            if ids.first() != Some(&start) {
                ids.insert(0, start);
            }
            context = 1;
        }
        if ids.len() <= 1 {
            return Err(Error::refused(format!("`{whole}` leaves no token to score")));
        }
        let context = context.min(ids.len() - 1);
        Ok((ids, context))
    }
}
