//! Carries other rounding rules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Parameters {}

struct OtherGrid;

impl Plugin for OtherGrid {
    type Parameters = Parameters;
    const NAME: &'static str = "other_grid";
    const SUMMARY: &'static str = "Carries other rounding rules.";
    const GRID_VERSION: u32 = workbench_quant::GRID_VERSION + 1;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(Vec::new())
    }
}

impl Transform for OtherGrid {
    fn transform(&self, _: &Model, _: &Host<'_>) -> Result<Facts, Error> {
        Ok(Facts::new())
    }
}

workbench_api::export_transform!(OtherGrid);
