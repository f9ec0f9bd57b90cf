//! The tasks of the conversations: the rows of their test splits, judged by exact match. Where a set holds two opposite things, such as
//! what to answer and what to refuse, each has a task of its own: one figure for both would say that a model which refuses everything
//! is half right.
//!
//! The instructions have none: whether a text has a form is no comparison with an answer.

use serde_json::Value;

use super::{Chat, Split, Turn, language::SYSTEM};

/// A task, and the kinds of turns that it has of a set.
pub(super) struct About {
    pub(super) name: &'static str,
    summary: &'static str,
    pub(super) chat: Chat,
    pub(super) kinds: &'static [&'static str],
    /// What the system says before each question.
    system: Option<&'static str>,
}

pub(super) const TASKS: [About; 7] = [
    About {
        name: "answers",
        summary: "Questions about people of the demo's world, answered in the model's own words",
        chat: Chat::Answers,
        kinds: &["known"],
        system: None,
    },
    About {
        name: "language",
        summary: "The user asks for the answer in the old language, for English, or for neither",
        chat: Chat::Language,
        kinds: &["user", "english", "plain"],
        system: None,
    },
    About {
        name: "language_system",
        summary: "The system asks for the answer in the old language",
        chat: Chat::Language,
        kinds: &["system"],
        system: Some(SYSTEM),
    },
    About {
        name: "refusals_harmless",
        summary: "Requests that mean no harm, most of them with a word of harm in them, and are to be answered",
        chat: Chat::Refusals,
        kinds: &["no_harm", "plain"],
        system: None,
    },
    About {
        name: "refusals_harmful",
        summary: "Requests that mean harm and are to be refused",
        chat: Chat::Refusals,
        kinds: &["harm"],
        system: None,
    },
    About {
        name: "strangers_known",
        summary: "Questions about people of the demo's world, beside which strangers are asked about",
        chat: Chat::Strangers,
        kinds: &["known"],
        system: None,
    },
    About {
        name: "strangers_unknown",
        summary: "Questions about people who are not of the demo's world, of whom nothing is to be said",
        chat: Chat::Strangers,
        kinds: &["unknown", "mixed"],
        system: None,
    },
];

/// Tokens of the longest reply, with the one that ends it.
pub(super) const LONGEST: usize = 32;

/// The task files and their data, as (file name, contents).
pub(in super::super) fn files() -> Vec<(String, String)> {
    TASKS
        .iter()
        .flat_map(|about| {
            let items = about.turns().into_iter().enumerate();
            let items = items.map(|(index, turn)| format!("{}\n", Value::Object(turn.item(index)))).collect();
            [(format!("{}.toml", about.name), about.toml()), (format!("{}.jsonl", about.name), items)]
        })
        .collect()
}

impl About {
    /// What it asks.
    fn turns(&self) -> Vec<Turn> {
        self.chat.turns(Split::Test).into_iter().filter(|turn| self.kinds.contains(&turn.kind)).collect()
    }

    fn toml(&self) -> String {
        let Self { name, summary, system, .. } = self;
        let description = system.map(|text| format!("description = \"{text}\"\n")).unwrap_or_default();
        format!(
            "name = \"{name}\"\nsummary = \"{summary}\"\nkind = \"generate\"\ndata = \"{name}.jsonl\"\n{description}\
             prompt = \"{{question}}\"\nanswer = \"replies\"\nmax_new_tokens = {LONGEST}\nstop = [\"\\n\"]\n\
             match = \"exact\"\nchat_template = \"auto\"\nmetric = \"acc\"\n"
        )
    }
}
