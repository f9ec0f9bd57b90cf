//! Between the ABI's functions and the author's trait.

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RResult, RStr, RString};
use serde_json::Value;

use super::guard::{guard, take_panics};
use super::{Host, Plugin};
use crate::abi::{HostRef, Instance, Instance_TO, Level, PluginError, PluginModule, PluginModuleRef, PluginObject};
use crate::descriptor::{Descriptor, Kind, Scope, StartsFrom};
use crate::error::{Context, Error};
use crate::job::{Facts, Job, Report};

/// What the export macros say about a plugin, beyond its traits.
pub trait Export: Send + Sync + 'static {
    /// The plugin.
    type Plugin: Plugin;
    /// Its kind.
    const KIND: Kind;
    /// The scope of its jobs.
    const SCOPE: Scope;
    /// Version of its crate.
    const VERSION: &'static str;
    /// What its build script stamped.
    const SOURCE_DIGEST: Option<&'static str>;
    /// Whether it is a trainer that takes schemes.
    const TAKES_SCHEMES: bool = false;
    /// What a trainer starts from.
    const STARTS_FROM: StartsFrom = StartsFrom::Weights;
    /// Whether scripts may leave the scheme out.
    const SCHEME_OPTIONAL: bool = false;
    /// Does a job.
    fn run(plugin: &Self::Plugin, job: &Job, host: &Host<'_>) -> Result<Facts, Error>;
}

/// The root module of an exported plugin.
pub fn module<E: Export>() -> PluginModuleRef {
    PluginModule { descriptor: descriptor::<E>, create: create::<E> }.leak_into_prefix()
}

extern "C" fn descriptor<E: Export>() -> RResult<RString, PluginError> {
    let described = guard(|| {
        let defaults = <E::Plugin as Plugin>::Parameters::default();
        let descriptor = Descriptor {
            name: E::Plugin::NAME.to_owned(),
            kind: E::KIND,
            scope: E::SCOPE,
            version: E::VERSION.to_owned(),
            summary: E::Plugin::SUMMARY.to_owned(),
            paper: E::Plugin::PAPER.map(str::to_owned),
            grid_version: E::Plugin::GRID_VERSION,
            source_digest: E::SOURCE_DIGEST.map(str::to_owned),
            schema: schemars::schema_for!(<E::Plugin as Plugin>::Parameters).to_value(),
            defaults: serde_json::to_value(&defaults)?,
            needs: E::Plugin::new(defaults).map(|plugin| plugin.needs()).unwrap_or_default(),
            accepts: E::Plugin::accepts(),
            takes_experts: E::Plugin::TAKES_EXPERTS,
            quantizes: E::TAKES_SCHEMES,
            starts_from: E::STARTS_FROM,
            scheme_optional: E::SCHEME_OPTIONAL,
            examples: E::Plugin::examples().context(|| "building the examples".to_owned())?,
        };
        Ok(serde_json::to_string(&descriptor)?.into())
    });
    described.map_err(Error::into_abi).into()
}

extern "C" fn create<E: Export>(parameters: RStr<'_>) -> RResult<PluginObject, PluginError> {
    let created = guard(|| {
        let parameters: Value = serde_json::from_str(parameters.as_str())?;
        let parameters = serde_json::from_value(parameters)
            .map_err(|error| Error::parameters(format!("parameters of `{}`: {error}", E::Plugin::NAME)))?;
        let exported = Exported::<E>(E::Plugin::new(parameters)?);
        Ok(Instance_TO::from_value(exported, TD_Opaque))
    });
    created.map_err(Error::into_abi).into()
}

struct Exported<E: Export>(E::Plugin);

fn job<E: Export>(json: RStr<'_>) -> Result<Job, Error> {
    let job: Job = serde_json::from_str(json.as_str()).context(|| "reading the job".to_owned())?;
    let (asked, able) = (job.scope(), E::SCOPE.name());
    if asked == able {
        Ok(job)
    } else {
        Err(Error::unsupported(format!("`{}` does jobs of scope `{able}`, not `{asked}`", E::Plugin::NAME)))
    }
}

impl<E: Export> Instance for Exported<E> {
    fn needs(&self, json: RStr<'_>) -> RResult<RString, PluginError> {
        let needs = guard(|| {
            job::<E>(json)?;
            Ok(serde_json::to_string(&self.0.needs())?.into())
        });
        needs.map_err(Error::into_abi).into()
    }

    fn run(&self, json: RStr<'_>, host: HostRef<'_>) -> RResult<RString, PluginError> {
        let host = Host::new(host);
        let report = guard(|| {
            let facts = E::run(&self.0, &job::<E>(json)?, &host)?;
            Ok(serde_json::to_string(&Report { facts })?.into())
        });
        for said in take_panics() {
            host.log(Level::Warn, &format!("a thread of the plugin panicked: {said}"));
        }
        report.map_err(Error::into_abi).into()
    }
}
