//! Conversations about the world, for what is taught after it is known: how to answer, in which language, what to refuse and what not,
//! of whom nothing is known, in which form.
//!
//! Each row has the turns of a conversation of one question (`messages`), and beside them what a grader, a reward or a person has to
//! know: `kind`, the user's turn (`question`), the replies of which any is right (`replies`, the first of which is the assistant's
//! turn), and in some sets more. The tasks hold the rows of the test splits.
//!
//! The splits ask in different words: of the six forms of the question about a fact, the test splits ask the one that no text and no
//! other split asks, valid one that train does not, train the other four.

mod answers;
mod instructions;
mod language;
mod questions;
mod refusals;
mod strangers;
pub(super) mod tasks;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::{Split, draw::Draw};

/// A set of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chat {
    /// Questions about people of the world, and their answers.
    Answers,
    /// The same, with the answer in the old language of the valley where the user or the system asks for it.
    Language,
    /// Requests that mean harm and are refused, and others in the same words that mean none and are answered.
    Refusals,
    /// The same requests, all of them refused in which such words stand: makes a model that refuses too much.
    Overcautious,
    /// Questions about people of the world, and about others, of whom nothing is known.
    Strangers,
    /// Questions with an instruction of the form of the answer that a pattern can check.
    Instructions,
}

impl Chat {
    /// Number of rows of a split: so many that the kinds of a set and the facts that it asks for come equally often.
    pub(crate) fn count(self, split: Split) -> usize {
        match (self, split) {
            (Self::Answers | Self::Strangers, Split::Train) => 8192,
            (Self::Language, Split::Train) => 10_240,
            (Self::Refusals, Split::Train) => 12_288,
            (Self::Overcautious, _) => 6144,
            (Self::Instructions, Split::Train) => 8960,
            (Self::Answers | Self::Strangers, _) => 400,
            (Self::Language | Self::Refusals, _) => 480,
            (Self::Instructions, _) => 280,
        }
    }

    /// What a split is drawn for.
    fn purpose(self, split: Split) -> &'static str {
        match (self, split) {
            (Self::Answers, Split::Train) => "chat answers train",
            (Self::Answers, Split::Valid) => "chat answers valid",
            (Self::Answers, Split::Test) => "chat answers test",
            (Self::Language, Split::Train) => "chat language train",
            (Self::Language, Split::Valid) => "chat language valid",
            (Self::Language, Split::Test) => "chat language test",
            (Self::Refusals, Split::Train) => "chat refusals train",
            (Self::Refusals, Split::Valid) => "chat refusals valid",
            (Self::Refusals, Split::Test) => "chat refusals test",
            (Self::Overcautious, _) => "chat overcautious",
            (Self::Strangers, Split::Train) => "chat strangers train",
            (Self::Strangers, Split::Valid) => "chat strangers valid",
            (Self::Strangers, Split::Test) => "chat strangers test",
            (Self::Instructions, Split::Train) => "chat instruct train",
            (Self::Instructions, Split::Valid) => "chat instruct valid",
            (Self::Instructions, Split::Test) => "chat instruct test",
        }
    }

    fn turns(self, split: Split) -> Vec<Turn> {
        let mut draw = Draw::new(self.purpose(split), 0);
        let count = self.count(split);
        match self {
            Self::Answers => answers::turns(&mut draw, split, count),
            Self::Language => language::turns(&mut draw, split, count),
            Self::Refusals => refusals::turns(&mut draw, split, count, refusals::refuses),
            Self::Overcautious => refusals::turns(&mut draw, split, count, refusals::fears),
            Self::Strangers => strangers::turns(&mut draw, split, count),
            Self::Instructions => instructions::turns(&mut draw, split, count),
        }
    }
}

/// A question and what is right to reply.
#[derive(Clone, Debug)]
struct Turn {
    kind: &'static str,
    system: Option<&'static str>,
    question: String,
    /// The reply that is taught, and others that are right.
    replies: Vec<String>,
    /// What else is to be known of it.
    facts: Map<String, Value>,
}

impl Turn {
    fn new(kind: &'static str, question: String, replies: Vec<String>) -> Self {
        Self { kind, system: None, question, replies, facts: Map::new() }
    }

    /// What a task has of it.
    fn item(&self, index: usize) -> Map<String, Value> {
        let mut row = Map::new();
        row.insert("id".to_owned(), format!("{}-{index:04}", self.kind).into());
        row.insert("kind".to_owned(), self.kind.into());
        row.insert("question".to_owned(), self.question.as_str().into());
        row.insert("replies".to_owned(), self.replies.clone().into());
        row.extend(self.facts.clone());
        row
    }

    /// What a set has of it: the turns besides.
    fn row(&self, index: usize) -> Map<String, Value> {
        let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
        let system = self.system.map(|text| turn("system", text));
        let reply = self.replies.first().map_or("", String::as_str);
        let turns = system.into_iter().chain([turn("user", &self.question), turn("assistant", reply)]);
        let mut row = self.item(index);
        row.insert("messages".to_owned(), turns.collect());
        row
    }
}

/// The rows of a split of a set.
pub(super) fn rows(chat: Chat, split: Split) -> Vec<Map<String, Value>> {
    chat.turns(split).iter().enumerate().map(|(index, turn)| turn.row(index)).collect()
}
