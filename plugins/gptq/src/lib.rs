//! The quantizer `gptq`: rounds the columns of a weight one after the other and lets later columns make up for the errors of
//! earlier ones, as the Gram matrix of the layer's inputs tells (Frantar et al. 2022, arXiv:2210.17323).

mod columns;
mod factor;
mod order;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use workbench_api::sdk::*;
use workbench_plugin_model::{grid_error, quantized_linear};
use workbench_quant::{
    Conventions, GRID_VERSION, Grid, GridError, Matrix, QuantizationArgs, QuantizedWeight, StorageDtype, Strategy,
};

pub use columns::{Rounded, round_columns};
pub use factor::{Factor, Failure};
pub use order::ActOrder;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Order in which columns are rounded; that of the scheme's `actorder` if not given, and else `static`.
    #[schemars(extend("aliases" = ["actorder"]))]
    act_order: Option<ActOrder>,
    /// Share of the mean of the Hessian's diagonal that is added to the diagonal.
    #[schemars(range(min = 0.0, max = 1.0), extend("aliases" = ["dampening_frac", "percdamp", "damp_percent"]))]
    dampening_fraction: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { act_order: None, dampening_fraction: 0.01 }
    }
}

struct Gptq {
    parameters: Parameters,
    /// The factor of the last site: the linears that read it come one after the other.
    last: Mutex<Option<(Key, Found)>>,
}

/// The factor of a site, or why its columns have to be rounded to nearest.
type Found = Arc<Result<Factor, String>>;

/// What a factor depends on.
#[derive(Clone, PartialEq)]
struct Key {
    site: String,
    order: ActOrder,
    group: usize,
}

impl Plugin for Gptq {
    type Parameters = Parameters;
    const NAME: &'static str = "gptq";
    const SUMMARY: &'static str = "GPTQ: later columns make up for the rounding errors of earlier ones";
    const PAPER: Option<&'static str> = Some("Frantar et al. 2022, arXiv:2210.17323");
    const GRID_VERSION: u32 = GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        let share = parameters.dampening_fraction;
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::input(format!("`dampening_fraction` is {share}, not between 0 and 1")));
        }
        Ok(Self { parameters, last: Mutex::default() })
    }

    fn needs(&self) -> Needs {
        Needs::nothing().statistic(Statistic::Gram).statistic(Statistic::Count)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let golden: Value = serde_json::from_str(include_str!("golden.json"))?;
        let golden = golden["cases"].as_array().into_iter().flatten().map(|case| golden_example(&golden, case));
        golden.chain([silent_example(&[0, 3]), silent_example(&[0, 1, 2, 3])]).collect()
    }
}

impl Quantizer for Gptq {
    fn quantize(&self, linear: &Linear, host: &Host<'_>) -> Result<QuantizedLinear, Error> {
        host.check_cancelled()?;
        let grid: Grid = linear.grid()?;
        let weight = host.tensor(&linear.weight)?;
        let (rows, columns) = weight.matrix_shape()?;
        // Before the weight is widened, because nothing takes more memory.
        let (factor, tokens) = self.factor(linear, &grid, columns, host)?;
        let values = weight.to_f32()?;
        // Scales come from the weight as it is, so that each group has its own whatever the order.
        let wrong = |error: GridError| grid_error(&error).context(format!("rounding `{}`", linear.weight));
        let parameters =
            Matrix::new(&values, rows, columns).and_then(|matrix| grid.parameters(matrix)).map_err(wrong)?;
        host.check_cancelled()?;
        let mut facts = Facts::from_iter([("tokens".to_owned(), json!(tokens))]);
        let codes = match &*factor {
            Ok(factor) => {
                let rounder = grid.column_rounder(&parameters, rows, columns).map_err(wrong)?;
                let rounded = round_columns(&values, factor, &rounder);
                if !rounded.loss.is_finite() {
                    let message = format!("the loss of `{}` is not finite", linear.module);
                    return Err(Error::new(ErrorKind::Numeric, message));
                }
                facts.insert("loss".to_owned(), json!(rounded.loss));
                note_silent(&mut facts, &factor.silent(), columns, SILENT_WEIGHTS);
                if factor.raised > 0 {
                    facts.insert("dampening_raised_to".to_owned(), json!(factor.dampening));
                }
                rounded.codes
            }
            Err(reason) => {
                facts.insert(ROUNDED_TO_NEAREST.to_owned(), json!(reason));
                Matrix::new(&values, rows, columns)
                    .and_then(|matrix| grid.quantize(matrix, &parameters))
                    .map_err(wrong)?
            }
        };
        let weight = QuantizedWeight { grid, shape: [rows, columns], codes, parameters };
        Ok(quantized_linear(linear, weight, facts))
    }
}

/// The fact that says why a whole linear was rounded to nearest.
const ROUNDED_TO_NEAREST: &str = "rounded_to_nearest";

/// What becomes of the weights of channels that were always zero.
const SILENT_WEIGHTS: &str = "had their weights rounded to nearest";

impl Gptq {
    /// The factor for a linear's site, and the number of tokens behind it. What is unusual about a site is logged with the first
    /// linear that reads it.
    fn factor(&self, linear: &Linear, grid: &Grid, columns: usize, host: &Host<'_>) -> Result<(Found, f64), Error> {
        let site = linear.site.clone().ok_or_else(|| Error::input(format!("`{}` reads no site", linear.module)))?;
        let tokens = host.required_statistics(&site, Statistic::Count)?.values::<f64>()?.first().copied();
        let tokens = tokens.unwrap_or_default();
        let chosen = grid.args().actorder.map(|_| ActOrder::Static);
        let order = match (self.parameters.act_order, chosen) {
            (Some(own), Some(scheme)) if own != scheme => {
                return Err(Error::input(format!("`act_order` is {own:?}, but the scheme's `actorder` is static"))
                    .with_hint("give one of them"));
            }
            (own, scheme) => own.or(scheme).unwrap_or_default(),
        };
        let group = grid.args().group_size.unwrap_or(columns);
        let key = Key { site: site.clone(), order, group: if order == ActOrder::GroupAware { group } else { 0 } };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, factor)) = &*last
            && *known == key
        {
            return Ok((factor.clone(), tokens));
        }
        *last = None;
        let gram = host.required_statistics(&site, Statistic::Gram)?;
        let factor = Factor::new(gram.values()?, columns, tokens, self.parameters.dampening_fraction, order, key.group);
        let factor = match factor {
            Ok(factor) => Ok(factor),
            Err(Failure::Unusable(reason)) => Err(reason),
            Err(Failure::Input(error)) => return Err(error.context(format!("factoring the Hessian of {site}"))),
        };
        if let Some(unusual) = unusual(&factor, columns) {
            host.log(Level::Warn, &format!("{site}: {unusual}"));
        }
        let factor = Arc::new(factor);
        *last = Some((key, factor.clone()));
        Ok((factor, tokens))
    }
}

/// What a user should know about a site's factor.
fn unusual(factor: &Result<Factor, String>, columns: usize) -> Option<String> {
    let factor = match factor {
        Ok(factor) => factor,
        Err(reason) => return Some(format!("{reason}: what reads it is rounded to nearest")),
    };
    let mut parts = Vec::new();
    let silent = factor.silent();
    if let Some(first) = silent.first() {
        parts.push(format!(
            "{} of {columns} channels (the first is {first}) are zero for every calibration token: their weights are rounded to \
             nearest",
            silent.len()
        ));
    }
    if factor.raised > 0 {
        parts.push(format!("dampening raised to {}", factor.dampening));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// A weight of 3 x 16 with groups of 8, whose codes an independent loop in f64 found.
fn golden_example(golden: &Value, case: &Value) -> Result<Example, Error> {
    let (module, site) = ("model.layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj.input");
    let weight = format!("{module}.weight");
    let symmetric = case["symmetric"].as_bool().unwrap_or_default();
    let args = QuantizationArgs {
        num_bits: 4,
        symmetric,
        group_size: Some(8),
        strategy: Strategy::Group,
        ..QuantizationArgs::default()
    };
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default())?;
    let mut model = ExampleModel::default();
    let numbers = |value: &Value| serde_json::from_value::<Vec<f64>>(value.clone());
    let tensor = |dtype, shape: &[usize], values| ExampleTensor { dtype, shape: shape.to_vec(), values };
    model.tensors.insert(weight.clone(), tensor(Dtype::F32, &[3, 16], numbers(&golden["weight"])?));
    let job = Job::Linear(Linear {
        module: module.to_owned(),
        weight,
        site: Some(site.to_owned()),
        grid: serde_json::to_value(&grid)?,
        ..Linear::default()
    });
    let order = case["act_order"].clone();
    let title = format!("4 bits, groups of 8, symmetric: {symmetric}, act_order: {order}");
    let mut example = Example::new(&title, job, model).parameter("act_order", order);
    let statistics = [
        ("gram".to_owned(), tensor(Dtype::F32, &[16, 16], numbers(&golden["gram"])?)),
        ("count".to_owned(), tensor(Dtype::F64, &[1], vec![40.0])),
    ];
    example.statistics.insert(site.to_owned(), statistics.into_iter().collect());
    example.expected.codes.insert(module.to_owned(), serde_json::from_value(case["codes"].clone())?);
    example.expected.tolerance = 1e-5;
    Ok(example)
}

/// A row of four weights, of whose uncorrelated inputs some are always zero. With 4 bits, symmetric, the scale is 7.5 / 7.5 and
/// every weight is rounded to nearest, those that no input meets too.
fn silent_example(silent: &[usize]) -> Result<Example, Error> {
    let args =
        QuantizationArgs { num_bits: 4, symmetric: true, strategy: Strategy::Channel, ..QuantizationArgs::default() };
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default())?;
    let (module, site) = ("model.layers.0.mlp.down_proj".to_owned(), "model.layers.0.mlp.down_proj.input".to_owned());
    let weight = format!("{module}.weight");
    let mut model = ExampleModel::default();
    model.tensors.insert(weight.clone(), ExampleTensor::f32(&[1, 4], &[7.5, -3.2, 1.2, -5.9]));
    let linear = Linear {
        module: module.clone(),
        weight,
        site: Some(site.clone()),
        grid: serde_json::to_value(&grid)?,
        ..Linear::default()
    };
    let title = format!("{} of 4 input channels are always zero", silent.len());
    let mut example = Example::new(&title, Job::Linear(linear), model);
    let excited = |k: usize| f32::from(u8::from(k / 4 == k % 4 && !silent.contains(&(k / 4))));
    let gram = ExampleTensor::f32(&[4, 4], &(0..16).map(excited).collect::<Vec<_>>());
    let count = ExampleTensor { dtype: Dtype::F64, shape: vec![1], values: vec![2.0] };
    example.statistics.insert(site, [("gram".to_owned(), gram), ("count".to_owned(), count)].into_iter().collect());
    let expected = &mut example.expected;
    expected.codes.insert(module, ExampleCodes { codes: vec![7, -3, 1, -6], scales: vec![1.0], zero_points: None });
    if silent.len() == 4 {
        let reason = "the input is zero for every calibration token";
        expected.facts.insert(ROUNDED_TO_NEAREST.to_owned(), json!(reason));
    } else {
        note_silent(&mut expected.facts, silent, 4, SILENT_WEIGHTS);
    }
    Ok(example)
}

workbench_api::export_quantizer!(Gptq);
