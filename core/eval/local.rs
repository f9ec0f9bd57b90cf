//! The decoder of this program as what answers an evaluation.

use std::ops::ControlFlow;

use serde_json::Value;
use workbench_model::{
    generate::{GenerationConfig, Sampling, generate},
    tokenizer::{ChatTemplate, Tokenizer},
};

use super::{
    Answer, CHUNK, Engine, Limits, Loaded, Sequence, TokenScore,
    walk::{Batch, Passes, groups},
};
use crate::{error::Result, progress::Progress};

impl Engine for Loaded {
    fn facts(&self) -> Value {
        self.facts.clone()
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    fn max_positions(&self) -> usize {
        self.config().max_positions
    }

    fn score(
        &self,
        sequences: &[Sequence<'_>],
        batch: usize,
        progress: &dyn Progress,
        found: &mut dyn FnMut(Vec<Vec<TokenScore>>) -> Result<()>,
    ) -> Result<()> {
        // The last token of a sequence is not given to the model: nothing is predicted from it.
        let lens: Vec<usize> = sequences.iter().map(|sequence| sequence.ids.len() - 1).collect();
        let mut passes = Passes::new(progress, sequences.len().div_ceil(batch), &[self]);
        for group in groups(&lens, batch, self.config().hidden_size) {
            let mut scores: Vec<Vec<TokenScore>> = Vec::with_capacity(group.len());
            let batches: Vec<Batch<'_>> = sequences[group].chunks(batch).map(Batch::of).collect();
            let hidden = self.walk(&batches, &mut passes)?;
            let head = self.head()?;
            for (batch, hidden) in batches.iter().zip(hidden) {
                let first = scores.len();
                scores.resize_with(first + batch.sequences.len(), Vec::new);
                let all = head.score(&hidden, &batch.targets, CHUNK)?;
                for (((sequence, _), target), score) in batch.positions.iter().zip(&batch.targets).zip(all) {
                    let likeliest = score.top == *target;
                    scores[first + sequence].push(TokenScore { log_probability: score.log_probability, likeliest });
                }
                passes.step();
            }
            drop(head);
            found(scores)?;
        }
        Ok(())
    }

    fn write(
        &self,
        prompts: &[Vec<u32>],
        limits: Limits<'_>,
        batch: usize,
        progress: &dyn Progress,
        found: &mut dyn FnMut(Vec<Answer>) -> Result<()>,
    ) -> Result<()> {
        if prompts.is_empty() {
            return Ok(());
        }
        let config = GenerationConfig {
            max_new_tokens: limits.max_new_tokens,
            sampling: Sampling::GREEDY,
            seed: 0,
            first_sequence: 0,
            stop_ids: self.tokenizer.stop_ids(),
        };
        let decoder = self.decoder()?;
        let mut done = 0;
        for prompts_of_batch in prompts.chunks(batch) {
            let mut written: Vec<Vec<u32>> = vec![Vec::new(); prompts_of_batch.len()];
            let mut on_token = |sequence: usize, token: u32| {
                written[sequence].push(token);
                let text = self.tokenizer.decode(&written[sequence], true).unwrap_or_default();
                if stop_at(&text, limits.stop).is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let all = generate(&decoder, prompts_of_batch, &config, &mut on_token)?;
            let answer = |tokens: &[u32]| -> Result<Answer> {
                let mut text = self.tokenizer.decode(tokens, true)?;
                text.truncate(stop_at(&text, limits.stop).unwrap_or(text.len()));
                Ok(Answer { text, tokens: tokens.len() })
            };
            let answers = all.iter().map(|answer_of| answer(&answer_of.tokens)).collect::<Result<Vec<_>>>()?;
            done += answers.len() as u64;
            progress.progress(done, prompts.len() as u64, "answers");
            found(answers)?;
        }
        Ok(())
    }
}

/// Where the first of the stop texts begins.
pub(super) fn stop_at(text: &str, stops: &[String]) -> Option<usize> {
    stops.iter().filter_map(|stop| text.find(stop.as_str())).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_stop_cuts() {
        assert_eq!(stop_at("a\nb;c", &[";".into(), "\n".into()]), Some(1));
        assert_eq!(stop_at("abc", &[";".into()]), None);
    }
}
