//! The job's plugin at work.

use serde_json::Value;
use workbench_api::{
    error::{Error as ApiError, ErrorKind as ApiErrorKind},
    job::{self, Facts, Linear, Needs},
};
use workbench_quant::QuantizedWeight;

use super::{
    super::artifact::Put,
    curve::Recorder,
    services::{Inputs, Services, Setting},
    watchdog::watched,
};
use crate::{
    error::{Error, Result},
    exec::{Job, NodeEvent, NodeReporter, interrupted},
    graph::NodeKind,
    plugin::{Heartbeat, Loaded, Running, Scope},
    store::Scratch,
};

/// The job's plugin with its parameters, under watch while it works.
pub(in crate::steps) struct Plugin<'a> {
    running: Running,
    scope: Scope,
    job: &'a Job,
    setting: Setting<'a>,
}

impl<'a> Plugin<'a> {
    /// Loads the plugin. Its checkpoints and what it reports step by step go to `scratch`, its progress counts `unit`, or the
    /// steps that it takes of a block.
    ///
    /// # Errors
    /// The file is no plugin that this program can run, or refuses the parameters.
    pub(in crate::steps) fn open(
        job: &'a Job,
        parameters: &Value,
        scratch: &'a Scratch,
        reporter: &'a NodeReporter,
        unit: &'static str,
    ) -> Result<Self> {
        let path = job.plugin.as_ref().ok_or_else(|| Error::internal("the job names no plugin"))?;
        reporter.send(&NodeEvent::Plugin { name: job.method.clone(), timeout: Some(60) });
        let loaded = Loaded::open(path).map_err(Error::from)?;
        let running = loaded.create(parameters).map_err(plugin_error)?;
        reporter.send(&NodeEvent::PluginEnded);
        let seed = parameters["seed"].as_u64().unwrap_or(0);
        let stoppable = job.kind != NodeKind::Quantize;
        // Who takes whole blocks goes through each as often as it likes.
        let unit = if loaded.descriptor().scope == Scope::Block { "steps" } else { unit };
        let setting = Setting {
            scratch: scratch.work_folder()?,
            curve: Recorder::new(scratch),
            seed,
            threads: job.threads,
            reporter,
            stoppable,
            unit,
        };
        Ok(Self { running, scope: loaded.descriptor().scope, job, setting })
    }

    /// How much of the model one job of it spans.
    pub(in crate::steps) fn scope(&self) -> Scope {
        self.scope
    }

    /// What a piece of work wants to have ready.
    ///
    /// # Errors
    /// The plugin does not know the work.
    pub(in crate::steps) fn needs(&self, work: &job::Job) -> Result<Needs> {
        self.running.needs(work).map_err(plugin_error)
    }

    /// Lets the plugin do a piece of work with what it may read, and returns what it put and the facts that it reports.
    ///
    /// # Errors
    /// The plugin's own; what it put is not what it may put.
    pub(in crate::steps) fn run(&self, work: &job::Job, inputs: Inputs<'_>) -> Result<(Put, Facts)> {
        let missing = self.needs(work)?.inputs.into_iter().find(|name| !inputs.models.contains_key(name.as_str()));
        if let Some(name) = missing {
            let message = format!("`{}` needs a model `{name}`, and this node has none", self.job.method);
            return Err(Error::refused(message).hint(format!("pass {name}: model(…)")));
        }
        let (heartbeat, reporter) = (Heartbeat::default(), self.setting.reporter);
        let services = Services::new(&self.setting, inputs, part(work));
        // It may have something to keep before it returns; what it has finished nonetheless is carried through.
        let _held = reporter.hold()?;
        reporter.send(&NodeEvent::Plugin { name: self.job.method.clone(), timeout: self.job.plugin_timeout });
        let report = watched(&heartbeat, reporter, || self.running.run(work, &services, &heartbeat));
        reporter.send(&NodeEvent::PluginEnded);
        // Without it, whatever continues from here would leave a gap.
        self.setting.curve.check()?;
        let report = report.map_err(|error| match error.kind {
            ApiErrorKind::Cancelled if reporter.cancelled() => interrupted(),
            _ => plugin_error(error),
        })?;
        Ok((services.into_put(), report.facts))
    }

    /// Lets it quantize one linear.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub(in crate::steps) fn quantize(&self, linear: Linear, inputs: Inputs<'_>) -> Result<(QuantizedWeight, Facts)> {
        let module = linear.module.clone();
        let (mut put, facts) = self.run(&job::Job::Linear(linear), inputs)?;
        let weight = put.weights.remove(&module);
        Ok((weight.ok_or_else(|| Error::internal(format!("no codes of `{module}` arrived")))?, facts))
    }
}

/// The part of the model that a job is about, where it is not the whole.
fn part(work: &job::Job) -> Option<&str> {
    match work {
        job::Job::Linear(linear) => Some(&linear.module),
        job::Job::Block(block) => Some(&block.prefix),
        job::Job::Transform(_) | job::Job::Train(_) => None,
    }
}

fn plugin_error(error: ApiError) -> Error {
    let mut message = Error::refused(error.message);
    for context in error.context.into_iter() {
        message = message.context(context);
    }
    message.maybe_hint(error.hint)
}
