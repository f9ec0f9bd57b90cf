//! Crashes in a constructor, before anything in it is called.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Parameters {}

struct CrashOnLoad;

impl Plugin for CrashOnLoad {
    type Parameters = Parameters;
    const NAME: &'static str = "crash_on_load";
    const SUMMARY: &'static str = "Crashes in a constructor, before anything in it is called.";
    const GRID_VERSION: u32 = 0;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(Vec::new())
    }
}

impl Transform for CrashOnLoad {
    fn transform(&self, _: &Model, _: &Host<'_>) -> Result<Facts, Error> {
        Ok(Facts::new())
    }
}

workbench_api::export_transform!(CrashOnLoad);

extern "C" fn crash() {
    // SAFETY: none; this is the fault. Address 8 is never mapped.
    #[allow(unsafe_code)]
    unsafe {
        std::ptr::write_volatile(8 as *mut u8, 1);
    }
}

#[allow(unsafe_code)]
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static CONSTRUCTOR: extern "C" fn() = crash;
