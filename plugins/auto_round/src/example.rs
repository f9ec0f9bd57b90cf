//! An example whose result can be worked out by hand.

use serde_json::json;
use workbench_api::sdk::{Error, Example, ExampleCodes};
use workbench_plugin_model::one_block_by_hand;

/// Two measurements with a step between them. The weights .55 and .9 are both rounded to 1: the output is .55 too large. The step takes .2
/// off every offset, and .55 becomes .35, which is rounded to 0: the output is .45 too small, which is less.
pub(crate) fn examples() -> Result<Vec<Example>, Error> {
    let mut example = one_block_by_hand("one step by hand", [0.55, 0.9, 0.0, 3.0], [1.0; 4])?
        .parameter("steps", 2)
        .parameter("learning_rate", 0.2)
        .parameter("range_learning_rate", 0.0);
    let loss = |error: f64| error * error / 4.0;
    let expected = &mut example.expected;
    for (name, fact) in [("loss_before", loss(0.55)), ("loss_after", loss(0.45)), ("kept_loss", loss(0.45))] {
        expected.facts.insert(name.to_owned(), json!(fact));
    }
    expected.facts.insert("kept_step".to_owned(), json!(2));
    expected.facts.insert("codes".to_owned(), json!({ "all": 16, "changed": 1 }));
    // Rows of zeros have the zero-point 0.
    let codes: Vec<i8> = [-2, -1, -2, 1].into_iter().chain([0; 12]).collect();
    let codes = ExampleCodes { codes, scales: vec![1.0, 0.0, 0.0, 0.0], zero_points: Some(vec![-2, 0, 0, 0]) };
    expected.codes.insert("model.layers.0.self_attn.v_proj".to_owned(), codes);
    Ok(vec![example])
}
