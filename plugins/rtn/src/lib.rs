//! The quantizer `rtn`: round-to-nearest, the baseline of all others. Wants no calibration data.

mod algorithm;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use workbench_api::sdk::*;
use workbench_plugin_model::{grid_error, quantized_linear};
use workbench_quant::{Conventions, GRID_VERSION, Grid, Matrix, QuantizationArgs, StorageDtype, Strategy};

/// The scheme says everything; there is nothing else to choose.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {}

struct Rtn;

impl Plugin for Rtn {
    type Parameters = Parameters;
    const NAME: &'static str = "rtn";
    const SUMMARY: &'static str = "Round-to-nearest: each weight to the nearest point of its grid";
    const PAPER: Option<&'static str> = Some("Jacob et al. 2018, arXiv:1712.05877");
    const GRID_VERSION: u32 = GRID_VERSION;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let golden: Value = serde_json::from_str(include_str!("golden.json"))?;
        Ok(vec![golden_example(&golden, true)?, golden_example(&golden, false)?])
    }
}

impl Quantizer for Rtn {
    fn quantize(&self, linear: &Linear, host: &Host<'_>) -> Result<QuantizedLinear, Error> {
        host.check_cancelled()?;
        let grid: Grid = linear.grid()?;
        let weight = host.tensor(&linear.weight)?;
        let (rows, columns) = weight.matrix_shape()?;
        let values = weight.to_f32()?;
        let rounded = Matrix::new(&values, rows, columns)
            .and_then(|matrix| algorithm::round_to_nearest(matrix, &grid))
            .map_err(|error| grid_error(&error).context(format!("rounding `{}`", linear.weight)))?;
        let facts = Facts::from_iter([("relative_error".to_owned(), json!(rounded.relative_error))]);
        Ok(quantized_linear(linear, rounded.weight, facts))
    }
}

/// Rows of a 48 x 256 weight (a plain one, one scaled up, one that starts with zeros, one without negative and one without
/// positive values) in groups of 32, with the codes that compressed-tensors 0.19.0 gives them in f32.
fn golden_example(golden: &Value, symmetric: bool) -> Result<Example, Error> {
    let (case, title) = if symmetric {
        ("w4_sym_g32", "4 bits, symmetric, groups of 32, as compressed-tensors rounds it")
    } else {
        ("w4_asym_g32", "4 bits, asymmetric, groups of 32, as compressed-tensors rounds it")
    };
    let args = QuantizationArgs {
        num_bits: 4,
        symmetric,
        group_size: Some(32),
        strategy: Strategy::Group,
        ..QuantizationArgs::default()
    };
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default())?;
    let (module, weight) =
        ("model.layers.0.mlp.down_proj".to_owned(), "model.layers.0.mlp.down_proj.weight".to_owned());
    let mut model = ExampleModel::default();
    let shape: Vec<usize> = serde_json::from_value(golden["shape"].clone())?;
    let values: Vec<f64> = serde_json::from_value(golden["weight"].clone())?;
    model.tensors.insert(weight.clone(), ExampleTensor { dtype: Dtype::F32, shape, values });
    let job =
        Job::Linear(Linear { module: module.clone(), weight, grid: serde_json::to_value(&grid)?, ..Linear::default() });
    let mut example = Example::new(title, job, model);
    example.expected.codes.insert(module, serde_json::from_value(golden[case].clone())?);
    Ok(example)
}

workbench_api::export_quantizer!(Rtn);
