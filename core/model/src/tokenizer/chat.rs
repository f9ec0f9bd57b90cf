//! Chat templates: Jinja programs that turn a conversation into the text a model was trained on.
//!
//! Templates are written for Python's Jinja2 as transformers sets it up; the environment here behaves alike: block tags
//! take their newline with them, Python's string methods exist, `tojson` writes what `json.dumps` writes.

use std::path::Path;

use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{checkpoint_settings, folder_settings, special};
use crate::ModelError;
use crate::checkpoint::{Checkpoint, read_small};

/// Steps after which a template is taken to run forever.
const FUEL: u64 = 20_000_000;

/// The day that `strftime_now` names: the one that Llama 3's template falls back to. The real date would make a prompt,
/// and every result that rests on it, differ from one day to the next.
const TODAY: [(&str, &str); 7] =
    [("%d", "26"), ("%B", "July"), ("%b", "Jul"), ("%m", "07"), ("%Y", "2024"), ("%y", "24"), ("%A", "Friday")];

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
    specials: Map<String, Value>,
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

    fn found(file: Option<Vec<u8>>, settings: &Value, folder: &Path) -> Result<Option<Self>, ModelError> {
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
    pub fn new(source: &str, settings: &Value) -> Result<Self, ModelError> {
        let mut environment = Environment::new();
        environment.set_syntax(
            minijinja::syntax::SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(text_error)?,
        );
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        // A template that asks first has a date of its own to fall back to.
        if !source.contains("strftime_now is defined") {
            environment.add_function("strftime_now", |format: String| {
                TODAY.iter().fold(format, |text, (code, value)| text.replace(code, value))
            });
        }
        let body = without_generation_tags(source);
        environment.add_template_owned("chat", body).map_err(text_error)?;
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
        extra: &Map<String, Value>,
    ) -> Result<String, ModelError> {
        let mut context = self.specials.clone();
        context.insert("messages".into(), messages.iter().map(message_value).collect());
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        context.extend(extra.iter().map(|(key, value)| (key.clone(), value.clone())));
        let template = self.environment.get_template("chat").map_err(text_error)?;
        template.render(Serde(&context)).map_err(text_error)
    }
}

fn message_value(message: &Message) -> Value {
    serde_json::json!({"role": message.role, "content": message.content})
}

/// `chat_template` is a text, or a list of named ones of which `default` is meant for plain chats.
fn template_in(settings: &Value) -> Option<&str> {
    let template = settings.get("chat_template")?;
    let named = || {
        let default = template.as_array()?.iter().find(|entry| entry["name"] == "default")?;
        default["template"].as_str()
    };
    template.as_str().or_else(named)
}

/// `{% generation %}` marks the assistant's words for training and prints nothing. A condition that always holds has the
/// same effect on the text around it.
fn without_generation_tags(source: &str) -> String {
    let mut body = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (before, tag) = (&rest[..start], &rest[start..start + length + 2]);
        let name = tag[2..tag.len() - 2].trim_matches(['-', '+', ' ']);
        body.push_str(before);
        match name {
            "generation" => body.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => body.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => body.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    body.push_str(rest);
    body
}

/// What Python's `json.dumps(value, ensure_ascii=False, indent=indent)` writes: spaces after colons and commas, nothing
/// escaped for HTML.
fn to_json(value: minijinja::Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        if options.has(ignored) && ignored != "ensure_ascii" {
            let message = format!("`tojson` does not take `{ignored}` here");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    let value = serde_json::to_value(&value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("not writable as JSON: {error}")))?;
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text);
    Ok(text)
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, text: &mut String) {
    let line = |text: &mut String, depth: usize, first: bool| match indent {
        Some(width) => {
            text.push_str(if first { "\n" } else { ",\n" });
            text.extend(std::iter::repeat_n(' ', width * depth));
        }
        None if first => {}
        None => text.push_str(", "),
    };
    let close = |text: &mut String, bracket: char| {
        if let Some(width) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', width * depth));
        }
        text.push(bracket);
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                line(text, depth + 1, index == 0);
                write_json(item, indent, depth + 1, text);
            }
            close(text, ']');
        }
        Value::Object(entries) if !entries.is_empty() => {
            text.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                line(text, depth + 1, index == 0);
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push_str(": ");
                write_json(item, indent, depth + 1, text);
            }
            close(text, '}');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn text_error(error: Error) -> ModelError {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    ModelError::Text(format!("the chat template fails{line}: {detail}"))
}
