//! Plugins from the host's side: find, probe, load, run, check, begin a new one.
//!
//! A plugin is a stranger's library. Loading one runs its constructors, so whoever plans loads none: [`Registry`] has each
//! file probed by a short-lived child ([`probe_main`]) and remembers the answer. A node process loads the one file that it
//! runs ([`Loaded`]), behind checks of the ABI, the grid version and the memory layout, and everything that the plugin puts
//! is checked before it is stored. What a plugin can do to its process (abort, hang, eat memory) ends the process, which
//! is why it is not this one.

mod check;
mod child;
mod gate;
mod layout;
mod load;
mod new;
mod probe;
mod problem;
mod registry;
mod validate;

#[cfg(test)]
mod tests;

pub use check::{CheckReport, Step, check, check_main};
pub use child::{ChildCommand, this_program};
pub use load::{Loaded, Running};
pub use new::{ApiSource, new};
pub use probe::{ProbeCache, probe_main};
pub use problem::{Problem, ProblemKind};
pub use registry::{PluginInfo, Registry, SearchFolder, search_folders};
pub use validate::{parameters, validate, validate_noting};
pub use workbench_api::descriptor::{Descriptor, Kind, Scope, StartsFrom};
pub use workbench_api::host::{CodesView, Heartbeat, HostServices};
