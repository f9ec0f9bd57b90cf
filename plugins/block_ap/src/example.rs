//! An example whose result can be worked out by hand.

use serde_json::json;
use workbench_api::sdk::{Error, Example, ExampleCodes, ExampleTensor};
use workbench_plugin_model::one_block_by_hand;

/// One step. The weight .9 is rounded to 1, so that the output is 2 for 1.8, and the loss .2² / 4. AdamW's first step moves all that has
/// a gradient by its rate: the weight, the scale (what is rounded up grows with it) and the gain of the channel fall by 1 / 16. The
/// weight's code stays, and the output is 15/16 · 2 · 15/16.
pub(crate) fn examples() -> Result<Vec<Example>, Error> {
    const RATE: f32 = 0.0625;
    let mut example = one_block_by_hand("one step by hand", [0.9, 0.0, 0.0, 3.0], [2.0, 0.0, 0.0, 0.0])?
        .parameter("weight_learning_rate", f64::from(RATE))
        .parameter("quantizer_learning_rate", f64::from(RATE))
        .parameter("max_steps", 1);
    let fell = 1.0 - RATE;
    let after = (2.0 * fell * fell - 1.8).powi(2) / 4.0;
    let expected = &mut example.expected;
    expected.facts.insert("loss_before".to_owned(), json!(0.01));
    expected.facts.insert("loss_after".to_owned(), json!(after));
    expected.facts.insert("codes".to_owned(), json!({ "all": 16, "changed": 0 }));
    expected.facts.insert("steps".to_owned(), json!(1));
    // Rows of zeros have the zero-point 0.
    let codes: Vec<i8> = [-1, -2, -2, 1].into_iter().chain([0; 12]).collect();
    let codes = ExampleCodes { codes, scales: vec![fell, 0.0, 0.0, 0.0], zero_points: Some(vec![-2, 0, 0, 0]) };
    expected.codes.insert("model.layers.0.self_attn.v_proj".to_owned(), codes);
    for (norm, first) in [("input_layernorm", fell), ("post_attention_layernorm", 1.0)] {
        let name = format!("model.layers.0.{norm}.weight");
        expected.tensors.insert(name, ExampleTensor::f32(&[4], &[first, 1.0, 1.0, 1.0]));
    }
    Ok(vec![example])
}
