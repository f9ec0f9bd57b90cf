//! An example whose result can be worked out by hand.

use std::collections::BTreeMap;

use serde_json::json;
use workbench_api::job::{Job, Stream};
use workbench_api::rollouts::{PROMPTS, Policy, REWARDS};
use workbench_api::sdk::{Dtype, Example, ExampleTensor, Expected};
use workbench_plugin_model::one_step_by_hand;

/// Whatever is written, all of it is worth the same: nothing is better than the rest, and nothing moves.
pub(crate) fn examples() -> Vec<Example> {
    let mut example = one_step_by_hand()
        .parameter("num_generations", 3)
        .parameter("max_completion_length", 1)
        .parameter("prompts_per_step", 1);
    example.name = "equal rewards move nothing".to_owned();
    if let Job::Train(model) = &mut example.job {
        model.streams = vec![Stream { name: PROMPTS.to_owned(), batches: Some(1) }];
        model.policy = Some(Policy { rewards: vec!["same".to_owned()], stop_ids: Vec::new() });
    }
    let prompt = ExampleTensor::integers(Dtype::U32, &[2], &[0, 1]);
    example.streams = BTreeMap::from([(PROMPTS.to_owned(), vec![BTreeMap::from([("input_ids".to_owned(), prompt)])])]);
    let judged = json!({ "rewards": [0.5], "tokens": 1 });
    example.answers = BTreeMap::from([(REWARDS.to_owned(), json!([judged, judged, judged]))]);
    let ones = |name: &String| name.ends_with("norm.weight");
    let names: Vec<String> = example.inputs.values().flat_map(|model| model.tensors.keys().cloned()).collect();
    let tensors = names.into_iter().filter(ones).map(|name| (name, ExampleTensor::f32(&[4], &[1.0; 4]))).collect();
    let facts = json!({ "steps": 1, "first_loss": 0.0, "prompts": 1 });
    let facts = facts.as_object().cloned().unwrap_or_default();
    example.expected = Expected { tensors, facts, ..Expected::default() };
    vec![example]
}
