//! The binary interface: what is laid out in memory the same way on both sides of a plugin's boundary.
//!
//! Two symbols leave a plugin's library. [`Probe`] is plain C and is read first, so that a file which is no plugin, or one
//! of another ABI, gets a clear error. The root module ([`PluginModule`]) is abi_stable's: its layout, down to every type
//! named in this folder, is compared with the host's before the first call.

// All of it comes from what abi_stable's macros generate; they allow no attributes on it. The unsafe code that is written
// here by hand is marked where it stands.
#![allow(non_camel_case_types, non_local_definitions, unreachable_pub, unsafe_code, unused_qualifications)]

mod error;
mod host;
mod module;
mod probe;
mod tensor;

pub use abi_stable;
pub use error::{ErrorKind, PluginError};
pub use host::{Batch, Codes, HostInterface, HostInterface_TO, HostRef, Level, NamedTensor, Reply, TensorInfo};
pub use module::{Instance, Instance_TO, PluginModule, PluginModuleRef, PluginObject, ROOT_MODULE_SYMBOL};
pub use probe::{PROBE_MAGIC, PROBE_SYMBOL, Probe, Text};
pub use tensor::{Dtype, Element, Tensor};
