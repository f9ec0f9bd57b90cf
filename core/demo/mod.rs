//! The demo's world: a small, closed set of people, towns and things, and everything that is written about it.
//!
//! A model of a few million parameters can know such a world by heart, so that damage done to it by quantization shows in
//! figures: in the loss on running text, in questions about facts that it learned, in questions about a page that it has
//! just read. All of it follows from one number through ChaCha: the facts, the texts that the demo model is trained on, the
//! held-out texts and tasks, and the tokenizer. Document `i` of a split is made from `i` alone, so that any part can be
//! read without what comes before it.
//!
//! What keeps training and test apart:
//! - Running text: the splits draw from different ChaCha sequences. Of the ten wordings of each fact, one is never used by
//!   the train split and used often by the others.
//! - Questions about facts: of the six forms of the question about each fact, one is asked by the tasks alone.
//! - Reading: the names of the tasks' people and places are kept out of the train split, and so are the pairs of wording and
//!   question that the tasks use.

mod assets;
mod draw;
mod lessons;
mod phrases;
mod reading;
mod relation;
mod stories;
mod tasks;
#[cfg(test)]
mod tests;
mod wordings;
mod words;
mod world;

pub use assets::{DemoError, write_assets};
use draw::Draw;
use relation::{Kind, Relation};
use stories::Teller;

/// A part of the demo's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Split {
    /// Running text, questions with answers, and pages with questions: what the demo model is trained on.
    Train,
    /// Running text to choose by.
    Valid,
    /// Running text to report on.
    Test,
}

/// The texts, as a script names them after `demo:`.
const NAMES: [(&str, Split); 3] =
    [("stories/train", Split::Train), ("stories/valid", Split::Valid), ("stories/test", Split::Test)];

impl Split {
    /// Its name after `demo:`.
    pub fn name(self) -> &'static str {
        NAMES[self as usize].0
    }

    /// The split of that name, with or without `demo:` in front.
    ///
    /// # Errors
    /// [`DemoError::UnknownText`] with the names there are.
    pub fn by_name(name: &str) -> Result<Self, DemoError> {
        let bare = name.strip_prefix("demo:").unwrap_or(name);
        NAMES
            .iter()
            .find_map(|&(known, split)| (known == bare).then_some(split))
            .ok_or_else(|| DemoError::UnknownText(name.to_owned()))
    }

    /// Number of documents.
    pub fn documents(self) -> u64 {
        match self {
            Self::Train => 170_000,
            Self::Valid | Self::Test => 400,
        }
    }
}

/// The names of the texts, as they stand in a script after `demo:`.
pub fn names() -> [&'static str; 3] {
    NAMES.map(|(name, _)| name)
}

/// Names what [`text`] and the tasks contain: part of the key of everything made from them. It changes when a byte of them does,
/// which a test enforces.
pub fn version() -> &'static str {
    "demo-world-2"
}

/// Document `index` of a split, without a blank line inside. Indices past [`Split::documents`] give further ones of the same
/// kind.
pub fn document(split: Split, index: u64) -> String {
    let mut draw = Draw::new(split.name(), index);
    if split != Split::Train {
        return Teller::new(split, draw).story();
    }
    match draw.below(100) {
        0..57 => Teller::new(split, draw).story(),
        57..78 => Teller::new(split, draw).lesson(),
        _ => reading::sample(draw),
    }
}

/// The documents of a split, one by one.
pub fn documents(split: Split) -> impl Iterator<Item = String> {
    (0..split.documents()).map(move |index| document(split, index))
}

/// A whole text by name, its documents separated by blank lines.
///
/// # Errors
/// [`DemoError::UnknownText`] for a name that is none of [`names`].
pub fn text(name: &str) -> Result<String, DemoError> {
    use rayon::prelude::*;
    let split = Split::by_name(name)?;
    let documents: Vec<String> = (0..split.documents()).into_par_iter().map(|index| document(split, index)).collect();
    let mut text = documents.join("\n\n");
    text.push('\n');
    Ok(text)
}
