//! What a completion is worth.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a written answer is compared with the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// Equal after white space at the ends, case and a final full stop are dropped.
    Exact,
    /// The last number of the text is the answer's, in whatever notation: separators of thousands, currency signs, exponents and
    /// fractions are read, `10-12` and `1,2,3` are several numbers.
    Numeric,
    /// As lm-eval's `gsm8k` with its `strict-match`: the text behind `#### ` is the answer's.
    #[serde(rename = "gsm8k_strict")]
    Gsm8kStrict,
    /// As lm-eval's `gsm8k` with its `flexible-extract`: the last thing that looks like a number is the answer's, as text.
    #[serde(rename = "gsm8k_flexible")]
    Gsm8kFlexible,
}

/// A reward: a number for each completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reward {
    /// 1 for a right answer, 0 for any other, as a task judges written answers.
    Answer {
        name: String,
        /// The field of a prompt's row that holds the right answer, or a list of them of which any will do.
        answer: String,
        /// How they are compared.
        #[serde(rename = "match")]
        matching: Match,
        /// Texts that end a completion.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stop: Vec<String>,
    },
    /// What a function says.
    Function {
        name: String,
        /// Where the function stands: Rhai.
        source: String,
        function: String,
    },
}

impl Reward {
    /// Its name in tables and curves.
    pub fn name(&self) -> &str {
        match self {
            Self::Answer { name, .. } | Self::Function { name, .. } => name,
        }
    }
}
