//! A newer plugin ABI.

use workbench_api::abi::Probe;

/// The probe of a plugin built on another version of the contract.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub static WORKBENCH_PLUGIN_PROBE: Probe = Probe { abi_minor: 9999, ..Probe::new("newer_abi", "1.0.0", 0, None) };
