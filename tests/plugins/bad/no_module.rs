//! A probe, but no root module behind it.

use workbench_api::abi::Probe;

/// The probe of a plugin that exports nothing else.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub static WORKBENCH_PLUGIN_PROBE: Probe = Probe::new("no_module", "1.0.0", 0, None);
