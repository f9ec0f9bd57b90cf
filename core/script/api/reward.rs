//! `reward`, and what `train` takes for a trainer of what the model itself writes.

use std::{collections::BTreeSet, path::Path};

use rhai::{Engine, NativeCallContext};
use serde::Deserialize;
use workbench_api::rollouts::PROMPTS;

use super::{Called, Host, placed};
use crate::{
    error::{Error, Result},
    eval::{rewards::Function, task::TaskFile},
    graph::params,
    plugin::Descriptor,
    script::{
        Measured, RewardHandle, Root, TaskHandle,
        calls::{Dataset, Reward, Tokens},
        files::read_text,
    },
};

pub(super) fn register(engine: &mut Engine, host: &Host) {
    engine.register_type_with_name::<RewardHandle>("Reward");
    let root = host.root.clone();
    engine.register_fn(
        "reward",
        move |context: NativeCallContext<'_>, path: &str, function: &str| -> Called<RewardHandle> {
            placed(&context, reward(&root, path, function))
        },
    );
}

/// A function of a file, which is read and tried here: what it reaches is decided by nothing but its text.
fn reward(root: &Root, path: &str, function: &str) -> Result<RewardHandle> {
    let file = root.find(path)?;
    if file.extension() != Some("rhai".as_ref()) {
        return Err(Error::usage(format!("`{path}` is no script"))
            .at(path)
            .hint("a reward is a function of a .rhai file"));
    }
    let source = read(&file).map_err(|error| error.at(path))?;
    Function::compile(&source, function)
        .map_err(|error| super::data::usage(error.context(format!("`{path}`"))).at(function))?;
    let (name, function) = (function.to_owned(), function.to_owned());
    Ok(RewardHandle { reward: params::Reward::Function { name, source, function } })
}

fn read(file: &Path) -> Result<String> {
    read_text(file).map_err(|e| super::data::usage(Error::io("read", file, &e)))
}

/// The reward that a task of written answers is.
pub(in crate::script) fn reward_of(task: &TaskHandle) -> Result<params::Reward> {
    let name = task.name.clone();
    let Measured::Items { file, .. } = &task.measured else { return Err(no_reward(task)) };
    if task.method != "generate" {
        return Err(no_reward(task));
    }
    let unread = |e: serde_json::Error| Error::internal("the meaning of a task is not understood").cause(e.to_string());
    let TaskFile { answer, matching, stop, .. } = TaskFile::deserialize(own_keys(file)).map_err(unread)?;
    let answer = answer.ok_or_else(|| no_reward(task))?;
    Ok(params::Reward::Answer { name, answer, matching: matching.unwrap_or(params::Match::Exact), stop })
}

/// The meaning of a task file in its own keys.
fn own_keys(meaning: &serde_json::Value) -> serde_json::Value {
    let mut meaning = meaning.clone();
    if let Some(keys) = meaning.as_object_mut() {
        keys.shift_remove("few_shot_of_the_tested_file");
    }
    meaning
}

fn no_reward(task: &TaskHandle) -> Error {
    Error::usage(format!("`{}` is a task of kind `{}`, which judges no written answers", task.name, task.method))
        .hint("take a task of kind \"generate\", or reward(\"file.rhai\", \"function\")")
}

/// What a trainer is given to learn from: data, or prompts with rewards.
pub(super) fn source(
    plugin: &Descriptor,
    data: Option<Dataset>,
    prompts: Option<Dataset>,
    rewards: Vec<Reward>,
) -> Result<(Dataset, Vec<params::Reward>)> {
    let name = plugin.name.as_str();
    if !plugin.needs.streams.iter().any(|stream| stream == PROMPTS) {
        for (option, given) in [("prompts", prompts.is_some()), ("rewards", !rewards.is_empty())] {
            if given {
                let message = format!("`{name}` learns from data, and reads no {option}");
                return Err(Error::usage(message).at(option).hint("leave the option out"));
            }
        }
        let data =
            data.ok_or_else(|| Error::usage("`train` needs data").hint("pass data: dataset(…).tokens(#{ … })"))?;
        return Ok((data, Vec::new()));
    }
    if data.is_some() {
        return Err(Error::usage(format!("`{name}` learns from what the model writes, and reads no data"))
            .at("data")
            .hint("pass prompts: dataset(…), and rewards"));
    }
    let Some(mut prompts) = prompts else {
        return Err(Error::usage(format!("`{name}` needs prompts")).at(name).hint("pass prompts: dataset(…)"));
    };
    if rewards.is_empty() {
        return Err(Error::usage(format!("`{name}` needs rewards"))
            .at(name)
            .hint("pass rewards: [task(\"file.toml\")], or [reward(\"file.rhai\", \"function\")]"));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = rewards.iter().find(|reward| !names.insert(reward.reward.name().to_owned())) {
        let message = format!("two rewards are called `{}`", twice.reward.name());
        return Err(Error::usage(message).at("rewards").hint("rename the function, or the task file's `name`"));
    }
    let stops = |reward: &Reward| match &reward.reward {
        params::Reward::Answer { stop, .. } => Some(BTreeSet::from_iter(stop.clone())),
        params::Reward::Function { .. } => None,
    };
    let mut ends = rewards.iter().filter_map(stops);
    if let Some(first) = ends.next()
        && ends.any(|other| other != first)
    {
        return Err(Error::usage("the tasks among the rewards end completions at different texts")
            .at("rewards")
            .hint("a completion ends in one way: give their files the same `stop`"));
    }
    // Each prompt is one of its own.
    let mut tokens = prompts.handle.tokens_or(Tokens::default());
    tokens.concatenate = false;
    prompts.handle.tokens = Some(tokens);
    Ok((prompts, rewards.into_iter().map(|reward| reward.reward).collect()))
}
