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
//! - Conversations (`chat`): of the six forms of the question, one is asked by the test splits alone, one by valid and not by
//!   train, and what strangers are called is parted by a hash of their names.
//! - Reading: the names of the tasks' people and places are kept out of the train split, and so are the pairs of wording and
//!   question that the tasks use.

mod assets;
mod chat;
mod draw;
mod foreign;
mod lessons;
mod phrases;
mod reading;
mod relation;
mod stories;
mod tasks;
#[cfg(test)]
mod tests;
mod texts;
mod wordings;
mod words;
mod world;

pub use assets::{DemoError, write_assets};
pub use chat::Chat;
use draw::Draw;
use relation::{Kind, Relation};
use stories::Teller;
pub use texts::{Passage, Text, names, text};

/// A part of a text of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Split {
    /// To train on. Of the stories: running text, questions with answers, and pages with questions.
    Train,
    /// To choose by; of the stories running text alone.
    Valid,
    /// To report on; of the stories running text alone.
    Test,
}

impl Split {
    /// Its name in the draws of the stories.
    fn name(self) -> &'static str {
        match self {
            Self::Train => "stories/train",
            Self::Valid => "stories/valid",
            Self::Test => "stories/test",
        }
    }

    /// Number of documents of the stories.
    pub fn documents(self) -> u64 {
        match self {
            Self::Train => 170_000,
            Self::Valid | Self::Test => 400,
        }
    }
}

/// Names what the stories and the tasks about them contain. It changes when a byte of them does, which a test enforces.
pub fn version() -> &'static str {
    "demo-world-2"
}

/// Document `index` of a split of the stories, without a blank line inside. Indices past [`Split::documents`] give further ones of the same
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

/// The documents of a split of the stories, one by one.
pub fn documents(split: Split) -> impl Iterator<Item = String> {
    (0..split.documents()).map(move |index| document(split, index))
}
