//! What a trainer that writes for prompts and its host say to each other: the plugin knows tokens and numbers, the host texts and
//! rewards.
//!
//! The stream `prompts` holds a prompt a batch, `input_ids` `[tokens]` U32; what a completion is worth is asked by
//! [`Host::call`](crate::sdk::Host::call), whose requests and answers are these types as JSON.

use serde::{Deserialize, Serialize};

/// The stream of prompts.
pub const PROMPTS: &str = "prompts";

/// The method that rewards completions: of [`Completions`] a [`Judgement`] each.
pub const REWARDS: &str = "rewards";

/// Completions of one prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completions {
    /// The number of the prompt in its stream, from 0.
    pub prompt: usize,
    /// The tokens of each, without the one that ended it.
    pub completions: Vec<Vec<u32>>,
}

/// What a completion is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// A finite number for each reward, in the order of [`Policy::rewards`].
    pub rewards: Vec<f64>,
    /// How many of its tokens count: what stands behind a text that ends a completion is as good as never written.
    pub tokens: usize,
    /// Whether a text ended it, and no token.
    #[serde(default)]
    pub ended: bool,
}

/// The part of a job that is about a policy: who rewards, and what ends a completion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Names of the rewards.
    #[serde(default)]
    pub rewards: Vec<String>,
    /// Tokens that end a completion.
    #[serde(default)]
    pub stop_ids: Vec<u32>,
}
