//! Calls a function that no library has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Parameters {}

struct Unresolved;

impl Plugin for Unresolved {
    type Parameters = Parameters;
    const NAME: &'static str = "unresolved";
    const SUMMARY: &'static str = "Calls a function that no library has.";
    const GRID_VERSION: u32 = 0;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(Vec::new())
    }
}

impl Transform for Unresolved {
    fn transform(&self, _: &Model, _: &Host<'_>) -> Result<Facts, Error> {
        Ok(Facts::new())
    }
}

workbench_api::export_transform!(Unresolved);

#[allow(unsafe_code)]
unsafe extern "C" {
    fn workbench_function_that_nobody_wrote();
}

/// Keeps the reference.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub extern "C" fn call_it() {
    // SAFETY: never called.
    unsafe { workbench_function_that_nobody_wrote() }
}
