//! Tasks whose answers the model writes.

use std::collections::BTreeMap;

use serde_json::{Map, json};

use super::{
    Conduct, Engine, Item, Limits, Measured, Method,
    numbers::{gsm8k, gsm8k_plain, last_number},
    style::Style,
    task::{GenerateItem, Items, Match, Task},
};
use crate::error::{Error, Result};

/// Lets the model answer greedily, up to the first stop text, and compares what it wrote with the right answers.
///
/// # Errors
/// The task is of another kind; a prompt with its answer would be longer than the model's context.
pub fn generate(
    engine: &dyn Engine,
    task: &Task,
    limit: Option<usize>,
    batch: usize,
    conduct: &mut Conduct<'_>,
) -> Result<Measured> {
    let Items::Generate(items) = &task.items else { return Err(Error::internal("not a task of written answers")) };
    let items = &items[..limit.unwrap_or(usize::MAX).min(items.len())];
    let style = Style::new(engine, task)?;
    let longest = task.file.max_new_tokens.unwrap_or(1);
    let prompts: Vec<Vec<u32>> = items
        .iter()
        .map(|item| {
            let mut ids = style.encode(&style.render(&item.prompt, engine)?, engine.tokenizer())?;
            if ids.is_empty() {
                ids.push(style.start().map_err(|e| e.context(format!("item `{}`", item.id)))?);
            }
            let most = engine.max_positions();
            if ids.len() + longest > most {
                return Err(Error::refused(format!(
                    "item `{}`: a prompt of {} tokens and an answer of {longest} do not fit into {most} positions",
                    item.id,
                    ids.len()
                )));
            }
            Ok(ids)
        })
        .collect::<Result<_>>()?;
    let limits = Limits { max_new_tokens: longest, stop: &task.file.stop };
    let answers = conduct.write(engine, &prompts, limits, batch)?;
    let matching = task.file.matching.unwrap_or(Match::Exact);
    let done: Vec<Item> =
        items.iter().zip(answers).map(|(item, answer)| judge(item, &answer.text, matching, answer.tokens)).collect();
    let how = match matching {
        Match::Exact => "exact match",
        Match::Numeric => "match of the last number",
        Match::Gsm8kStrict => "match of the number behind `####`, as lm-eval's gsm8k strict-match",
        Match::Gsm8kFlexible => "match of the last number, as lm-eval's gsm8k flexible-extract",
    };
    let shots = task.describe_shots(items.iter().map(|item| &item.prompt));
    let protocol = format!(
        "{} questions, greedy answers of at most {longest} tokens, {how}, {}, {shots}",
        done.len(),
        style.describe()
    );
    Ok(Measured {
        items: done,
        metrics: Method::Generate.metric_infos(),
        protocol,
        facts: json!({ "summary": task.file.summary, "questions_digest": task.items.digest() }),
        extra: Map::new(),
    })
}

/// Whether a written answer is one of the right ones, and whether no answer is found in it.
pub(super) fn compare(answers: &[String], output: &str, matching: Match) -> (bool, bool) {
    match matching {
        Match::Exact => (answers.iter().any(|a| plain(a) == plain(output)), plain(output).is_empty()),
        Match::Numeric => {
            let found = last_number(output);
            let wanted = |answer: &String| last_number(answer).is_some_and(|wanted| found.as_ref() == Some(&wanted));
            (answers.iter().any(wanted), found.is_none())
        }
        Match::Gsm8kStrict | Match::Gsm8kFlexible => {
            let found = gsm8k(output, matching == Match::Gsm8kStrict);
            let same = |found: &String| answers.iter().any(|a| gsm8k_plain(a) == gsm8k_plain(found));
            (found.as_ref().is_some_and(same), found.is_none())
        }
    }
}

pub(crate) fn judge(item: &GenerateItem, output: &str, matching: Match, tokens: usize) -> Item {
    let (right, unparsed) = compare(&item.answers, output, matching);
    let detail = json!({ "output": output, "answers": item.answers, "tokens": tokens });
    Item {
        id: item.id.clone(),
        weight: 1.0,
        sums: BTreeMap::from([("acc".to_owned(), f64::from(right))]),
        detail,
        unparsed,
    }
}

/// White space at the ends, case and a final full stop do not count.
fn plain(text: &str) -> String {
    let text = text.trim();
    text.strip_suffix('.').unwrap_or(text).trim_end().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::task::{Prompt, Shots};

    /// An answer, and what lm-eval 0.4.13 says of it: its filters `strict-match` and `flexible-extract` of gsm8k, each with its
    /// `exact_match`, against "6 / 2 = <<6/2=3>>3\n#### 1,234".
    #[test]
    fn gsm8k_is_judged_as_lm_eval_judges_it() {
        let cases = [
            ("#### 1234", true, true, false),
            ("so\n#### 1,234.", true, true, false),
            ("#### 1234.0", false, false, false),
            ("#### -1234", false, false, false),
            ("The answer is $1,234.", false, true, true),
            ("1234", false, true, true),
            ("1,234 or 5", false, false, true),
            ("#### 1234 then 7", true, false, false),
            ("x-1234", false, false, true),
            ("1 234", false, false, true),
            ("none", false, false, true),
            ("#### none", false, false, true),
            ("1234 ...", false, false, true),
            ("####1234", false, true, true),
            ("1.234", false, false, true),
        ];
        let item = GenerateItem {
            id: "x".into(),
            prompt: Prompt {
                shots: std::sync::Arc::new(Shots {
                    description: None,
                    examples: vec![],
                    answer_separator: " ".into(),
                    separator: "\n\n".into(),
                }),
                question: "q".into(),
                left_out: false,
            },
            answers: vec!["6 / 2 = <<6/2=3>>3\n#### 1,234".into()],
        };
        for (text, strict, flexible, unparsed) in cases {
            let by = |matching| judge(&item, text, matching, 1);
            assert_eq!(by(Match::Gsm8kStrict).sums["acc"] == 1.0, strict, "strict: {text}");
            assert_eq!(by(Match::Gsm8kFlexible).sums["acc"] == 1.0, flexible, "flexible: {text}");
            assert_eq!(by(Match::Gsm8kStrict).unparsed, unparsed, "{text}");
        }
    }

    #[test]
    fn ends_case_and_full_stop_do_not_count() {
        assert_eq!(plain("  The Answer. \n"), plain("the answer"));
        assert_ne!(plain("the answers"), plain("the answer"));
    }
}
