//! The root module of a plugin and the object that it creates.

use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RBox, RResult, RStr, RString};
use abi_stable::{StableAbi, package_version_strings, sabi_trait};

use super::{HostRef, PluginError};

/// The symbol under which abi_stable looks for a library's root module.
pub const ROOT_MODULE_SYMBOL: &str = "_1as_0lib_1header_0root_bmodule_bloader";

/// A plugin with its parameters.
#[sabi_trait]
pub trait Instance: Send + Sync {
    /// What the job wants to have ready: statistics, other inputs, streams (JSON of [`Needs`](crate::job::Needs)).
    fn needs(&self, job: RStr<'_>) -> RResult<RString, PluginError>;
    /// Does the job (JSON of [`Job`](crate::job::Job)) and returns its [`Report`](crate::job::Report).
    #[sabi(last_prefix_field)]
    fn run(&self, job: RStr<'_>, host: HostRef<'_>) -> RResult<RString, PluginError>;
}

/// An owned plugin instance.
pub type PluginObject = Instance_TO<'static, RBox<()>>;

/// What a plugin's library exports. New functions are appended, each optional to older plugins.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef)))]
#[sabi(missing_field(option))]
pub struct PluginModule {
    /// JSON of the [`Descriptor`](crate::descriptor::Descriptor).
    pub descriptor: extern "C" fn() -> RResult<RString, PluginError>,
    /// An instance for the given parameters (JSON).
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(parameters: RStr<'_>) -> RResult<PluginObject, PluginError>,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "workbench_plugin";
    const NAME: &'static str = "workbench_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_exported_symbol_is_the_one_that_abi_stable_looks_for() {
        assert_eq!(super::ROOT_MODULE_SYMBOL, abi_stable::library::ROOT_MODULE_LOADER_NAME);
    }
}
