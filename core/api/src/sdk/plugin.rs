//! The traits of a plugin.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Host, QuantizedLinear};
use crate::accepts::Accepts;
use crate::descriptor::StartsFrom;
use crate::error::Error;
use crate::example::Example;
use crate::job::{Block, Facts, Linear, Model, Needs};

/// What every plugin says, whatever its kind. The value itself is the plugin with its parameters.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// Parameters as scripts write them: a struct with `#[serde(default, deny_unknown_fields)]` whose doc comments are
    /// what `workbench plugins list` shows, with ranges, choices and units (`#[schemars(extend("unit" = "tokens"))]`). Types,
    /// choices, ranges (`#[schemars(range(min = 1))]`, `extend("exclusiveMinimum" = 0)`, `extend("powerOf" = 2)`) and lists
    /// (`length(min = 1)`, `extend("uniqueItems" = true)`) are checked while the script runs, and
    /// so are names: with `#[schemars(extend("aliases" = ["percdamp"]))]` on a field a script may write `percdamp` for it. The host
    /// says so, and hands out and keeps the field's own name, so that both spellings are one result.
    type Parameters: Serialize + DeserializeOwned + JsonSchema + Default;

    /// The name that scripts use.
    const NAME: &'static str;

    /// One line on what it does.
    const SUMMARY: &'static str;

    /// Where the method is described.
    const PAPER: Option<&'static str> = None;

    /// `workbench_quant::GRID_VERSION`, or 0 if the plugin rounds nothing. A host whose rounding rules are of another
    /// version refuses the plugin; from a plugin that says 0 it takes no codes.
    const GRID_VERSION: u32;

    /// Whether it takes models with mixtures of experts, whose blocks have many pairs of layers of a kind and a router among the readers.
    /// Who quantizes linears one by one takes them anyway: to it an expert's linear is one like any.
    const TAKES_EXPERTS: bool = false;

    /// The plugin with its parameters.
    ///
    /// # Errors
    /// The parameters contradict each other in a way that a schema cannot say.
    fn new(parameters: Self::Parameters) -> Result<Self, Error>;

    /// What its jobs want to have ready.
    fn needs(&self) -> Needs {
        Needs::nothing()
    }

    /// Which schemes a quantizer takes, or a trainer that [learns codes](Trainer::TAKES_SCHEMES). What it does not take is refused while
    /// the script runs, with its place; a plugin that leaves this out has to refuse by an error of its jobs, when the run has begun.
    fn accepts() -> Accepts {
        Accepts::any_scheme()
    }

    /// Small inputs with known outputs, at least one. `workbench plugins check` runs them, and so does a test that the
    /// export macro adds to the plugin's crate.
    ///
    /// # Errors
    /// The example cannot be built.
    fn examples() -> Result<Vec<Example>, Error>;
}

/// Quantizes a model one linear at a time.
pub trait Quantizer: Plugin {
    /// Codes, scales and zero-points of one linear, and nothing else; [what they mean](super#what-codes-mean). The weight is read by `host.tensor(&linear.weight)`, statistics of
    /// the linear's site by [`Host::statistics`].
    ///
    /// # Errors
    /// The linear cannot be quantized like this.
    fn quantize(&self, linear: &Linear, host: &Host<'_>) -> Result<QuantizedLinear, Error>;
}

/// Quantizes a model one decoder block at a time, with the block's inputs at hand.
pub trait BlockQuantizer: Plugin {
    /// Puts codes of the block's linears ([`Host::put_codes`]) and whatever other tensors of it change. The inputs come
    /// as the stream `inputs`, see [`Block`].
    ///
    /// # Errors
    /// The block cannot be quantized like this.
    fn quantize_block(&self, block: &Block, host: &Host<'_>) -> Result<Facts, Error>;
}

/// Rewrites a model without changing its function; the host checks that: by the logits of some tokens, by mixtures of all rows of
/// the embeddings, and by the keys of config.json, of which a transform may change those that describe the shapes of tensors, and
/// `quantization_config.transform_config`.
pub trait Transform: Plugin {
    /// Puts the tensors that change and patches the configuration.
    ///
    /// # Errors
    /// The model cannot be rewritten like this.
    fn transform(&self, model: &Model, host: &Host<'_>) -> Result<Facts, Error>;
}

/// Trains a model.
pub trait Trainer: Plugin {
    /// Whether it learns codes on the grids of a scheme, which scripts then have to name as they do for a quantizer. The
    /// trainer of a plugin that leaves this out is given no grids.
    const TAKES_SCHEMES: bool = false;

    /// What the weights of the model are that it starts from. Of a model of codes the job has the [grids](Model::codes), and scripts
    /// name no scheme: [`Host::codes`] reads what is there, and codes on the same grids are due.
    const STARTS_FROM: StartsFrom = StartsFrom::Weights;
    /// Whether a script may leave the scheme out all the same, and then plain weights are due: `job.quantizes()` tells.
    const SCHEME_OPTIONAL: bool = false;

    /// Puts plain weights ([`Host::put_tensor`]) or codes with their scales ([`Host::put_codes`]), which the host stores
    /// as they are. Where the job has [grids](Model::quantizes), codes are due for every linear with one, and it says the rest:
    /// the configuration stays the model's own. Calls [`Host::check_cancelled`] every step and keeps its checkpoints in [`Host::scratch`].
    ///
    /// # Errors
    /// Training failed.
    fn train(&self, model: &Model, host: &Host<'_>) -> Result<Facts, Error>;
}
