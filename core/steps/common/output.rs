use serde_json::Value;

/// What a step found out.
pub(in crate::steps) struct StepOutput {
    pub values: Value,
    pub facts: Value,
}
