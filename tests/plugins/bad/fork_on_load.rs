//! Leaves a process behind in a constructor, which holds all that it inherits, and one that has left its group.

#![allow(clippy::print_stdout)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Parameters {}

struct ForkOnLoad;

impl Plugin for ForkOnLoad {
    type Parameters = Parameters;
    const NAME: &'static str = "fork_on_load";
    const SUMMARY: &'static str =
        "Leaves a process behind in a constructor, which holds all that it inherits, and one that has left its group.";
    const GRID_VERSION: u32 = 0;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(Vec::new())
    }
}

impl Transform for ForkOnLoad {
    fn transform(&self, _: &Model, _: &Host<'_>) -> Result<Facts, Error> {
        Ok(Facts::new())
    }
}

workbench_api::export_transform!(ForkOnLoad);

#[allow(unsafe_code)]
extern "C" fn fork() {
    // SAFETY: the children only call functions that a child of a process with threads may call.
    unsafe {
        for leave_group in [false, true] {
            if libc::fork() == 0 {
                if leave_group {
                    libc::setsid();
                }
                libc::sleep(600);
                libc::_exit(0);
            }
        }
    }
    println!("workbench-answer:{{\"problem\":null}}");
}

#[allow(unsafe_code)]
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static CONSTRUCTOR: extern "C" fn() = fork;
