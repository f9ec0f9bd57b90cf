//! A training on what the model itself writes: prompts for the trainer, and what it writes judged.

use serde_json::{Value, json};
use workbench_api::{
    error::Error as ApiError,
    rollouts::{self, Completions, Judgement},
};
use workbench_model::Tokenizer;

use super::super::host::{Method, SequenceStream};
use crate::{
    data::{EncodedPrompts, Sequences},
    error::{Error, Result},
    eval::rewards::Rewards,
    graph::params::Reward,
};

/// Prompts, and who rewards what is written behind them.
pub(super) struct Policy {
    prompts: EncodedPrompts,
    rewards: Rewards,
    tokenizer: Tokenizer,
}

impl Policy {
    /// Asks every reward about each prompt once, with nothing written behind it: what cannot be judged is known before a step is taken.
    ///
    /// # Errors
    /// A reward cannot be read, or fails.
    pub(super) fn new(prompts: EncodedPrompts, given: &[Reward], tokenizer: Tokenizer) -> Result<Self> {
        let rewards = Rewards::new(given)?;
        for (index, prompt) in prompts.all.iter().enumerate() {
            rewards.of(&prompt.text, "", &prompt.row).map_err(|error| error.context(format!("prompt {index}")))?;
        }
        Ok(Self { prompts, rewards, tokenizer })
    }

    /// The prompts for the trainer. Nothing of them is learned.
    pub(super) fn stream(&self) -> SequenceStream {
        let ids: Vec<Vec<u32>> = self.prompts.all.iter().map(|prompt| prompt.ids.clone()).collect();
        let learn = ids.iter().map(|ids| vec![false; ids.len()]).collect();
        SequenceStream::new(Sequences { ids, learn, facts: Value::Null })
    }

    /// What the trainer is told.
    pub(super) fn job(&self) -> rollouts::Policy {
        rollouts::Policy { rewards: self.rewards.names(), stop_ids: self.tokenizer.stop_ids() }
    }

    fn judge(&self, request: &Completions) -> Result<Vec<Judgement>> {
        let Some(prompt) = self.prompts.all.get(request.prompt) else {
            let count = self.prompts.all.len();
            return Err(Error::refused(format!(
                "there are {count} prompts, and none with the number {}",
                request.prompt
            )));
        };
        let judge = |ids: &Vec<u32>| -> Result<Judgement> {
            let judged = self.rewards.judge(&prompt.text, ids, &prompt.row, &self.tokenizer)?;
            Ok(Judgement { rewards: judged.rewards, tokens: judged.tokens, ended: judged.ended })
        };
        let judged = request.completions.iter().map(judge).collect::<Result<_>>();
        judged.map_err(|error| error.context(format!("prompt {}", request.prompt)))
    }
}

impl Method for Policy {
    fn answer(&self, request: &Value) -> std::result::Result<Value, ApiError> {
        let request: Completions = serde_json::from_value(request.clone())?;
        let judged = self.judge(&request).map_err(|error| {
            let hint = error.hints.first().cloned();
            let made = ApiError::input(error.to_string());
            match hint {
                Some(hint) => made.with_hint(hint),
                None => made,
            }
        })?;
        Ok(json!(judged))
    }
}
