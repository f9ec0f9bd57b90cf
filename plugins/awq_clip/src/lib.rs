//! The quantizer `awq_clip`: round-to-nearest after AWQ's search for the bound that each group of weights is clipped to.

mod algorithm;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use workbench_api::sdk::*;
use workbench_plugin_model::{grid_error, quantized_linear};
use workbench_quant::{
    Conventions, GRID_VERSION, Grid, Matrix, QuantizationArgs, QuantizedWeight, StorageDtype, Strategy,
};

use algorithm::{Clipped, Inputs, Steps, clip_and_round};

/// A projection of a decoder block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, clippy::enum_variant_names)]
enum Projection {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Projection {
    fn role(self) -> Role {
        match self {
            Self::QProj => Role::Query,
            Self::KProj => Role::Key,
            Self::VProj => Role::Value,
            Self::OProj => Role::Output,
            Self::GateProj => Role::Gate,
            Self::UpProj => Role::Up,
            Self::DownProj => Role::Down,
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Steps that the whole range is cut into.
    #[schemars(range(min = 1, max = 1000))]
    n_grid: usize,
    /// How far a bound may fall, as a share of the range.
    #[schemars(range(min = 0, max = 1), extend("aliases" = ["maxshrink"]))]
    max_shrink: f64,
    /// Projections that are rounded without clipping. An error of queries and keys goes through a product of both, which the
    /// error of each alone does not measure.
    #[schemars(extend("aliases" = ["avoid_clipping", "ignore"]))]
    skip: Vec<Projection>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { n_grid: 20, max_shrink: 0.5, skip: vec![Projection::QProj, Projection::KProj] }
    }
}

struct AwqClip(Parameters);

impl Plugin for AwqClip {
    type Parameters = Parameters;
    const NAME: &'static str = "awq_clip";
    const SUMMARY: &'static str = "Round-to-nearest with AWQ's search for the best clipping of each group";
    const PAPER: Option<&'static str> = Some("Lin et al. 2023, arXiv:2306.00978");
    const GRID_VERSION: u32 = GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().statistic(Statistic::Gram).statistic(Statistic::Count)
    }

    fn accepts() -> Accepts {
        let observers = [None, Some("minmax"), Some("memoryless_minmax"), Some("static_minmax")];
        Accepts::any_scheme()
            .weights("strategy", ["channel", "group"], "clipping needs a scale per row or group; `rtn` takes any")
            .weights("observer", observers, "`awq_clip` chooses ranges itself; `rtn` takes any observer")
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(vec![example()?])
    }
}

impl Quantizer for AwqClip {
    fn quantize(&self, linear: &Linear, host: &Host<'_>) -> Result<QuantizedLinear, Error> {
        host.check_cancelled()?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(host.threads().max(1)).build()?;
        pool.install(|| self.round(linear, host))
    }
}

impl AwqClip {
    fn round(&self, linear: &Linear, host: &Host<'_>) -> Result<QuantizedLinear, Error> {
        let grid: Grid = linear.grid()?;
        check_args(grid.args())?;
        let weight = host.tensor(&linear.weight)?;
        let (rows, columns) = weight.matrix_shape()?;
        let values = weight.to_f32()?;
        let matrix = Matrix::new(&values, rows, columns).map_err(|error| grid_error(&error))?;
        let doing = || format!("rounding `{}`", linear.weight);
        if self.skips(linear)? {
            let rounded =
                QuantizedWeight::round_to_nearest(matrix, &grid).map_err(|e| grid_error(&e)).context(doing)?;
            let facts = Facts::from_iter([("skipped".to_owned(), json!(true))]);
            return Ok(quantized_linear(linear, rounded, facts));
        }
        let found = self.clip(matrix, linear, &grid, host).context(doing)?;
        let mut facts = Facts::from_iter([
            ("loss_before".to_owned(), json!(found.loss_before)),
            ("loss_after".to_owned(), json!(found.loss_after)),
            ("clipped_groups".to_owned(), json!(found.clipped)),
            ("groups".to_owned(), json!(found.groups)),
        ]);
        note_silent(&mut facts, &found.silent, columns, "were not clipped");
        Ok(quantized_linear(linear, found.weight, facts))
    }

    /// Whether a linear is rounded without clipping.
    fn skips(&self, linear: &Linear) -> Result<bool, Error> {
        match linear.role {
            _ if self.0.skip.is_empty() => Ok(false),
            Some(role) => Ok(self.0.skip.iter().any(|projection| projection.role() == role)),
            None => Err(Error::input(format!("the host does not say which projection `{}` is", linear.module))),
        }
    }

    fn clip(&self, weight: Matrix<'_>, linear: &Linear, grid: &Grid, host: &Host<'_>) -> Result<Clipped, Error> {
        let site = linear.site.as_deref().ok_or_else(|| Error::input("the linear reads no site"))?;
        let gram = host.required_statistics(site, Statistic::Gram)?;
        let columns = weight.columns();
        if gram.matrix_shape()? != (columns, columns) {
            let shape = gram.shape();
            return Err(Error::input(format!("the Gram matrix of `{site}` is of shape {shape:?}, not {columns} wide")));
        }
        let gram = gram.to_f32()?;
        if let Some(index) = gram.iter().position(|v| !v.is_finite()) {
            let (channel, value) = (index % columns.max(1), gram[index]);
            return Err(Error::numeric(format!("the Gram matrix of `{site}` is {value} in channel {channel}"))
                .with_hint("activations overflow: evaluate the model first"));
        }
        let count = host.required_statistics(site, Statistic::Count)?;
        let tokens = count.values::<f64>()?.first().copied().unwrap_or_default();
        if tokens.is_nan() || tokens < 1.0 {
            return Err(Error::input(format!("no calibration token reached `{site}`")));
        }
        let steps = Steps { n_grid: self.0.n_grid, max_shrink: self.0.max_shrink };
        clip_and_round(weight, Inputs { gram: &gram, tokens }, grid, steps).map_err(|error| grid_error(&error))
    }
}

/// Refuses what the search would not honour.
fn check_args(args: &QuantizationArgs) -> Result<(), Error> {
    if !matches!(args.strategy, Strategy::Channel | Strategy::Group) {
        return Err(Error::unsupported(format!(
            "clipping needs a scale per row or group, not `{}`",
            args.strategy.name()
        ))
        .with_hint("write `strategy: \"group\"` or `strategy: \"channel\"`, or use `rtn`"));
    }
    match args.observer.as_deref() {
        None | Some("minmax" | "memoryless_minmax" | "static_minmax") => Ok(()),
        Some(other) => {
            Err(Error::unsupported(format!("`awq_clip` chooses ranges itself, not by the observer `{other}`"))
                .with_hint("leave `observer` out of the weights, or use `rtn`"))
        }
    }
}

/// A row whose last channel is large and hardly ever excited. With 2 bits, symmetric, a scale is the bound over 1.5 and codes go from
/// -2 to 1. The channels 0 and 1 count equally: unclipped (bound 3, scale 2) both are rounded to 0, which costs 1 + 1. The bound
/// falls in tenths; at 1.8 the scale is 1.2, the codes are 1 and -1, and the loss is 2 · .04, less than at every bound before;
/// the search ends there.
fn example() -> Result<Example, Error> {
    let args =
        QuantizationArgs { num_bits: 2, symmetric: true, strategy: Strategy::Channel, ..QuantizationArgs::default() };
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default())?;
    let module = "model.layers.0.mlp.down_proj".to_owned();
    let (weight, site) = (format!("{module}.weight"), format!("{module}.input"));
    let mut model = ExampleModel::default();
    model.tensors.insert(weight.clone(), ExampleTensor::f32(&[1, 3], &[1.0, -1.0, 3.0]));
    let job = Job::Linear(Linear {
        module: module.clone(),
        weight,
        site: Some(site.clone()),
        role: Some(Role::Down),
        grid: serde_json::to_value(&grid)?,
        ..Linear::default()
    });
    let mut example = Example::new("a large weight that hardly any input meets", job, model)
        .parameter("n_grid", 10)
        .parameter("max_shrink", 0.5);
    let gram = ExampleTensor::f32(&[3, 3], &[2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1e-9]);
    let count = ExampleTensor { dtype: Dtype::F64, shape: vec![1], values: vec![2.0] };
    let kinds = BTreeMap::from([("gram".to_owned(), gram), ("count".to_owned(), count)]);
    example.statistics.insert(site, kinds);
    let expected = &mut example.expected;
    expected.tolerance = 1e-6;
    expected.codes.insert(module, ExampleCodes { codes: vec![1, -1, 1], scales: vec![1.2], zero_points: None });
    let facts = json!({ "loss_before": 2.0, "loss_after": 0.08, "clipped_groups": 1, "groups": 1 });
    expected.facts = facts.as_object().cloned().unwrap_or_default();
    Ok(example)
}

workbench_api::export_quantizer!(AwqClip);
