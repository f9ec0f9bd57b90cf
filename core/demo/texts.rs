//! The texts by their names: running text, and conversations as rows of a table.

use serde_json::{Map, Value};

use super::{
    DemoError, Split,
    chat::{self, Chat},
    document, documents, foreign,
};

/// A text of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Text {
    /// What the demo's model is trained on, or running text about the same world.
    Stories(Split),
    /// The same about a second world, which it never saw.
    Foreign(Split),
    /// Conversations.
    Chat(Chat, Split),
}

/// A document of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Passage {
    /// Running text, without a blank line inside.
    Text(String),
    /// A conversation: its turns under `messages`, and what a grader or a reward has to know of it.
    Row(Map<String, Value>),
}

impl Passage {
    /// As it stands in a file: a text with a blank line behind it, a row as a line of JSON.
    pub fn printed(&self) -> String {
        match self {
            Self::Text(text) => format!("{text}\n\n"),
            Self::Row(row) => format!("{}\n", Value::Object(row.clone())),
        }
    }
}

/// The texts, as a script names them after `demo:`.
const NAMES: [(&str, Text); 22] = [
    ("stories/train", Text::Stories(Split::Train)),
    ("stories/valid", Text::Stories(Split::Valid)),
    ("stories/test", Text::Stories(Split::Test)),
    ("foreign/train", Text::Foreign(Split::Train)),
    ("foreign/valid", Text::Foreign(Split::Valid)),
    ("foreign/test", Text::Foreign(Split::Test)),
    ("chat/answers/train", Text::Chat(Chat::Answers, Split::Train)),
    ("chat/answers/valid", Text::Chat(Chat::Answers, Split::Valid)),
    ("chat/answers/test", Text::Chat(Chat::Answers, Split::Test)),
    ("chat/language/train", Text::Chat(Chat::Language, Split::Train)),
    ("chat/language/valid", Text::Chat(Chat::Language, Split::Valid)),
    ("chat/language/test", Text::Chat(Chat::Language, Split::Test)),
    ("chat/refusals/train", Text::Chat(Chat::Refusals, Split::Train)),
    ("chat/refusals/valid", Text::Chat(Chat::Refusals, Split::Valid)),
    ("chat/refusals/test", Text::Chat(Chat::Refusals, Split::Test)),
    ("chat/overcautious/train", Text::Chat(Chat::Overcautious, Split::Train)),
    ("chat/strangers/train", Text::Chat(Chat::Strangers, Split::Train)),
    ("chat/strangers/valid", Text::Chat(Chat::Strangers, Split::Valid)),
    ("chat/strangers/test", Text::Chat(Chat::Strangers, Split::Test)),
    ("chat/instructions/train", Text::Chat(Chat::Instructions, Split::Train)),
    ("chat/instructions/valid", Text::Chat(Chat::Instructions, Split::Valid)),
    ("chat/instructions/test", Text::Chat(Chat::Instructions, Split::Test)),
];

/// The names of the texts, as they stand in a script after `demo:`.
pub fn names() -> [&'static str; 22] {
    NAMES.map(|(name, _)| name)
}

impl Text {
    /// The text of that name, with or without `demo:` in front.
    ///
    /// # Errors
    /// [`DemoError::UnknownText`] with the names there are.
    pub fn by_name(name: &str) -> Result<Self, DemoError> {
        let bare = name.strip_prefix("demo:").unwrap_or(name);
        NAMES
            .iter()
            .find_map(|&(known, text)| (known == bare).then_some(text))
            .ok_or_else(|| DemoError::UnknownText(name.to_owned()))
    }

    /// Number of documents.
    pub fn count(self) -> u64 {
        match self {
            Self::Stories(split) => split.documents(),
            Self::Foreign(split) => foreign::count(split),
            Self::Chat(chat, split) => chat.count(split) as u64,
        }
    }

    /// Its documents, one by one. Conversations are drawn together, so that each answer comes as often as every other.
    pub fn passages(self) -> Box<dyn Iterator<Item = Passage> + Send> {
        match self {
            Self::Stories(split) => Box::new(documents(split).map(Passage::Text)),
            Self::Foreign(split) => {
                Box::new((0..foreign::count(split)).map(move |index| Passage::Text(foreign::document(split, index))))
            }
            Self::Chat(chat, split) => Box::new(chat::rows(chat, split).into_iter().map(Passage::Row)),
        }
    }

    /// Names what it contains: it changes when a byte of it does, which a test enforces.
    pub fn version(self) -> &'static str {
        match self {
            Self::Stories(_) => super::version(),
            Self::Foreign(_) => "demo-foreign-1",
            Self::Chat(..) => "demo-chat-1",
        }
    }
}

/// A whole text by name, as a file would hold it.
///
/// # Errors
/// [`DemoError::UnknownText`] for a name that is none of [`names`].
pub fn text(name: &str) -> Result<String, DemoError> {
    use rayon::prelude::*;
    let text = match Text::by_name(name)? {
        Text::Stories(split) => {
            let whole = |index| Passage::Text(document(split, index)).printed();
            (0..split.documents()).into_par_iter().map(whole).collect::<Vec<_>>().concat()
        }
        other => other.passages().map(|passage| passage.printed()).collect(),
    };
    Ok(format!("{}\n", text.trim_end()))
}
