//! Multiple choice by log-likelihood, with lm-eval's rules.

use std::collections::BTreeMap;

use serde_json::{Map, json};

use super::{
    Conduct, Engine, Item, Measured, Method, Sequence,
    style::Style,
    task::{ChoiceItem, Items, Task},
};
use crate::error::{Error, Result};

/// Scores each choice as a continuation of its prompt. `acc` takes the largest sum of log-probabilities, `acc_norm` the
/// largest per character of the choice, `acc_bytes` per UTF-8 byte; of equals the first.
///
/// # Errors
/// The task is of another kind; a prompt with its choice is longer than the model's context.
pub fn choice(
    engine: &dyn Engine,
    task: &Task,
    limit: Option<usize>,
    batch: usize,
    conduct: &mut Conduct<'_>,
) -> Result<Measured> {
    let Items::Choice(items) = &task.items else { return Err(Error::internal("not a choice task")) };
    let asked = &items[..limit.unwrap_or(usize::MAX).min(items.len())];
    let style = Style::new(engine, task)?;
    let requests = requests(asked, &style, engine)?;
    let sequences: Vec<_> = requests.iter().map(|r| Sequence { ids: &r.ids, scored: r.context }).collect();
    let scores: Vec<(f64, bool)> = conduct
        .score(engine, &sequences, batch)?
        .into_iter()
        .map(|tokens| {
            tokens
                .iter()
                .fold((0.0, true), |(sum, greedy), token| (sum + token.log_probability, greedy && token.likeliest))
        })
        .collect();
    let mut rest = scores.as_slice();
    let items = asked
        .iter()
        .map(|item| {
            let (own, others) = rest.split_at(item.choices.len());
            rest = others;
            judge(item, own)
        })
        .collect();
    let shots = task.describe_shots(asked.iter().map(|item| &item.prompt));
    Ok(finish(items, task, &style, &shots))
}

/// One prompt with one choice.
struct Request {
    ids: Vec<u32>,
    /// Tokens of the prompt.
    context: usize,
}

fn requests(items: &[ChoiceItem], style: &Style, engine: &dyn Engine) -> Result<Vec<Request>> {
    let most = engine.max_positions();
    let mut found = Vec::new();
    for item in items {
        let prompt = style.render(&item.prompt, engine)?;
        for index in 0..item.choices.len() {
            let continuation = if style.chat { item.choices[index].clone() } else { item.continuation(index) };
            let (ids, context) = style
                .continued(&prompt, &continuation, engine.tokenizer())
                .map_err(|e| e.context(format!("item `{}`", item.id)))?;
            let request = Request { ids, context };
            if request.ids.len() > most {
                return Err(Error::refused(format!(
                    "item `{}` takes {} tokens, and the model's context holds {most}",
                    item.id,
                    request.ids.len()
                )));
            }
            found.push(request);
        }
    }
    Ok(found)
}

fn judge(item: &ChoiceItem, scores: &[(f64, bool)]) -> Item {
    let best = |score: &dyn Fn(usize) -> f64| {
        (1..scores.len()).fold(0, |best, i| if score(i) > score(best) { i } else { best })
    };
    let raw = best(&|i| scores[i].0);
    let normed = best(&|i| scores[i].0 / item.choices[i].chars().count().max(1) as f64);
    let bytes = best(&|i| scores[i].0 / item.choices[i].len().max(1) as f64);
    let right = |choice: usize| f64::from(choice == item.answer);
    let sums = BTreeMap::from(
        [("acc", right(raw)), ("acc_norm", right(normed)), ("acc_bytes", right(bytes))].map(|(k, v)| (k.to_owned(), v)),
    );
    let detail = json!({
        "chosen": raw,
        "answer": item.answer,
        "log_likelihoods": scores.iter().map(|s| s.0).collect::<Vec<_>>(),
        "greedy": scores[item.answer].1,
    });
    Item { id: item.id.clone(), weight: 1.0, sums, detail, unparsed: false }
}

fn finish(items: Vec<Item>, task: &Task, style: &Style, shots: &str) -> Measured {
    let metrics = Method::Choice.metric_infos_with(task.metric());
    let protocol = format!("{} questions, choices by log-likelihood, {}, {shots}", items.len(), style.describe());
    Measured {
        items,
        metrics,
        protocol,
        facts: json!({ "summary": task.file.summary, "questions_digest": task.items.digest() }),
        extra: Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::task::{Prompt, Shots};

    #[test]
    fn the_first_of_equals_wins_and_lengths_are_in_characters() {
        let prompt = Prompt {
            shots: std::sync::Arc::new(Shots {
                description: None,
                examples: vec![],
                answer_separator: " ".into(),
                separator: "\n\n".into(),
            }),
            question: "q".into(),
            left_out: false,
        };
        let item = ChoiceItem {
            id: "x".into(),
            prompt,
            choices: vec!["ab".into(), "éé".into(), "abcdefgh".into()],
            answer: 2,
        };
        let judged = judge(&item, &[(-2.0, false), (-2.0, false), (-4.0, true)]);
        // Raw: a tie of the first two, the first counts. Per character: -1, -1, -.5. Per byte: -1, -.5, -.5.
        assert_eq!((judged.sums["acc"], judged.sums["acc_norm"], judged.sums["acc_bytes"]), (0.0, 1.0, 0.0));
        assert_eq!(judged.detail["chosen"], 0);
        assert_eq!(judged.detail["greedy"], true);
    }
}
