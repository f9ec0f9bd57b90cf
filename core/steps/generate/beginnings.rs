//! What texts begin with, and how prompts become that.

use serde_json::{Map, Value};
use workbench_model::tokenizer::{Message, Tokenizer};

use crate::{
    data::{Document, Prompt, affixes, begins_itself, prompts},
    error::{Error, Result},
    eval::{Engine, Loaded},
    graph::{node::DataSource, params::Toggle},
};

/// What a model goes on from.
pub(super) struct Beginning {
    /// Its number among all, those that were left out included.
    pub number: usize,
    pub ids: Vec<u32>,
    /// How many of them stand in front of a text and are none of it.
    pub front: usize,
    /// The row that it came in.
    pub row: Map<String, Value>,
    pub said: Said,
    /// For each text behind it, how many of its tokens are the most probable ones; none where there is no such number.
    pub greedy: Vec<usize>,
}

/// What was there before the model goes on.
pub(super) enum Said {
    /// Turns, of which the next is the assistant's.
    Turns(Vec<Message>),
    /// The beginning of a text.
    Text(String),
    /// A token of the vocabulary.
    Token,
}

/// Beginnings that fit the model.
pub(super) struct Found {
    pub beginnings: Vec<Beginning>,
    /// How many leave no room for what is to be written.
    pub left_out: usize,
}

/// How data are read as prompts.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    pub column: &'a str,
    /// Whether they go through the chat template.
    pub chat: bool,
    pub add_bos: Toggle,
}

/// The first `limit` prompts of data, of at most `room` tokens.
///
/// # Errors
/// The data cannot be read, or are conversations that cannot be rendered; none of them has room.
pub(super) fn read(
    source: &DataSource,
    limit: Option<usize>,
    how: How<'_>,
    model: &Loaded,
    room: usize,
) -> Result<Found> {
    let prefix = match how.add_bos {
        // A template writes what belongs in front.
        Toggle::Auto if how.chat => Vec::new(),
        toggle => affixes(&model.tokenizer, toggle)?.prefix,
    };
    let mut found = Found { beginnings: Vec::new(), left_out: 0 };
    for (number, prompt) in prompts(source, how.column, None)?.take(limit.unwrap_or(usize::MAX)).enumerate() {
        let Prompt { place, row, begins, .. } = prompt?;
        let (said, text) = render(begins, how.chat, model).map_err(|e| e.context(&place))?;
        let (ids, front) = encode(&text, &prefix, &model.tokenizer)?;
        if ids.is_empty() {
            return Err(Error::refused("the prompt is empty, and the tokenizer puts nothing in front of a text")
                .context(place)
                .hint("leave the row out, or set add_bos: true"));
        }
        if ids.len() > room {
            found.left_out += 1;
        } else {
            found.beginnings.push(Beginning { number, ids, front, row, said, greedy: Vec::new() });
        }
    }
    match (found.beginnings.is_empty(), found.left_out) {
        (false, _) => Ok(found),
        (true, 0) => Err(Error::refused("the data hold no prompt")),
        (true, left_out) => Err(Error::refused(format!(
            "none of {left_out} prompts leaves room for what is to be written in {} positions",
            model.max_positions()
        ))
        .hint("lower max_tokens, or give shorter prompts")),
    }
}

/// What was said, and how it is spelled for the model.
fn render(begins: Document, chat: bool, model: &Loaded) -> Result<(Said, String)> {
    let turns = match begins {
        Document::Text(text) if !chat => return Ok((Said::Text(text.clone()), text)),
        Document::Text(text) => vec![Message::new("user", text)],
        Document::Chat(turns) => turns,
    };
    let Some(template) = model.template.as_ref().filter(|_| chat) else {
        let why = if chat { "the model has no chat template" } else { "chat_template is off" };
        return Err(Error::refused(format!("it is a conversation, but {why}")).hint("give it plain text"));
    };
    let text = template.render(&turns, true, &Map::new())?;
    Ok((Said::Turns(turns), text))
}

/// The tokens of a beginning, and how many of them were put in front.
pub(super) fn encode(text: &str, prefix: &[u32], tokenizer: &Tokenizer) -> Result<(Vec<u32>, usize)> {
    let ids = tokenizer.encode(text, false)?;
    if begins_itself(&ids, prefix) {
        return Ok((ids, 0));
    }
    Ok((prefix.iter().copied().chain(ids).collect(), prefix.len()))
}
