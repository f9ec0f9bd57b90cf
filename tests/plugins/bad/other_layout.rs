//! The right ABI version, but types that are laid out differently: what a careless change of the contract would give.

use abi_stable::library::RootModule;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RResult, RStr, RString};
use abi_stable::{StableAbi, package_version_strings};
use workbench_api::abi::{PluginError, Probe};

/// The probe of a plugin that claims to fit.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub static WORKBENCH_PLUGIN_PROBE: Probe = Probe::new("other_layout", "1.0.0", 0, None);

/// As `workbench_api::abi::PluginModule`, but for what `create` takes and returns.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef)))]
#[sabi(missing_field(option))]
pub struct PluginModule {
    /// As it should be.
    pub descriptor: extern "C" fn() -> RResult<RString, PluginError>,
    /// Not as it should be.
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(parameters: RStr<'_>) -> RResult<u32, PluginError>,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "workbench_plugin";
    const NAME: &'static str = "workbench_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

extern "C" fn descriptor() -> RResult<RString, PluginError> {
    RResult::ROk(RString::new())
}

extern "C" fn create(_: RStr<'_>) -> RResult<u32, PluginError> {
    RResult::ROk(0)
}

#[abi_stable::export_root_module]
fn module() -> PluginModuleRef {
    PluginModule { descriptor, create }.leak_into_prefix()
}
