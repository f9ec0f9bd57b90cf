//! The contract between the workbench and its plugins.
//!
//! A plugin is a dynamic library. Across its boundary travel JSON text and tensor views, nothing else: parameters, jobs
//! and reports are JSON, weights are pointers with a dtype and a shape. The binary interface ([`abi`]) is therefore so
//! small that a new method rarely changes it, and a plugin author never sees it: [`sdk`] makes ordinary Rust of it.
//!
//! ```ignore
//! use workbench_api::sdk::*;
//!
//! pub struct Rtn;
//! impl Plugin for Rtn { /* name, parameters, example */ }
//! impl Quantizer for Rtn {
//!     fn quantize(&self, linear: &Linear, host: &Host<'_>) -> Result<QuantizedLinear, Error> { /* … */ }
//! }
//! workbench_api::export_quantizer!(Rtn);
//! ```
//!
//! The crate knows neither candle nor the host and, but for its helpers for tests and build scripts, does no I/O. The
//! host's half of the contract, the trait that a node process implements, is [`host::HostServices`].

#[cfg(feature = "sdk")]
pub mod abi;
#[cfg(feature = "sdk")]
pub mod accepts;
#[cfg(feature = "build")]
pub mod build;
#[cfg(feature = "sdk")]
pub mod descriptor;
#[cfg(feature = "sdk")]
pub mod error;
#[cfg(feature = "sdk")]
pub mod example;
#[cfg(feature = "sdk")]
mod export;
#[cfg(feature = "sdk")]
mod heartbeat;
#[cfg(feature = "sdk")]
pub mod host;
#[cfg(feature = "sdk")]
pub mod job;
#[cfg(feature = "sdk")]
pub mod rollouts;
#[cfg(feature = "sdk")]
pub mod sdk;
#[cfg(feature = "sdk")]
pub mod testing;

#[cfg(feature = "sdk")]
pub use schemars;
#[cfg(feature = "sdk")]
pub use serde_json;

/// Major number of the plugin ABI.
pub const ABI_MAJOR: u32 = decimal(env!("CARGO_PKG_VERSION_MAJOR"));

/// Minor number of the plugin ABI. While the major number is 0, every minor number is an ABI of its own.
pub const ABI_MINOR: u32 = decimal(env!("CARGO_PKG_VERSION_MINOR"));

/// Reads a decimal number at compile time.
const fn decimal(text: &str) -> u32 {
    let (bytes, mut at, mut value) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        value = value * 10 + (bytes[at] - b'0') as u32;
        at += 1;
    }
    value
}
