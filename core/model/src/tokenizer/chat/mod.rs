//! Chat templates: Jinja programs that turn a conversation into the text a model was trained on.
//!
//! Templates are written for Python's Jinja2 as transformers sets it up; the environment here behaves alike: block tags
//! take their newline with them, Python's methods and formats exist, `tojson` writes what `json.dumps` writes. What this cannot
//! do is an error, never another text.

mod python;
mod rewrite;

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde, Value, ValueKind};
use minijinja::{Environment, Error, Output, State};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::{checkpoint_settings, folder_settings, special};
use crate::ModelError;
use crate::checkpoint::{Checkpoint, read_small};

/// Steps after which a template is taken to run forever.
const FUEL: u64 = 20_000_000;

/// The file in which a model keeps its template, if not in `tokenizer_config.json`.
const FILE: &str = "chat_template.jinja";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`, or what else the template knows.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

impl Message {
    /// A turn of that role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// `bos_token` and its like, which templates write themselves.
    specials: Map<String, Json>,
}

impl ChatTemplate {
    /// The template of a checkpoint: `chat_template.jinja`, or the one in `tokenizer_config.json`; `None` for a model
    /// without one.
    ///
    /// # Errors
    /// The template or its file is malformed.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Option<Self>, ModelError> {
        let file = checkpoint.companion(FILE)?;
        Self::found(file, &checkpoint_settings(checkpoint)?, checkpoint.path())
    }

    /// The template in a folder that may hold no weights.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_checkpoint`].
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, ModelError> {
        Self::found(read_small(&folder.join(FILE))?, &folder_settings(folder)?, folder)
    }

    fn found(file: Option<Vec<u8>>, settings: &Json, folder: &Path) -> Result<Option<Self>, ModelError> {
        let source = match file {
            Some(bytes) => {
                let not_text = |_| ModelError::file(&folder.join(FILE), "is not UTF-8 text", "");
                Some(String::from_utf8(bytes).map_err(not_text)?)
            }
            None => template_in(settings).map(str::to_owned),
        };
        source.map(|source| Self::new(&source, settings)).transpose()
    }

    /// Compiles a template; `settings` is the parsed `tokenizer_config.json`, whose special tokens the template may use.
    ///
    /// # Errors
    /// [`ModelError::Text`] with the line of the first syntax error.
    pub fn new(source: &str, settings: &Json) -> Result<Self, ModelError> {
        let mut environment = environment().map_err(text_error)?;
        // A template that asks first has a date of its own to fall back to.
        if !asks_for_date(source)? {
            environment.add_function("strftime_now", |format: String| python::strftime(&format));
        }
        environment.add_template_owned("chat", rewrite::rewritten(source)).map_err(text_error)?;
        let specials = special::named(settings).into_iter();
        let specials = specials.filter_map(|(name, token)| Some((name.to_owned(), special::text_of(token)?.into())));
        Ok(Self { environment, source: source.to_owned(), specials: specials.collect() })
    }

    /// The template's text, as the model ships it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation. `add_generation_prompt` opens the assistant's next turn; `extra` holds further
    /// variables, such as `enable_thinking`.
    ///
    /// # Errors
    /// [`ModelError::Text`] when the template refuses the conversation, or fails.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        extra: &Map<String, Json>,
    ) -> Result<String, ModelError> {
        let mut context = self.specials.clone();
        context.insert("messages".into(), messages.iter().map(message_value).collect());
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        // transformers always passes these two, and templates ask whether they are `none`.
        context.extend(["tools", "documents"].map(|name| (name.to_owned(), Json::Null)));
        context.extend(extra.iter().map(|(key, value)| (key.clone(), value.clone())));
        let template = self.environment.get_template("chat").map_err(text_error)?;
        template.render(Serde(&context)).map_err(text_error)
    }
}

/// Jinja2 as transformers sets it up, without a template.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(python::method);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(print);
    environment
        .add_function("raise_exception", |message: String| -> Result<String, Error> { Err(python::failed(message)) });
    environment.add_filter("tojson", |value: Value, given: Rest<Value>, options: Kwargs| {
        python::to_json(&value, given, options)
    });
    environment.add_filter(rewrite::PERCENT, |left: Value, right: Value| python::percent(&left, &right));
    for name in ["length", "count"] {
        environment.add_filter(name, |value: Value| python::length(&value));
    }
    environment.add_filter("wordcount", |text: String| python::wordcount(&text));
    environment.add_test("callable", |value: Value| python::is_callable(&value));
    environment.add_test("sequence", |value: Value| python::is_sequence(&value));
    environment.add_test("iterable", |value: Value| python::is_iterable(&value));
    Ok(environment)
}

fn message_value(message: &Message) -> Json {
    serde_json::json!({"role": message.role, "content": message.content})
}

/// `chat_template` is a text, or a list of named ones of which `default` is meant for plain chats.
fn template_in(settings: &Json) -> Option<&str> {
    let template = settings.get("chat_template")?;
    let named = || {
        let default = template.as_array()?.iter().find(|entry| entry["name"] == "default")?;
        default["template"].as_str()
    };
    template.as_str().or_else(named)
}

/// Whether a template asks for `strftime_now` before it calls it.
fn asks_for_date(source: &str) -> Result<bool, ModelError> {
    let asks = Regex::new(r"strftime_now\s+is\s+(not\s+)?(un)?defined");
    asks.map(|asks| asks.is_match(source)).map_err(|error| ModelError::Text(error.to_string()))
}

/// Prints what Jinja2 would: floats as Python writes them.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match f64::try_from(value.clone()) {
        Ok(number) if value.kind() == ValueKind::Number && !value.is_integer() => {
            out.write_str(&python::float(number)).map_err(|_| python::failed("the text cannot be written"))
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

fn text_error(error: Error) -> ModelError {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    ModelError::Text(format!("the chat template fails{line}: {detail}"))
}
