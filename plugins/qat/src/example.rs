//! An example whose result can be worked out by hand.

use serde_json::json;
use workbench_api::job::{Job, Linear};
use workbench_api::sdk::{Error, Example, ExampleCodes, ExampleTensor, Expected};
use workbench_plugin_model::one_step_by_hand;
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype, Strategy};

/// The step of `sft`'s example with a weight on a grid: it is zero, gets no gradient, and all its codes are zero.
pub(crate) fn examples() -> Result<Vec<Example>, Error> {
    let module = "model.layers.0.self_attn.v_proj";
    let args = QuantizationArgs { num_bits: 8, strategy: Strategy::Channel, ..QuantizationArgs::default() };
    let grid = json!(Grid::new(&args, StorageDtype::F32, Conventions::default())?);
    let mut example = one_step_by_hand().parameter("loss", "cross_entropy").parameter("warmup_ratio", 0.0);
    let weight = format!("{module}.weight");
    if let Job::Train(model) = &mut example.job {
        model.linears = vec![Linear { module: module.to_owned(), weight: weight.clone(), grid, ..Linear::default() }];
    }
    let Expected { facts, tensors, .. } = &mut example.expected;
    facts.insert("codes".to_owned(), json!({ "all": 16, "changed": 0 }));
    let zeros = ExampleTensor::f32(&[4, 4], &[0.0; 16]);
    tensors.insert("model.layers.0.self_attn.o_proj.weight".to_owned(), zeros);
    let codes = ExampleCodes { codes: vec![0; 16], scales: vec![0.0; 4], zero_points: None };
    example.expected.codes.insert(module.to_owned(), codes);
    Ok(vec![example])
}
