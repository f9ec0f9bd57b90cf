//! What completions are worth: answers are compared as a task of written answers compares them, functions are asked.

mod function;

use serde_json::{Map, Value};
use workbench_model::Tokenizer;

pub use function::Function;

use super::{generate::compare, local::stop_at, task::answers_of};
use crate::{
    error::{Error, Result},
    graph::params::{Match, Reward},
};

/// Who rewards.
pub struct Rewards {
    all: Vec<(String, Judge)>,
    /// Texts that end a completion.
    stops: Vec<String>,
}

/// One of them.
enum Judge {
    Answer { field: String, matching: Match },
    Function(Box<Function>),
}

/// A completion as it is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Up to the first text that ends it.
    pub text: String,
    /// How many of its tokens it takes to write that, and the text that ends it.
    pub tokens: usize,
    /// Whether there is such a text.
    pub ended: bool,
    /// What it is worth, a number for each reward.
    pub rewards: Vec<f64>,
}

impl Rewards {
    /// Reads what a node was given.
    ///
    /// # Errors
    /// A function is none.
    pub fn new(given: &[Reward]) -> Result<Self> {
        let mut stops: Vec<String> = Vec::new();
        let mut all = Vec::new();
        for reward in given {
            let judge = match reward {
                Reward::Answer { answer, matching, stop, .. } => {
                    stops.extend(stop.iter().cloned());
                    Judge::Answer { field: answer.clone(), matching: *matching }
                }
                Reward::Function { source, function, .. } => {
                    Judge::Function(Box::new(Function::compile(source, function).map_err(|e| named(e, reward.name()))?))
                }
            };
            all.push((reward.name().to_owned(), judge));
        }
        Ok(Self { all, stops })
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.all.iter().map(|(name, _)| name.clone()).collect()
    }

    /// What the text of a completion is worth, behind a prompt that was made of a row of data.
    ///
    /// # Errors
    /// The row lacks an answer; a function fails, or returns no number.
    pub fn of(&self, prompt: &str, completion: &str, row: &Map<String, Value>) -> Result<Vec<f64>> {
        let value = |(name, judge): &(String, Judge)| {
            let value = match judge {
                Judge::Answer { field, matching } => answers_of(row, field)
                    .map(|answers| f64::from(compare(&answers, completion, *matching).0))
                    .map_err(|(message, hint)| Error::refused(message).maybe_hint(hint)),
                Judge::Function(function) => function.call(prompt, completion, row),
            };
            value.map_err(|error| named(error, name))
        };
        self.all.iter().map(value).collect()
    }

    /// The same of tokens, which end where a text ends them.
    ///
    /// # Errors
    /// As [`of`](Self::of); a token that the tokenizer does not have.
    pub fn judge(&self, prompt: &str, ids: &[u32], row: &Map<String, Value>, tokenizer: &Tokenizer) -> Result<Judged> {
        let mut text = tokenizer.decode(ids, true)?;
        let (mut tokens, end) = (ids.len(), stop_at(&text, &self.stops));
        if let Some(end) = end {
            text.truncate(end);
            tokens = self.tokens_to_the_end(ids, tokenizer)?;
        }
        Ok(Judged { rewards: self.of(prompt, &text, row)?, text, tokens, ended: end.is_some() })
    }

    /// How many tokens it takes until a text ends what they spell, of tokens that it ends: as many as a sampler draws that looks at the
    /// text behind each of them.
    fn tokens_to_the_end(&self, ids: &[u32], tokenizer: &Tokenizer) -> Result<usize> {
        for tokens in 1..ids.len() {
            if stop_at(&tokenizer.decode(&ids[..tokens], true)?, &self.stops).is_some() {
                return Ok(tokens);
            }
        }
        Ok(ids.len())
    }
}

fn named(error: Error, name: &str) -> Error {
    error.context(format!("the reward `{name}`"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;
    use workbench_model::ModelConfig;

    use super::*;

    fn rewards(given: Value) -> Rewards {
        Rewards::new(&serde_json::from_value::<Vec<Reward>>(given).unwrap()).unwrap()
    }

    fn row(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn answers_are_compared_as_a_task_compares_them() {
        let found = rewards(json!([
            { "kind": "answer", "name": "exact", "answer": "answer", "match": "exact" },
            { "kind": "answer", "name": "number", "answer": "answer", "match": "numeric" },
            { "kind": "function", "name": "short", "function": "short",
              "source": "fn short(prompt, completion, row) { if completion.len < row.most { 1 } else { 0.5 } }" },
        ]));
        assert_eq!(found.names(), ["exact", "number", "short"]);
        let row = row(json!({ "answer": ["It is 12.", "twelve"], "most": 7 }));
        assert_eq!(found.of("p", " Twelve.\n", &row).unwrap(), [1.0, 0.0, 0.5]);
        assert_eq!(found.of("p", "so 12", &row).unwrap(), [0.0, 1.0, 1.0]);
        let other = self::row(json!({ "answers": "x", "most": 7 }));
        let error = found.of("p", "x", &other).unwrap_err();
        assert!(error.to_string().contains("`exact`") && error.to_string().contains("no field `answer`"), "{error}");
        assert!(error.hints[0].contains("did you mean `answers`"), "{:?}", error.hints);
    }

    #[test]
    fn completions_end_where_a_text_ends_them() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo/model");
        let config = serde_json::from_str(&std::fs::read_to_string(demo.join("config.json")).unwrap()).unwrap();
        let config = ModelConfig::from_json(&config, &demo.join("config.json")).unwrap();
        let tokenizer = Tokenizer::from_folder(&demo, &config).unwrap();
        let found =
            rewards(json!([{ "kind": "answer", "name": "a", "answer": "a", "match": "exact", "stop": ["\n"] }]));
        let row = row(json!({ "a": "the fox" }));
        let ids = tokenizer.encode("the fox\nran over a hill\n", false).unwrap();
        let judged = found.judge("", &ids, &row, &tokenizer).unwrap();
        assert_eq!((judged.text.as_str(), judged.rewards), ("the fox", vec![1.0]));
        assert!(tokenizer.decode(&ids[..judged.tokens], true).unwrap().contains('\n'));
        assert!(!tokenizer.decode(&ids[..judged.tokens - 1], true).unwrap().contains('\n'));
        let whole = tokenizer.encode("the fox ran", false).unwrap();
        let judged = found.judge("", &whole, &row, &tokenizer).unwrap();
        assert_eq!((judged.tokens, judged.rewards), (whole.len(), vec![0.0]));
        assert_eq!(found.judge("", &[], &row, &tokenizer).unwrap().tokens, 0);
    }
}
