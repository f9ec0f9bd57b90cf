//! The search over a model, block by block.
//!
//! A block needs its own weights and the hidden states of all tokens before it, nothing else. Statistics and scores are those
//! of the model as it is: a rescaling leaves the function alone, so no mapping changes the input of another one's readers,
//! and since readers are sources of later mappings at most (up, v), each is scored with the weights it came with.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use workbench_api::job::{Facts, Mapping, Model, Pair};
use workbench_api::sdk::rescale::{Heads, Rescaling};
use workbench_api::sdk::{Context as _, Error, Host, note_silent};
use workbench_model::arch::block_name;
use workbench_model::decoder::keep_pages;
use workbench_model::{
    Activations, Block, Context, HiddenStates, ModelConfig, ModelError, Precision, Site, Taps, device,
};
use workbench_plugin_model::{HostWeights, calibration, grid_error, model_config, model_error, thread_pool};
use workbench_quant::{Grid, GridError, Matrix};

use crate::algorithm::{Candidate, Span, candidates, scales, silent, weight_means};
use crate::kept::{BlockFound, Kept};
use crate::observed::{Observed, squared_difference};
use crate::parameters::{MIN_EXPERT_TOKENS, Parameters};

/// Rescales the host's model.
pub(crate) fn run(parameters: &Parameters, model: &Model, host: &Host<'_>) -> Result<Facts, Error> {
    keep_pages();
    // Results do not depend on it; the host's limit does.
    thread_pool(host, None)?.install(|| Search::new(parameters, model, host)?.model())
}

struct Search<'a, 'h> {
    host: &'a Host<'h>,
    config: ModelConfig,
    device: Device,
    heads: Heads,
    grid: Grid,
    span: Span,
    candidates: Vec<Candidate>,
    pairs: Vec<&'a Pair>,
    /// The linears that a search rounds: routers are readers, and stay as they are.
    rounded: BTreeSet<String>,
    parameters: &'a Parameters,
    /// Mappings that were asked for and are left alone, with the reason.
    skipped: BTreeMap<&'static str, &'static str>,
}

/// The readers of a pair that are rounded: module, weight and its shape.
struct Readers {
    linears: Vec<(String, Vec<f32>, [usize; 2])>,
    columns: usize,
}

/// What a search found.
struct Found {
    candidate: Candidate,
    scales: Vec<f64>,
    before: f64,
    after: f64,
    /// Channels that no token excited.
    silent: Vec<usize>,
}

/// A pair of layers with what its readers see.
type ObservedPair<'a> = (&'a Pair, Observed);

/// What the batches looked like at the pairs of half a block.
type Seen<'a> = RefCell<Vec<(&'a Pair, Observed)>>;

impl<'a, 'h> Search<'a, 'h> {
    fn new(parameters: &'a Parameters, model: &'a Model, host: &'a Host<'h>) -> Result<Self, Error> {
        let config = model_config(host)?;
        let of_experts = [
            ("calibrate_all_experts", parameters.calibrate_all_experts),
            ("min_expert_tokens", parameters.min_expert_tokens.is_some()),
        ];
        if let Some((option, _)) = of_experts.into_iter().find(|(_, given)| *given && config.experts.is_none()) {
            return Err(Error::parameters(format!("`{option}` is given, and the model has no experts"))
                .with_hint("leave it out"));
        }
        let heads = Heads::from_config(&host.config()?)?;
        let grid = parameters.rounding()?;
        let span = parameters.span(&grid)?;
        let mut mappings = parameters.mappings.clone();
        // The order in which they are named changes nothing.
        mappings.sort_unstable();
        mappings.dedup();
        let mut skipped = BTreeMap::new();
        if heads.are_grouped() && !parameters.grouped_v_to_o && mappings.contains(&Mapping::ValueToOutput) {
            mappings.retain(|mapping| *mapping != Mapping::ValueToOutput);
            skipped.insert(Mapping::ValueToOutput.name(), "query heads share KV heads, and `grouped_v_to_o` is off");
        }
        let candidates = candidates(parameters.grid, parameters.n_grid, parameters.duo_scaling);
        let pairs = model.pairs_of(&mappings)?;
        let device = device::chosen();
        let readers: BTreeSet<&str> = pairs.iter().flat_map(|pair| &pair.readers).map(String::as_str).collect();
        let linears = config.linears().into_iter().map(|linear| linear.name);
        let rounded = linears.filter(|name| readers.contains(name.as_str())).collect();
        let search = Self { host, config, device, heads, grid, span, candidates, pairs, rounded, parameters, skipped };
        search.check_shapes()?;
        Ok(search)
    }

    /// Refuses a group size that does not divide, before anything is computed.
    fn check_shapes(&self) -> Result<(), Error> {
        for linear in self.config.linears() {
            if self.rounded.contains(&linear.name) {
                let shape = self.grid.parameters_shape(linear.out_features, linear.in_features);
                shape.map_err(|e| grid_error(&e)).context(|| format!("rounding `{}.weight`", linear.name))?;
            }
        }
        Ok(())
    }

    fn model(&self) -> Result<Facts, Error> {
        let sequences = calibration(self.host, self.config.vocab_size)?;
        let tokens: usize = sequences.iter().map(|sequence| sequence.ids.len()).sum();
        let shapes: Vec<[usize; 2]> = sequences.iter().map(|sequence| [1, sequence.ids.len()]).collect();
        let mut kept = Kept::open(self.host)?;
        let precision = self.parameters.hidden_states.precision();
        let room = |name, precision| kept.room(name, &shapes, self.config.hidden_size, precision);
        // What scores are taken against is not rounded.
        let mut outputs = room("outputs", Precision::F32)?;
        let mut states = HiddenStates::new(room("hidden", precision)?, &self.device);
        kept.load(states.kept_mut())?;
        match kept.blocks() {
            [] => {
                let ids = |index: usize| sequences[index].ids.as_slice().into();
                states.embed(&self.config, &HostWeights::new(self.host), ids).map_err(model_error)?;
            }
            blocks => self.put_again(blocks)?,
        }
        for index in kept.blocks().len()..self.config.num_layers {
            let name = block_name(index);
            let found = self.block(index, &mut states, &mut outputs).context(|| format!("scaling `{name}`"))?;
            kept.add(found, states.kept())?;
            self.host.progress(index as u64 + 1, self.config.num_layers as u64);
        }
        let names = (0..).map(block_name);
        let blocks: Facts = names.zip(kept.blocks()).map(|(name, found)| (name, found.facts.clone())).collect();
        let facts = json!({
            "scheme": self.grid.args().to_string(), "tokens": tokens, "sequences": sequences.len(), "blocks": blocks,
            "skipped": self.skipped,
        });
        Ok(facts.as_object().cloned().unwrap_or_default())
    }

    /// Puts what changes of blocks that were searched before the node was interrupted.
    fn put_again(&self, blocks: &[BlockFound]) -> Result<(), Error> {
        for (index, found) in blocks.iter().enumerate() {
            let name = block_name(index);
            let mut rescaling = Rescaling::default();
            for (label, scales) in &found.scales {
                let here = |pair: &&&Pair| pair.block == name && pair.label(&self.pairs) == *label;
                let pair = self.pairs.iter().find(here);
                let pair = pair.ok_or_else(|| Error::input(format!("`{name}` has no pair `{label}` any more")))?;
                rescaling.add(pair, scales, self.heads)?;
            }
            rescaling.put(self.host)?;
            self.host.check_cancelled()?;
        }
        Ok(())
    }

    /// Searches one block and puts what changes of it; leaves the hidden states behind it. `outputs` is room for those of half a block.
    fn block(&self, index: usize, states: &mut HiddenStates, outputs: &mut Activations) -> Result<BlockFound, Error> {
        let weights = HostWeights::new(self.host);
        let mut block = Block::load(&self.config, &weights, index, &self.device).map_err(model_error)?;
        // Their down_proj alone is searched over what each expert sees.
        let of_experts = self.pairs.iter().any(|pair| pair.mapping == Mapping::UpToDown);
        block.show_all_to_experts(self.parameters.calibrate_all_experts && of_experts);
        let mut rescaling = Rescaling::default();
        let (mut facts, mut scales) = (Facts::new(), Vec::new());
        for part in [Part::Attention, Part::Mlp] {
            let seen = self.observe(part, index, &block, states, outputs)?;
            for (pair, observed) in seen {
                let label = pair.label(&self.pairs);
                if let Some(why) = observed.too_little(self.parameters.min_expert_tokens.unwrap_or(MIN_EXPERT_TOKENS)) {
                    facts.insert(label, why.into());
                    continue;
                }
                let found = self.pair(pair, &mut block, (part, states, outputs), &observed);
                let found = found.context(|| label.clone())?;
                rescaling.add(pair, &found.scales, self.heads)?;
                facts.insert(label.clone(), found.facts());
                scales.push((label, found.scales));
            }
            let add = |sequence, hidden: &Tensor, _: &Context| Ok((hidden + self.output(outputs, sequence)?)?);
            states.advance::<ModelError>(add).map_err(model_error)?;
        }
        rescaling.put(self.host)?;
        Ok(BlockFound { scales, facts: facts.into() })
    }

    /// What a sequence gave, where blocks compute.
    fn output(&self, of: &Activations, sequence: usize) -> Result<Tensor, ModelError> {
        Ok(of.get(sequence)?.to_device(&self.device)?)
    }

    /// Runs half of the block on all sequences: leaves its outputs, and returns what its mappings' sites saw.
    fn observe(
        &self,
        part: Part,
        index: usize,
        block: &Block,
        states: &HiddenStates,
        outputs: &mut Activations,
    ) -> Result<Vec<ObservedPair<'a>>, Error> {
        let layout = self.config.block(index);
        let of_experts = layout.linears.iter().map(|linear| linear.site).filter(|site| site.expert.is_some());
        let of_experts: BTreeSet<String> = of_experts.map(|site| site.to_string()).collect();
        let here = |pair: &&&Pair| pair.block == layout.name && part.mappings().contains(&pair.mapping);
        let unobserved = |pair: &Pair| Observed::new(pair.readers.len() == 1, of_experts.contains(&pair.site));
        let of_part = self.pairs.iter().filter(here);
        let seen: Seen<'a> = RefCell::new(of_part.map(|pair| (*pair, unobserved(pair))).collect());
        let mut failed = None;
        for sequence in 0..states.len() {
            let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
                let name = site.to_string();
                let mut seen = seen.borrow_mut();
                let observed = seen.iter_mut().find(|(pair, _)| pair.site == name);
                if let Some((_, observed)) = observed.filter(|_| failed.is_none()) {
                    failed = observed.add(x).err().map(|error| error.context(format!("at `{name}`")));
                }
                Ok(())
            };
            let output = part.run(block, states, sequence, &mut tap)?;
            outputs.set(sequence, &output).map_err(model_error)?;
            if let Some(error) = failed {
                return Err(error);
            }
            self.host.check_cancelled()?;
        }
        Ok(seen.into_inner())
    }

    /// Finds the scales of one pair, one per channel of its source.
    fn pair(
        &self,
        pair: &Pair,
        block: &mut Block,
        scene: (Part, &HiddenStates, &Activations),
        observed: &Observed,
    ) -> Result<Found, Error> {
        let (readers, mapping) = (self.readers(pair)?, pair.mapping);
        let weights: Vec<&[f32]> = readers.linears.iter().map(|(_, values, _)| values.as_slice()).collect();
        let (mut x, mut w) = (observed.mean_abs()?, weight_means(&weights, readers.columns, self.span));
        if mapping == Mapping::ValueToOutput {
            let group = (x.len() / self.heads.gather(&x, |a, _| a)?.len()) as f64;
            let mean = |values: &[f64]| -> Result<Vec<f64>, Error> {
                Ok(self.heads.gather(values, |a, b| a + b)?.iter().map(|sum| sum / group).collect())
            };
            (x, w) = (mean(&x)?, mean(&w)?);
        }
        let mut best: Option<Found> = None;
        let mut before = f64::NAN;
        for &candidate in &self.candidates {
            self.host.check_cancelled()?;
            let scales = scales(candidate, &x, &w);
            let columns = if mapping == Mapping::ValueToOutput { self.heads.spread(&scales)? } else { scales.clone() };
            let after = self.score(&readers, &columns, block, scene, observed)?;
            if candidate == Candidate::Identity {
                before = after;
            }
            if after.is_finite() && best.as_ref().is_none_or(|best| after < best.after) {
                best = Some(Found { candidate, scales, before, after, silent: silent(&x) });
            }
        }
        for (module, values, shape) in readers.linears {
            block.set_weight(&module, Tensor::from_vec(values, &shape, &self.device)?).map_err(model_error)?;
        }
        best.filter(|found| found.before.is_finite()).ok_or_else(|| {
            Error::numeric("no scales give a finite error")
                .with_hint("weights or activations overflow: evaluate the model")
        })
    }

    /// The mean squared error of the output that a mapping is scored on, with its readers rounded after scaling by `columns`:
    /// that of the half block for q, k, v and for gate, up; that of the linear itself for o and down.
    fn score(
        &self,
        readers: &Readers,
        columns: &[f64],
        block: &mut Block,
        (part, states, outputs): (Part, &HiddenStates, &Activations),
        observed: &Observed,
    ) -> Result<f64, Error> {
        for (module, values, shape) in &readers.linears {
            let rounded = self.rounded(values, *shape, columns).context(|| format!("rounding `{module}.weight`"))?;
            if readers.linears.len() == 1 {
                let change: Vec<f32> = rounded.iter().zip(values).map(|(q, w)| q - w).collect();
                return observed.output_error(&Tensor::from_vec(change, shape, &self.device)?);
            }
            block.set_weight(module, Tensor::from_vec(rounded, shape, &self.device)?).map_err(model_error)?;
        }
        let (mut sum, mut count) = (0.0, 0);
        for sequence in 0..states.len() {
            let now = part.run(block, states, sequence, &mut ())?;
            let before = self.output(outputs, sequence).map_err(model_error)?;
            let (error, values) = squared_difference(&before, &now)?;
            sum += error;
            count += values;
            self.host.check_cancelled()?;
        }
        Ok(sum / count.max(1) as f64)
    }

    fn readers(&self, pair: &Pair) -> Result<Readers, Error> {
        let mut linears = Vec::new();
        let mut columns = 0;
        for module in pair.readers.iter().filter(|module| self.rounded.contains(*module)) {
            let weight = self.host.tensor(&format!("{module}.weight"))?;
            let shape = weight.matrix_shape()?;
            columns = shape.1;
            linears.push((module.clone(), weight.to_f32()?.into_owned(), shape.into()));
        }
        Ok(Readers { linears, columns })
    }

    /// `Q(W diag(s)) diag(1/s)`: what a weight becomes when it is rounded after scaling.
    fn rounded(&self, weight: &[f32], [rows, columns]: [usize; 2], scales: &[f64]) -> Result<Vec<f32>, Error> {
        let each = |values: &mut [f32], factor: &dyn Fn(f64) -> f64| {
            for row in values.chunks_exact_mut(columns) {
                row.iter_mut().zip(scales).for_each(|(v, s)| *v = (f64::from(*v) * factor(*s)) as f32);
            }
        };
        let mut values = weight.to_vec();
        each(&mut values, &|s| s);
        let round = |values: &mut [f32]| -> Result<(), GridError> {
            let parameters = self.grid.parameters(Matrix::new(values, rows, columns)?)?;
            self.grid.fake_quantize(values, rows, columns, &parameters)
        };
        round(&mut values).map_err(|error| grid_error(&error))?;
        each(&mut values, &|s| 1.0 / s);
        Ok(values)
    }
}

impl Found {
    fn facts(&self) -> Value {
        let (ratio, duo) = match self.candidate {
            Candidate::Identity => (None, None),
            Candidate::Ratio { ratio, duo } => (Some(ratio), Some(duo)),
        };
        let mut facts = Facts::from_iter([
            ("ratio".to_owned(), json!(ratio)),
            ("duo_scaling".to_owned(), json!(duo)),
            ("loss_before".to_owned(), json!(self.before)),
            ("loss_after".to_owned(), json!(self.after)),
        ]);
        note_silent(&mut facts, &self.silent, self.scales.len(), "kept a scale of 1");
        facts.into()
    }
}

/// Half of a block: what is added to the hidden states at once.
#[derive(Clone, Copy)]
enum Part {
    Attention,
    Mlp,
}

impl Part {
    fn mappings(self) -> [Mapping; 2] {
        match self {
            Self::Attention => [Mapping::NormToQkv, Mapping::ValueToOutput],
            Self::Mlp => [Mapping::NormToGateUp, Mapping::UpToDown],
        }
    }

    fn run(self, block: &Block, states: &HiddenStates, sequence: usize, taps: &mut dyn Taps) -> Result<Tensor, Error> {
        let hidden = states.get(sequence).map_err(model_error)?;
        match self {
            Self::Attention => block.attention(&hidden, states.context(sequence), taps),
            Self::Mlp => block.mlp(&hidden, taps),
        }
        .map_err(model_error)
    }
}
