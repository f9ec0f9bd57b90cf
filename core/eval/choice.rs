//! Multiple choice by log-likelihood, with lm-eval's rules.

use std::collections::BTreeMap;

use serde_json::{Map, json};

use super::{
    CHUNK, Item, Loaded, Measured, MetricInfo,
    style::Style,
    task::{ChoiceItem, Items, Task},
    walk::{Batch, Progress, groups},
};
use crate::{
    error::{Error, Result},
    exec::NodeReporter,
};

/// Scores each choice as a continuation of its prompt. `acc` takes the largest sum of log-probabilities, `acc_norm` the
/// largest per character of the choice, `acc_bytes` per UTF-8 byte; of equals the first.
///
/// # Errors
/// The task is of another kind; a prompt with its choice is longer than the model's context.
pub fn choice(
    model: &Loaded,
    task: &Task,
    limit: Option<usize>,
    batch: usize,
    reporter: &NodeReporter,
) -> Result<Measured> {
    let Items::Choice(items) = &task.items else { return Err(Error::internal("not a choice task")) };
    let asked = &items[..limit.unwrap_or(usize::MAX).min(items.len())];
    let style = Style::new(model, task)?;
    let requests = requests(asked, &style, model)?;
    let mut scores: Vec<(f64, bool)> = Vec::with_capacity(requests.len());
    let lens: Vec<usize> = requests.iter().map(|request| request.ids.len() - 1).collect();
    let mut progress = Progress::new(reporter, requests.len().div_ceil(batch), &[model]);
    for group in groups(&lens, batch, model.config().hidden_size) {
        let group = requests[group].chunks(batch);
        let batches: Vec<_> = group.map(|some| Batch::of(some.iter().map(|r| (&r.ids[..], r.context)))).collect();
        let hidden = model.walk(&batches, &mut progress)?;
        let head = model.head()?;
        for (batch, hidden) in batches.iter().zip(hidden) {
            let found = head.score(&hidden, &batch.targets, CHUNK)?;
            let mut sums = vec![(0.0, true); batch.sequences.len()];
            for (((sequence, _), target), score) in batch.positions.iter().zip(&batch.targets).zip(found) {
                sums[*sequence].0 += score.log_probability;
                sums[*sequence].1 &= score.top == *target;
            }
            scores.extend(sums);
            progress.step();
        }
    }
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

fn requests(items: &[ChoiceItem], style: &Style, model: &Loaded) -> Result<Vec<Request>> {
    let most = model.config().max_positions;
    let mut found = Vec::new();
    for item in items {
        let prompt = style.render(&item.prompt, model)?;
        for index in 0..item.choices.len() {
            let continuation = if style.chat { item.choices[index].clone() } else { item.continuation(index) };
            let (ids, context) = style
                .continued(&prompt, &continuation, &model.tokenizer)
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
    let mut metrics = vec![MetricInfo::rate("acc"), MetricInfo::rate("acc_norm"), MetricInfo::rate("acc_bytes")];
    if task.metric() == super::task::Metric::AccNorm {
        metrics.swap(0, 1);
    }
    let protocol = format!("{} questions, choices by log-likelihood, {}, {shots}", items.len(), style.describe());
    Measured { items, metrics, protocol, facts: json!({ "summary": task.file.summary }), extra: Map::new() }
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
