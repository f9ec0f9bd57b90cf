//! An example whose result can be worked out by hand.

use serde_json::json;
use workbench_api::job::{Job, Linear};
use workbench_api::sdk::{Error, Example, ExampleCodes, ExampleTensor, Expected};
use workbench_plugin_model::one_step_by_hand;
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype, Strategy};

/// The step of `sft`'s example with two weights of codes: values are codes 2 on the diagonal at a step of .5, so that those of token i
/// are 2 e_i, and the output adds their sum to channel 3, at a step of .25.
///
/// Queries and keys are zero, and attention takes the mean of the values so far: the block adds c e_3 to every token, with
/// c = 4 · .5 · .25 = .5. The final norm makes 2 / √(1 + c²) of the channel of the token itself, and c times that of channel 3, which
/// are the logits. The right token has the logit 0 twice, and once that of channel 3, so that the loss is
/// ln(e^u + e^cu + 2) - cu / 3 with u = 2 / √1.25. It falls as c rises, c is the product of both scales, and AdamW's first step moves
/// each of them by the learning rate, upwards.
pub(crate) fn examples() -> Result<Vec<Example>, Error> {
    const RATE: f32 = 0.125;
    let block = "model.layers.0.self_attn";
    let [values, output] = ["v_proj", "o_proj"].map(|name| format!("{block}.{name}"));
    let args = QuantizationArgs { num_bits: 8, strategy: Strategy::Tensor, ..QuantizationArgs::default() };
    let grid = json!(Grid::new(&args, StorageDtype::F32, Conventions::default())?);
    let linear = |module: &String| Linear {
        module: module.clone(),
        weight: format!("{module}.weight"),
        grid: grid.clone(),
        ..Linear::default()
    };
    let mut example = one_step_by_hand().parameter("warmup_ratio", 0.0).parameter("learning_rate", f64::from(RATE));
    if let Job::Train(model) = &mut example.job {
        model.linears = vec![linear(&values), linear(&output)];
        model.codes = true;
    }
    let (c, u) = (0.5, 2.0 / 1.25_f64.sqrt());
    let loss = (u.exp() + (c * u).exp() + 2.0).ln() - c * u / 3.0;
    let facts = json!({ "steps": 1, "first_loss": loss, "parameters": 2, "scales": { "all": 2, "changed": 2 } });
    example.expected =
        Expected { facts: facts.as_object().cloned().unwrap_or_default(), tolerance: 1e-4, ..Expected::default() };
    let diagonal: Vec<i8> = (0..16).map(|i| if i % 5 == 0 { 2 } else { 0 }).collect();
    let last_row: Vec<i8> = (0..16).map(|i| i8::from(i >= 12)).collect();
    for (module, codes, scale) in [(values, diagonal, 0.5), (output, last_row, 0.25)] {
        let numbers: Vec<f32> = codes.iter().map(|code| f32::from(*code) * scale).collect();
        let model = example.inputs.entry("model".to_owned()).or_default();
        model.tensors.insert(format!("{module}.weight"), ExampleTensor::f32(&[4, 4], &numbers));
        let coded = |scale| ExampleCodes { codes: codes.clone(), scales: vec![scale], zero_points: None };
        example.codes.insert(module.clone(), coded(scale));
        example.expected.codes.insert(module, coded(scale + RATE));
    }
    Ok(vec![example])
}
