//! The macros that make a library out of a plugin.

/// Exports a [`Quantizer`](crate::sdk::Quantizer): one linear at a time.
#[macro_export]
macro_rules! export_quantizer {
    ($plugin:ty) => {
        $crate::__export!($plugin, Quantizer, Linear, [], |plugin, linear, host| {
            let quantized = $crate::sdk::Quantizer::quantize(plugin, linear, host)?;
            host.put_codes(&linear.module, &quantized)?;
            Ok(quantized.facts)
        });
    };
}

/// Exports a [`BlockQuantizer`](crate::sdk::BlockQuantizer): one decoder block at a time.
#[macro_export]
macro_rules! export_block_quantizer {
    ($plugin:ty) => {
        $crate::__export!($plugin, Quantizer, Block, [], |plugin, block, host| {
            $crate::sdk::BlockQuantizer::quantize_block(plugin, block, host)
        });
    };
}

/// Exports a [`Transform`](crate::sdk::Transform).
#[macro_export]
macro_rules! export_transform {
    ($plugin:ty) => {
        $crate::__export!($plugin, Transform, Transform, [], |plugin, model, host| {
            $crate::sdk::Transform::transform(plugin, model, host)
        });
    };
}

/// Exports a [`Trainer`](crate::sdk::Trainer).
#[macro_export]
macro_rules! export_trainer {
    ($plugin:ty) => {
        $crate::__export!(
            $plugin,
            Trainer,
            Train,
            [
                const TAKES_SCHEMES: bool = <$plugin as $crate::sdk::Trainer>::TAKES_SCHEMES;
                const SCHEME_OPTIONAL: bool = <$plugin as $crate::sdk::Trainer>::SCHEME_OPTIONAL;
                const STARTS_FROM: $crate::descriptor::StartsFrom = <$plugin as $crate::sdk::Trainer>::STARTS_FROM;
            ],
            |plugin, model, host| { $crate::sdk::Trainer::train(plugin, model, host) }
        );
    };
}

// abi_stable's own export attribute names its crate by an absolute path, so every plugin would have to depend on it; its
// expansion is short enough to write down.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($plugin:ty, $kind:ident, $scope:ident, [$($own:tt)*], |$this:ident, $job:ident, $host:ident| $run:block) => {
        mod workbench_plugin {
            #[allow(unused_imports)]
            use super::*;
            use $crate::abi::abi_stable::library as loader;

            struct Export;

            impl $crate::sdk::export::Export for Export {
                type Plugin = $plugin;
                const KIND: $crate::descriptor::Kind = $crate::descriptor::Kind::$kind;
                const SCOPE: $crate::descriptor::Scope = $crate::descriptor::Scope::$scope;
                const VERSION: &'static str = env!("CARGO_PKG_VERSION");
                const SOURCE_DIGEST: Option<&'static str> = option_env!("WORKBENCH_SOURCE_DIGEST");
                $($own)*

                fn run(
                    $this: &$plugin,
                    job: &$crate::job::Job,
                    $host: &$crate::sdk::Host<'_>,
                ) -> Result<$crate::job::Facts, $crate::error::Error> {
                    match job {
                        $crate::job::Job::$scope($job) => $run,
                        other => Err($crate::error::Error::unsupported(format!("no job of scope {}", other.scope()))),
                    }
                }
            }

            #[allow(unsafe_code)]
            #[unsafe(no_mangle)]
            pub static WORKBENCH_PLUGIN_PROBE: $crate::abi::Probe = $crate::abi::Probe::new(
                <$plugin as $crate::sdk::Plugin>::NAME,
                env!("CARGO_PKG_VERSION"),
                <$plugin as $crate::sdk::Plugin>::GRID_VERSION,
                option_env!("WORKBENCH_SOURCE_DIGEST"),
            );

            fn module() -> $crate::abi::PluginModuleRef {
                $crate::sdk::export::module::<Export>()
            }

            extern "C" fn load() -> loader::RootModuleResult {
                loader::__call_root_module_loader(module)
            }

            // SAFETY: `load` returns a reference to the very module type that is named here.
            #[allow(unsafe_code)]
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static ROOT_MODULE: loader::LibHeader = unsafe {
                loader::LibHeader::from_constructor::<$crate::abi::PluginModuleRef>(load, loader::CheckTypeLayout::Yes)
            };

            #[cfg(test)]
            #[test]
            fn examples_give_what_they_promise() {
                $crate::testing::assert_examples(module());
            }
        }
    };
}
