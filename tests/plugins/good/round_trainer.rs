//! A trainer on grids that learns nothing: it rounds each weight to nearest, puts a norm as it is, and says what it was given. One
//! parameter makes it break the contract.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;
use workbench_api::serde_json::{Value, json};
use workbench_quant::{Conventions, Grid, Matrix, QuantizationArgs, QuantizedWeight, StorageDtype, Strategy};

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Fault {
    /// Does its work.
    #[default]
    None,
    /// Puts codes of another number of bits.
    OtherGrid,
    /// Leaves a linear out.
    Missing,
    /// Puts a weight as it is that is due as codes.
    Dense,
    /// Puts codes of every linear, also of those without a grid.
    Ignored,
    /// Changes the configuration.
    PatchesConfig,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// What goes wrong.
    fault: Fault,
    /// Factor on the norm that it puts.
    norm: Option<f32>,
}

struct RoundTrainer(Parameters);

impl Plugin for RoundTrainer {
    type Parameters = Parameters;
    const NAME: &'static str = "round_trainer";
    const SUMMARY: &'static str = "Rounds to nearest where others would learn";
    const GRID_VERSION: u32 = workbench_quant::GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("train").optional_input("teacher").optional_stream("validation")
    }

    fn accepts() -> Accepts {
        Accepts::any_scheme().weights("num_bits", [3, 4, 8], "others were never tried")
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let args = QuantizationArgs { num_bits: 4, strategy: Strategy::Channel, ..QuantizationArgs::default() };
        let grid = json!(Grid::new(&args, StorageDtype::F32, Conventions::default())?);
        let linear = Linear { module: "a".to_owned(), weight: "a.weight".to_owned(), grid, ..Linear::default() };
        let mut model = ExampleModel::default();
        model.tensors.insert("a.weight".to_owned(), ExampleTensor::f32(&[1, 2], &[7.5, -2.0]));
        model.tensors.insert(NORM.to_owned(), ExampleTensor::f32(&[2], &[1.0, 2.0]));
        let streams = vec![Stream { name: "train".to_owned(), batches: Some(0) }];
        let job =
            Job::Train(Model { linears: vec![linear], inputs: vec!["model".to_owned()], streams, ..Model::default() });
        let mut example = Example::new("nearest, and a norm twice as large", job, model).parameter("norm", 2.0);
        example.streams.insert("train".to_owned(), Vec::new());
        let codes = ExampleCodes { codes: vec![7, -2], scales: vec![1.0], zero_points: None };
        example.expected.codes.insert("a".to_owned(), codes);
        example.expected.tensors.insert(NORM.to_owned(), ExampleTensor::f32(&[2], &[2.0, 4.0]));
        Ok(vec![example])
    }
}

/// The norm that it puts.
const NORM: &str = "model.norm.weight";

/// A weight of which a fact tells, and a linear that a fault leaves out or puts otherwise.
const DOWN: &str = "model.layers.0.mlp.down_proj";

fn rounded(linear: &Linear, grid: &Value, host: &Host<'_>) -> Result<QuantizedLinear, Error> {
    let parsed: Grid = Linear { grid: grid.clone(), ..linear.clone() }.grid()?;
    let weight = host.tensor(&linear.weight)?;
    let (rows, columns) = weight.matrix_shape()?;
    let values = weight.to_f32()?;
    let made = QuantizedWeight::round_to_nearest(Matrix::new(&values, rows, columns)?, &parsed)?;
    Ok(QuantizedLinear {
        codes: made.codes,
        shape: [rows, columns],
        scales: made.parameters.scales,
        scale_shape: made.parameters.shape,
        zero_points: made.parameters.zero_points,
        global_scale: made.parameters.global_scale,
        grid: grid.clone(),
        ..QuantizedLinear::default()
    })
}

/// The sum of a weight's magnitudes.
fn sum(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(value.abs())).sum()
}

/// The first ids of each batch of a stream.
fn firsts(host: &Host<'_>, stream: &str) -> Result<Value, Error> {
    let mut found = Vec::new();
    while let Some(batch) = host.next_batch(stream)? {
        found.push(batch.get("input_ids")?.values::<u32>()?.first().copied());
    }
    Ok(json!(found))
}

impl Trainer for RoundTrainer {
    const TAKES_SCHEMES: bool = true;

    fn train(&self, model: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        let Parameters { fault, norm } = self.0;
        let some = model.linears.iter().map(|linear| &linear.grid).find(|grid| !grid.is_null());
        let mut inputs = 0;
        for linear in &model.linears {
            inputs += usize::from(linear.input_grid::<Grid>()?.is_some());
            let mut grid = linear.grid.clone();
            match fault {
                Fault::Missing if linear.module == DOWN => continue,
                Fault::Dense if linear.module == DOWN => {
                    host.put_tensor(&linear.weight, host.tensor(&linear.weight)?)?;
                    continue;
                }
                Fault::OtherGrid if !grid.is_null() => grid["args"]["num_bits"] = json!(3),
                Fault::Ignored if grid.is_null() => grid = some.cloned().unwrap_or_default(),
                _ if grid.is_null() => continue,
                _ => {}
            }
            host.put_codes(&linear.module, &rounded(linear, &grid, host)?)?;
        }
        if fault == Fault::PatchesConfig {
            host.patch_config(&json!({ "rms_norm_eps": 1.0 }))?;
        }
        let values = host.tensor(NORM)?;
        let scaled: Vec<f32> = values.to_f32()?.iter().map(|value| value * norm.unwrap_or(1.0)).collect();
        host.put_tensor(NORM, Tensor::from_slice(values.shape(), &scaled)?)?;

        let mut facts = Facts::new();
        facts.insert("inputs".to_owned(), json!(model.inputs));
        facts.insert("input_grids".to_owned(), json!(inputs));
        facts.insert("cache".to_owned(), json!(model.kv_cache::<Grid>()?.map(|grid| grid.args().clone())));
        for stream in &model.streams {
            let ids = firsts(host, &stream.name)?;
            facts.insert(stream.name.clone(), json!({ "batches": stream.batches, "first_ids": ids }));
        }
        if model.inputs.iter().any(|name| name == "teacher") {
            let weight = host.tensor_of("teacher", &format!("{DOWN}.weight"))?;
            let layers = host.config_of("teacher")?["num_hidden_layers"].clone();
            facts.insert("teacher".to_owned(), json!({ "sum": sum(&weight.to_f32()?), "layers": layers }));
        }
        Ok(facts)
    }
}

workbench_api::export_trainer!(RoundTrainer);
