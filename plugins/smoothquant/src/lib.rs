//! The transform `smoothquant`: divides activation channels and multiplies the weights that read them, so that outliers of
//! the activations, which are hard to quantize, become larger weights, which are not.

mod algorithm;
mod example;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use workbench_api::sdk::rescale::{Heads, Rescaling};
use workbench_api::sdk::*;

use algorithm::{Rule, column_absmax, smoothing_scales};

/// What stands for the size of an activation channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ActivationRange {
    /// Its largest magnitude, against that of the weights: the paper.
    Absmax,
    /// Its largest less its smallest value, against twice the weights' largest magnitude: llm-compressor.
    Range,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// How much of the difficulty moves into the weights: 0 none, 1 all.
    #[schemars(range(min = 0, max = 1), extend("aliases" = ["alpha", "migration_strength", "strength"]))]
    smoothing_strength: f64,
    /// The pairs of layers to rescale: `norm->qkv`, `norm->gate_up`, `v->o`, `up->down`. Where query heads share a KV head,
    /// `v->o` takes the largest scale of those heads' channels for all of them.
    #[schemars(length(min = 1), extend("aliases" = ["sites"]))]
    mappings: Vec<Mapping>,
    /// What stands for the size of an activation channel.
    activation_range: ActivationRange,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            smoothing_strength: 0.5,
            mappings: vec![Mapping::NormToQkv, Mapping::NormToGateUp],
            activation_range: ActivationRange::Absmax,
        }
    }
}

struct SmoothQuant(Parameters);

impl Plugin for SmoothQuant {
    type Parameters = Parameters;
    const NAME: &'static str = "smoothquant";
    const SUMMARY: &'static str = "Moves activation outliers into the weights by an exact rescaling";
    const PAPER: Option<&'static str> = Some("Xiao et al. 2023, arXiv:2211.10438");
    const GRID_VERSION: u32 = 0;
    const TAKES_EXPERTS: bool = true;

    fn new(mut parameters: Parameters) -> Result<Self, Error> {
        // A mapping named twice is meant once, and the order in which they are named changes nothing.
        parameters.mappings.sort_unstable();
        parameters.mappings.dedup();
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        let kinds: &[Statistic] = match self.0.activation_range {
            ActivationRange::Absmax => &[Statistic::Absmax],
            ActivationRange::Range => &[Statistic::Min, Statistic::Max],
        };
        let pairs = &self.0.mappings;
        let need =
            |kind: &Statistic| StatisticNeed { kind: *kind, sites: Vec::new(), pairs: pairs.clone(), optional: false };
        Needs { statistics: kinds.iter().map(need).collect(), ..Needs::nothing() }
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(vec![example::by_hand()])
    }
}

impl Transform for SmoothQuant {
    fn transform(&self, model: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        let pairs = model.pairs_of(&self.0.mappings)?;
        let heads = Heads::from_config(&host.config()?)?;
        let mut facts = Facts::new();
        let blocks: Vec<&[&Pair]> = pairs.chunk_by(|a, b| a.block == b.block).collect();
        for (done, pairs) in blocks.iter().enumerate() {
            host.check_cancelled()?;
            facts.insert(pairs[0].block.clone(), self.smooth(pairs, heads, host)?);
            host.progress(done as u64 + 1, blocks.len() as u64);
        }
        let strength = json!(self.0.smoothing_strength);
        Ok(Facts::from_iter([("smoothing_strength".to_owned(), strength), ("scales".to_owned(), facts.into())]))
    }
}

impl SmoothQuant {
    /// Rescales one block. All scales come from the weights as they were, so no mapping changes what another one sees.
    fn smooth(&self, pairs: &[&Pair], heads: Heads, host: &Host<'_>) -> Result<serde_json::Value, Error> {
        let mut rescaling = Rescaling::default();
        let mut facts = Facts::new();
        for pair in pairs {
            let (mapping, site) = (pair.mapping, &pair.site);
            let doing = || format!("smoothing {} of `{}`", mapping.name(), pair.block);
            let [activation, absmax] = self.activation(site, host).context(doing)?;
            let weight = reader_absmax(pair, activation.len(), host).context(doing)?;
            let [activation, absmax, weight] = match mapping {
                // Channels of heads that share values must share their scale: the largest of each decides.
                Mapping::ValueToOutput => {
                    let gather = |values: &[f64]| heads.gather(values, f64::max);
                    [gather(&activation)?, gather(&absmax)?, gather(&weight)?]
                }
                _ => [activation, absmax, weight],
            };
            let scales = smoothing_scales(&activation, &weight, self.0.smoothing_strength, self.rule());
            let scales = scales.context(|| format!("at `{site}`")).context(doing)?;
            rescaling.add(pair, &scales.values, heads)?;
            let (least, most) = scales.values.iter().fold((f64::MAX, 0.0_f64), |(a, b), s| (a.min(*s), b.max(*s)));
            let mut found = Facts::from_iter([("min".to_owned(), json!(least)), ("max".to_owned(), json!(most))]);
            let (silent, constant): (Vec<usize>, Vec<usize>) =
                scales.still.iter().partition(|channel| absmax[**channel] == 0.0);
            note_silent(&mut found, &silent, scales.values.len(), "kept a scale of 1");
            if !constant.is_empty() {
                found.insert("constant_channels".to_owned(), json!(constant.len()));
            }
            facts.insert(pair.label(pairs), found.into());
        }
        rescaling.put(host)?;
        Ok(facts.into())
    }

    fn rule(&self) -> Rule {
        match self.0.activation_range {
            ActivationRange::Absmax => Rule::Absmax,
            ActivationRange::Range => Rule::Range,
        }
    }

    /// The size of each channel at a site, by the rule, and its largest magnitude: of a constant channel the one may be zero, and
    /// the other not.
    fn activation(&self, site: &str, host: &Host<'_>) -> Result<[Vec<f64>; 2], Error> {
        let read = |kind| -> Result<Vec<f64>, Error> {
            Ok(host.required_statistics(site, kind)?.to_f32()?.iter().map(|v| f64::from(*v)).collect())
        };
        match self.0.activation_range {
            ActivationRange::Absmax => {
                let absmax = read(Statistic::Absmax)?;
                Ok([absmax.clone(), absmax])
            }
            ActivationRange::Range => {
                let (min, max) = (read(Statistic::Min)?, read(Statistic::Max)?);
                let pairs = || max.iter().zip(&min);
                Ok([
                    pairs().map(|(max, min)| max - min).collect(),
                    pairs().map(|(max, min)| max.abs().max(min.abs())).collect(),
                ])
            }
        }
    }
}

/// Largest magnitude per column over the weights that read a mapping's site.
fn reader_absmax(pair: &Pair, channels: usize, host: &Host<'_>) -> Result<Vec<f64>, Error> {
    let mut all = Vec::new();
    for reader in &pair.readers {
        let name = format!("{reader}.weight");
        let weight = host.tensor(&name)?;
        let (_, columns) = weight.matrix_shape()?;
        if columns != channels {
            return Err(Error::input(format!("`{name}` has {columns} columns, its site {channels} channels")));
        }
        all.push(weight);
    }
    let values = all.iter().map(Tensor::to_f32).collect::<Result<Vec<_>, _>>()?;
    Ok(column_absmax(values.iter().map(AsRef::as_ref), channels))
}

workbench_api::export_transform!(SmoothQuant);
