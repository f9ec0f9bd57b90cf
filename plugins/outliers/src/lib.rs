//! The transform `outliers`: plants activation outliers in front of `down_proj` without changing the model's function.
//!
//! A control experiment: a model whose outliers are known, to see which quantization they hurt.

mod algorithm;
mod example;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use workbench_api::sdk::*;

use algorithm::{is_power_of_two, maximum_over_median, pick, row_norms, scale};

/// What channels are picked by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Select {
    /// By activations if the node has calibration data, else by weights.
    Auto,
    /// By the largest maximum over median of the calibration data's activations: channels that stand out stand out more.
    Activations,
    /// By the norm of their `up_proj` row.
    Weights,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Channels per block.
    #[schemars(range(min = 1), extend("aliases" = ["k", "num_channels"]))]
    channels: usize,
    /// Factor on the channels' activations, a power of two.
    #[schemars(extend("exclusiveMinimum" = 0, "powerOf" = 2, "aliases" = ["s", "factor"]))]
    scale: f64,
    /// What channels are picked by.
    select: Select,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { channels: 4, scale: 64.0, select: Select::Auto }
    }
}

struct Outliers(Parameters);

impl Plugin for Outliers {
    type Parameters = Parameters;
    const NAME: &'static str = "outliers";
    const SUMMARY: &'static str =
        "Plants activation outliers in front of the last linear of MLPs by an exact rescaling";
    const PAPER: Option<&'static str> = Some("the rescaling of Xiao et al. 2023, arXiv:2211.10438, backwards");
    const GRID_VERSION: u32 = 0;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        if !is_power_of_two(parameters.scale) {
            let message = format!("`scale` must be a power of two, not {}", parameters.scale);
            return Err(Error::parameters(message).with_hint("other factors would round the weights"));
        }
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        let absmax = StatisticNeed {
            kind: Statistic::Absmax,
            sites: Vec::new(),
            pairs: vec![Mapping::UpToDown],
            optional: self.0.select == Select::Auto,
        };
        let statistics = if self.0.select == Select::Weights { Vec::new() } else { vec![absmax] };
        Needs { statistics, ..Needs::nothing() }
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(vec![example::by_activations(), example::by_weights()])
    }
}

impl Transform for Outliers {
    fn transform(&self, model: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        let pairs = model.pairs_of(&[Mapping::UpToDown])?;
        let mut channels = Facts::new();
        for (done, pair) in pairs.iter().enumerate() {
            host.check_cancelled()?;
            let picked = self.plant(pair, host).context(|| format!("rescaling the MLP of `{}`", pair.block))?;
            let alone = pairs.iter().filter(|other| other.block == pair.block).count() == 1;
            channels.insert(if alone { &pair.block } else { &pair.source }.clone(), picked);
            host.progress(done as u64 + 1, pairs.len() as u64);
        }
        Ok(Facts::from_iter([("channels".to_owned(), channels.into()), ("scale".to_owned(), json!(self.0.scale))]))
    }
}

impl Outliers {
    /// Rescales one MLP; returns which channels, and how far they stood out before.
    fn plant(&self, pair: &Pair, host: &Host<'_>) -> Result<serde_json::Value, Error> {
        let [reader] = &pair.readers[..] else {
            return Err(Error::unsupported(format!("`{}` is read by several linears", pair.source)));
        };
        let (up_name, down_name) = (format!("{}.weight", pair.source), format!("{reader}.weight"));
        let (up, down) = (host.tensor(&up_name)?, host.tensor(&down_name)?);
        let ((inner, hidden), (outputs, inputs)) = (up.matrix_shape()?, down.matrix_shape()?);
        if inputs != inner {
            return Err(Error::input(format!("`{up_name}` has {inner} rows, `{down_name}` {inputs} columns")));
        }
        if self.0.channels > inner {
            return Err(Error::parameters(format!("`channels` is {}, but there are {inner}", self.0.channels)));
        }
        let (scores, by) = self.scores(&pair.site, &up, hidden, host)?;
        if scores.len() != inner {
            return Err(Error::input(format!("{} statistics for {inner} channels", scores.len())));
        }
        let picked = pick(&scores, self.0.channels);

        let rows = picked.iter().flat_map(|channel| channel * hidden..(channel + 1) * hidden);
        put_scaled(host, &up_name, &up, rows, self.0.scale)?;
        let columns = picked.iter().flat_map(|channel| (0..outputs).map(move |row| row * inner + channel));
        put_scaled(host, &down_name, &down, columns, 1.0 / self.0.scale)?;
        let bias = format!("{}.bias", pair.source);
        if host.tensor_info(&bias)?.is_some() {
            put_scaled(host, &bias, &host.tensor(&bias)?, picked.iter().copied(), self.0.scale)?;
        }
        let scores: Vec<f32> = picked.iter().map(|&channel| scores[channel]).collect();
        Ok(json!({ "picked": picked, "by": by, "score": scores }))
    }

    /// A score per channel, and what it is.
    fn scores(
        &self,
        site: &str,
        up: &Tensor<'_>,
        hidden: usize,
        host: &Host<'_>,
    ) -> Result<(Vec<f32>, &'static str), Error> {
        let absmax = match self.0.select {
            Select::Activations => Some(host.required_statistics(site, Statistic::Absmax)?),
            Select::Auto => host.statistics(site, Statistic::Absmax)?,
            Select::Weights => None,
        };
        match absmax {
            Some(absmax) => Ok((maximum_over_median(&absmax.to_f32()?), "maximum_over_median")),
            None => Ok((row_norms(&up.to_f32()?, hidden), "up_proj_row_norm")),
        }
    }
}

fn put_scaled(
    host: &Host<'_>,
    name: &str,
    tensor: &Tensor<'_>,
    indices: impl Iterator<Item = usize>,
    factor: f64,
) -> Result<(), Error> {
    let mut bytes = tensor.bytes().to_vec();
    scale(tensor.dtype(), &mut bytes, indices, factor).context(|| format!("rescaling `{name}`"))?;
    host.put_tensor(name, Tensor::from_bytes(tensor.dtype(), tensor.shape(), &bytes)?)
}

workbench_api::export_transform!(Outliers);
