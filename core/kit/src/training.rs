//! What a trainer and its host have to say to each other.

use serde_json::json;
use workbench_api::job::Model;
use workbench_api::sdk::{Error, Facts, Host, Level, Tensor};
use workbench_model::decoder::{TrainableParams, keep_pages};
use workbench_model::{ModelConfig, WeightSource};
use workbench_train::{Example, Learn, StepReport, Summary, TrainError, TrainingParameters};

use crate::{Sequence, model_error, sequences, thread_pool};

/// Walking the graph of a backward pass recurses once per operation.
const STACK: usize = 64 << 20;

/// Runs a training in a pool of as many threads as the node may use, whose stacks a backward pass fits in.
///
/// # Errors
/// The system refuses threads; that of `work`.
pub fn in_training_pool<T: Send>(host: &Host<'_>, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    keep_pages();
    thread_pool(host, Some(STACK))?.install(work)
}

/// The sequences of a stream, and which of their tokens are learned. Those without any are left out: a step of them alone would learn
/// nothing and move weights by their momentum.
///
/// # Errors
/// As [`sequences`].
pub fn examples(host: &Host<'_>, stream: &str, config: &ModelConfig, learn: Learn) -> Result<Vec<Example>, Error> {
    let found = sequences(host, stream, config.vocab_size)?.into_iter();
    let found = found.map(|Sequence { ids, learn: data }| Example { ids, mask: learn.mask(data) });
    let (teaching, silent): (Vec<Example>, Vec<Example>) =
        found.partition(|example| example.mask.iter().skip(1).any(|learn| *learn));
    if !silent.is_empty() && !teaching.is_empty() {
        let (count, all) = (silent.len(), silent.len() + teaching.len());
        let message = format!("{count} of {all} sequences of `{stream}` hold no token to learn, and are left out");
        host.log(Level::Warn, &message);
    }
    Ok(teaching)
}

/// The sequences that the loss is measured on, where the script gives any.
///
/// # Errors
/// As [`sequences`]; there are none, and a parameter is about them.
pub fn validation_examples(
    host: &Host<'_>,
    job: &Model,
    config: &ModelConfig,
    training: &TrainingParameters,
) -> Result<Option<Vec<Example>>, Error> {
    const STREAM: &str = "validation";
    if job.streams.iter().any(|stream| stream.name == STREAM) {
        return examples(host, STREAM, config, training.learn).map(Some);
    }
    let about = [
        ("keep_best", training.keep_best),
        ("patience", training.patience > 0),
        ("validate_every", training.validate_every > 0),
    ];
    match about.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::parameters(format!("`{name}` is about validation data, and there are none"))
            .with_hint("pass validation: dataset(…).tokens(#{ … })")),
        None => Ok(None),
    }
}

/// How much there is to learn, for the log and for the record.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Numbers that are trained.
    pub parameters: usize,
    /// Sequences.
    pub sequences: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those of them that are learned.
    pub learned: usize,
}

impl Extent {
    /// Of a training.
    pub fn of(weights: &TrainableParams, examples: &[Example]) -> Self {
        let learned = examples.iter().map(|e| e.mask.iter().skip(1).filter(|learn| **learn).count());
        Self {
            parameters: weights.count(),
            sequences: examples.len(),
            tokens: examples.iter().map(|example| example.ids.len()).sum(),
            learned: learned.sum(),
        }
    }

    /// Says so.
    pub fn log(&self, host: &Host<'_>) {
        let Self { parameters, sequences, tokens, learned } = self;
        let message =
            format!("{parameters} parameters, {sequences} sequences, {tokens} tokens, {learned} of them learned");
        host.log(Level::Info, &message);
    }

    /// With what came of it.
    pub fn facts(&self, summary: &Summary) -> Facts {
        let last = &summary.losses[summary.losses.len().saturating_sub(100)..];
        let facts = json!({
            "steps": summary.losses.len(),
            "first_loss": summary.losses.first(),
            "last_loss": summary.losses.last(),
            "mean_loss_of_last_100_steps": last.iter().sum::<f64>() / last.len().max(1) as f64,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "learned_tokens": self.learned,
            "parameters": self.parameters,
        });
        let mut facts = facts.as_object().cloned().unwrap_or_default();
        if let (Some(first), Some(last)) = (summary.validation.first(), summary.validation.last()) {
            let of = |measured: &(u64, f64)| json!({ "step": measured.0, "loss": measured.1 });
            let validation = json!({ "first": of(first), "last": of(last), "kept": summary.kept.as_ref().map(of) });
            facts.insert("validation".to_owned(), validation);
        }
        facts
    }
}

/// Tells the host of every step, and ends the training when the host asks for that.
pub fn observe<'a>(host: &'a Host<'_>) -> impl FnMut(&StepReport) -> Result<(), TrainError> + 'a {
    |step| {
        if step.step > 0 {
            host.metric(step.step, "loss", step.loss);
            host.metric(step.step, "learning_rate", step.learning_rate);
            host.metric(step.step, "gradient_norm", step.gradient_norm);
        }
        if let Some(loss) = step.validation {
            host.metric(step.step, "validation_loss", loss);
        }
        host.progress(step.step, step.total_steps);
        if host.cancelled() { Err(TrainError::Stopped) } else { Ok(()) }
    }
}

/// Puts weights as they are, but for those that `left_out` names.
///
/// # Errors
/// The host cannot take them.
pub fn put_weights(host: &Host<'_>, weights: &TrainableParams, left_out: impl Fn(&str) -> bool) -> Result<(), Error> {
    for (name, var) in weights.iter().filter(|(name, _)| !left_out(name)) {
        let values = weights.values(name).map_err(model_error)?;
        host.put_tensor(name, Tensor::from_vec(var.dims(), values)?)?;
    }
    Ok(())
}

/// The host's error for one of the loop's.
pub fn train_error(error: TrainError) -> Error {
    let hint = error.hint().map(str::to_owned);
    let message = error.to_string();
    let made = match error {
        TrainError::Stopped => Error::cancelled(),
        TrainError::Setting { .. } => Error::parameters(message),
        TrainError::Diverged { .. } => Error::numeric(message),
        _ => Error::input(message),
    };
    made.maybe_hint(hint)
}
