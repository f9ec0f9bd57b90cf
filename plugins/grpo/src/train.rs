//! One run.

use std::collections::BTreeSet;

use serde_json::json;
use workbench_api::job::{Facts, Model};
use workbench_api::rollouts::{PROMPTS, Policy};
use workbench_api::sdk::{Error, Host, Level};
use workbench_model::decoder::{Decoder, LossOptions, TrainableParams};
use workbench_model::{ModelConfig, device};
use workbench_plugin_model::{
    HostWeights, Sequence, model_config, model_error, observe, put_weights, quantized_linear, sequences, train_error,
};
use workbench_train::{Reinforced, RolloutConfig, StepReport, Student, TrainError, train};

use crate::grids::{self, Codes};
use crate::judge::HostJudge;
use crate::parameters::Parameters;

/// Trains, and puts codes and weights.
pub(crate) fn run(parameters: &Parameters, job: &Model, host: &Host<'_>) -> Result<Facts, Error> {
    let policy = job.policy.as_ref().ok_or_else(|| {
        Error::unsupported("the job is about no policy")
            .with_hint("this plugin needs a workbench that rewards completions")
    })?;
    let config = model_config(host)?;
    let source = HostWeights::new(host);
    let weights = TrainableParams::load(&config, &source, &device::chosen()).map_err(model_error)?;
    let grids = grids::of(job)?;
    let prompts = prompts(parameters, host, &config)?;
    let count = prompts.len();
    host.log(Level::Info, &format!("{} parameters, {count} prompts", weights.count()));
    // The model as it is given, unquantized.
    let reference = (parameters.beta > 0.0).then(|| Decoder::load_for_scoring(&config, &source, &device::chosen()));
    let reference = reference.transpose().map_err(model_error)?;
    let student = || Student::on_grids(&config, &weights, grids.clone()).map_err(model_error);
    let watched = student()?;
    let codes = Codes::of(job, &watched)?;
    let options =
        LossOptions { gradient_checkpointing: parameters.gradient_checkpointing, chunk: parameters.loss_chunk };
    let rules = (rollouts(parameters, policy)?, parameters.loss());
    let passes = (parameters.batch_size, options);
    let mut objective =
        Reinforced::new(student()?, reference, prompts, rules, passes, HostJudge(host)).map_err(train_error)?;
    let mut told = observe(host);
    let mut observer = |report: &StepReport| {
        if !codes.is_empty() {
            let changed = codes.changed(&watched).map_err(|error| TrainError::Data(error.to_string()))?;
            host.metric(report.step, "codes_changed", changed as f64);
        }
        match told(report) {
            // What was written for this step is learned to its end: a checkpoint does not hold it.
            Err(TrainError::Stopped) if !report.step.is_multiple_of(parameters.num_iterations) => Ok(()),
            other => other,
        }
    };
    let folder = host.scratch()?.join("grpo");
    let summary = train(&weights, &mut objective, &parameters.config(), Some(&folder), &mut observer);
    let summary = summary.map_err(train_error)?;
    let mut facts = Facts::new();
    facts.insert("steps".into(), summary.losses.len().into());
    facts.insert("first_loss".into(), summary.losses.first().copied().into());
    facts.insert("last_loss".into(), summary.losses.last().copied().into());
    facts.insert("prompts".into(), count.into());
    facts.insert("parameters".into(), weights.count().into());
    if !codes.is_empty() {
        let changed = codes.changed(objective.student())?;
        facts.insert("codes".into(), json!({ "all": codes.count(), "changed": changed }));
    }
    put(job, host, &config, objective.student(), &weights)?;
    Ok(facts)
}

/// The prompts that a completion fits behind, with their numbers.
fn prompts(parameters: &Parameters, host: &Host<'_>, config: &ModelConfig) -> Result<Vec<(usize, Vec<u32>)>, Error> {
    let all = sequences(host, PROMPTS, config.vocab_size)?;
    let (longest, most, count) = (parameters.max_completion_length, config.max_positions, all.len());
    let fits = |sequence: &Sequence| sequence.ids.len().saturating_add(longest) <= most;
    let found: Vec<(usize, Vec<u32>)> = all
        .into_iter()
        .enumerate()
        .filter(|(_, sequence)| fits(sequence))
        .map(|(number, sequence)| (number, sequence.ids))
        .collect();
    let hint = "lower `max_completion_length`, or give shorter prompts";
    if found.is_empty() {
        let message =
            format!("none of {count} prompts fits into {most} positions with a completion of {longest} tokens");
        return Err(Error::input(message).with_hint(hint));
    }
    if found.len() < count {
        let left = count - found.len();
        let message = format!(
            "{left} of {count} prompts do not fit into {most} positions with a completion of {longest} tokens, and are left out"
        );
        host.log(Level::Warn, &message);
    }
    Ok(found)
}

/// How the policy writes, and what that is worth.
fn rollouts(parameters: &Parameters, policy: &Policy) -> Result<RolloutConfig, Error> {
    let weights = match parameters.reward_weights.as_slice() {
        [] => vec![1.0; policy.rewards.len()],
        given => given.to_vec(),
    };
    let config = RolloutConfig {
        generations: parameters.num_generations,
        longest: parameters.max_completion_length,
        stop_ids: policy.stop_ids.clone(),
        names: policy.rewards.clone(),
        weights,
        scale: parameters.scale_rewards,
        mask_truncated: parameters.mask_truncated_completions,
        seed: parameters.seed,
        iterations: parameters.num_iterations,
    };
    config.check().map_err(train_error)?;
    Ok(config)
}

/// Puts codes and plain weights.
fn put(
    job: &Model,
    host: &Host<'_>,
    config: &ModelConfig,
    student: &Student<'_>,
    weights: &TrainableParams,
) -> Result<(), Error> {
    let mut coded = BTreeSet::new();
    for linear in job.coded().filter(|linear| !linear.grid.is_null()) {
        let made = student.quantized(&linear.weight).map_err(model_error)?;
        host.put_codes(&linear.module, &quantized_linear(linear, made, Facts::new()))?;
        coded.insert(linear.weight.as_str());
    }
    let known: BTreeSet<String> = config.tensors().into_iter().map(|tensor| tensor.name).collect();
    put_weights(host, weights, |name| coded.contains(name) || !known.contains(name))
}
