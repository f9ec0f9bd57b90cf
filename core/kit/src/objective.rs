//! What a trainer minimizes, as its parameters say it.

use workbench_api::job::Model;
use workbench_api::sdk::{Error, Host};
use workbench_model::decoder::Decoder;
use workbench_model::device;
use workbench_train::{Loss, LossKind, LossParameters};

use crate::{HostWeights, model_config_of, model_error};

/// The model that is learned from, where the script gives one.
const TEACHER: &str = "teacher";

/// An error for parameters of the loss that make no sense.
///
/// # Errors
/// They are outside of their ranges, or about another loss.
pub fn check_loss(parameters: &LossParameters) -> Result<(), Error> {
    parameters.divergence().check().map_err(model_error)?;
    match parameters.unused() {
        None => Ok(()),
        Some(name) => Err(Error::parameters(format!("`{name}` is about distillation, and the loss is another"))
            .with_hint(format!("leave `{name}` out, or take `loss: \"distillation\"`"))),
    }
}

/// What is minimized. A teacher stays in memory beside the model in training.
///
/// # Errors
/// The teacher cannot be read; there is one for another loss; a model of codes would have to learn from itself.
pub fn loss(parameters: &LossParameters, job: &Model, host: &Host<'_>) -> Result<Loss, Error> {
    let given = job.inputs.iter().any(|input| input == TEACHER);
    match parameters.loss {
        LossKind::CrossEntropy if given => {
            Err(Error::parameters("`loss: \"cross_entropy\"` learns from no teacher, and one is given")
                .with_hint("leave `teacher` out, or take `loss: \"distillation\"`"))
        }
        LossKind::CrossEntropy => Ok(Loss::CrossEntropy),
        LossKind::Distillation if job.codes && !given => {
            Err(Error::parameters("a model of codes has no unquantized self to learn from, and there is no teacher")
                .with_hint("pass the model before its quantization as `teacher`, or take `loss: \"cross_entropy\"`"))
        }
        LossKind::Distillation => {
            let input = if given { TEACHER } else { "model" };
            let config = model_config_of(host, input)?;
            let source = HostWeights::of(host, input);
            let teacher = Decoder::load_for_scoring(&config, &source, &device::chosen()).map_err(model_error)?;
            Ok(Loss::Distillation { teacher: Box::new(teacher), divergence: parameters.divergence() })
        }
    }
}
