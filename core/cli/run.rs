//! `workbench run`

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;
use serde_json::json;

use super::{Global, plan, plugins, runner::Runner, runner::summary_json, style};
use crate::{
    config::{Project, parse_bytes},
    error::{Error, Result},
    exec::{self, Options},
    report,
    script::{self, Builder, Force, ScriptEnv, Settings},
    store::Store,
};

/// Run an experiment and print its tables
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  workbench run experiments/ablation_down_proj.rhai --set samples=64 --jobs 2\n\n\
What is finished is kept: an interrupted or failed run continues when the same command is given again. Ctrl-C stops running \
nodes where they can be continued (behind a block, behind a training step); a second Ctrl-C ends them at once.")]
pub(super) struct RunArguments {
    /// The script
    pub script: PathBuf,
    #[command(flatten)]
    pub script_options: ScriptOptions,
    #[command(flatten)]
    pub machine: MachineOptions,
    /// Show the plan and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// Options that decide what a script asks for.
#[derive(Args, Clone, Debug)]
pub(super) struct ScriptOptions {
    /// Set a parameter of the script; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Seed, or seeds 0..4 (both included): rotations, training, texts that a model writes and shuffled calibration (`shuffle: true`)
    /// are drawn anew for each
    #[arg(long, default_value = "0", value_name = "N|A..B")]
    pub seed: String,
}

/// Options that decide how a run uses the machine.
#[derive(Args, Clone, Debug)]
pub(super) struct MachineOptions {
    /// Nodes at a time [default: one per core]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Threads of each node [default: the cores divided by the jobs]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Memory for all nodes together, and at most for one [default: 90 % of what is available]
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Seconds without a call to the host after which a plugin counts as hung [default: 600, none for trainers]
    #[arg(long, value_name = "SECONDS")]
    pub plugin_timeout: Option<u64>,
    /// Start nothing more after the first failure
    #[arg(long)]
    pub fail_fast: bool,
}

impl ScriptOptions {
    /// The seeds, in order.
    pub(super) fn seeds(&self) -> Result<Vec<u64>> {
        let wrong = || Error::usage(format!("`--seed {}` is neither a number nor a range such as 0..4", self.seed));
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        match self.seed.split_once("..") {
            None => Ok(vec![number(&self.seed)?]),
            Some((a, b)) => {
                let (a, b) = (number(a)?, number(b)?);
                if a > b || b - a >= 1000 { Err(wrong()) } else { Ok((a..=b).collect()) }
            }
        }
    }
}

impl MachineOptions {
    /// The options with everything filled in from the project and the machine.
    pub(super) fn resolve(&self, project: &Project) -> Result<Options> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let run = &project.config.run;
        for (option, count) in [("jobs", self.jobs.or(run.jobs)), ("threads", self.threads.or(run.threads))] {
            if count == Some(0) {
                return Err(Error::usage(format!("with 0 {option} nothing would run")).hint("give at least 1"));
            }
        }
        let jobs = self.jobs.or(run.jobs).unwrap_or(cores).max(1);
        let threads = self.threads.or(run.threads).unwrap_or((cores / jobs).max(1)).max(1);
        let memory = match self.memory.as_ref().or(run.memory.as_ref()) {
            Some(text) => parse_bytes(text)?,
            None => exec::available_memory() / 10 * 9,
        };
        let plugin_timeout = self.plugin_timeout.or(project.config.plugins.timeout);
        Ok(Options { jobs, threads, memory, plugin_timeout })
    }
}

/// Runs a script once per seed, and returns what all passes asked for together.
pub(super) fn build(
    path: &std::path::Path,
    options: &ScriptOptions,
    project: &Project,
    store: &Store,
    force: Arc<dyn Force>,
) -> (Builder, Result<()>) {
    let mut builder = Builder::default();
    let prepared = || -> Result<_> {
        let seeds = options.seeds()?;
        let registry = Arc::new(plugins::discover(project, store)?);
        Ok((Settings::parse(&options.set)?, seeds, registry))
    };
    let (settings, seeds, registry) = match prepared() {
        Ok(prepared) => prepared,
        Err(e) => return (builder, Err(e)),
    };
    for seed in &seeds {
        let env = ScriptEnv {
            root: project.root.clone(),
            registry: Arc::clone(&registry),
            force: Arc::clone(&force),
            settings: settings.clone(),
            seed: *seed,
            label_seed: seeds.len() > 1,
        };
        let (grown, result) = script::run(path, builder, &env);
        builder = grown;
        if result.is_err() {
            return (builder, result);
        }
    }
    after_seeds(&mut builder, &seeds);
    builder.graph.distinguish();
    let checked = builder.settings.check_used().and_then(|()| check_written(&builder));
    (builder, checked)
}

/// Says where seeds have no effect.
fn after_seeds(builder: &mut Builder, seeds: &[u64]) {
    match seeds {
        [0] => {}
        [seed] if !builder.draws => {
            builder.warn(format!("`--seed {seed}` has no effect: no step of the script draws numbers"));
        }
        _ => builder.fold_seeds(),
    }
}

/// A table that is filled but never written would be lost without a word.
fn check_written(builder: &Builder) -> Result<()> {
    match builder.reports.iter().find(|r| !r.written) {
        Some(report) => Err(Error::usage(format!("report `{}` is never written", report.name))
            .hint("end the script with table.write()")),
        None => Ok(()),
    }
}

pub(super) fn main(arguments: &RunArguments, global: &Global) -> Result<ExitCode> {
    let (project, store) = global.project(&arguments.script)?;
    if arguments.dry_run {
        return plan::show(&arguments.script, &arguments.script_options, false, &project, &store, global);
    }
    let options = arguments.machine.resolve(&project)?;
    let settings = Settings::parse(&arguments.script_options.set)?.pairs();
    let script = project.name_of(&arguments.script);
    let runner =
        Arc::new(Runner::new(store.clone(), options, arguments.machine.fail_fast, &script, settings, global.json)?);
    let result = execute(arguments, global, &project, &store, &script, &runner);
    runner.close(&result);
    result
}

fn execute(
    arguments: &RunArguments,
    global: &Global,
    project: &Project,
    store: &Store,
    script: &str,
    runner: &Arc<Runner>,
) -> Result<ExitCode> {
    let force: Arc<dyn Force> = Arc::clone(runner) as Arc<dyn Force>;
    let (builder, built) = build(&arguments.script, &arguments.script_options, project, store, force);
    built?;
    builder.all_warnings().iter().for_each(|w| style::note(&format!("warning: {w}")));

    let wanted = builder.wanted();
    let planned = runner.plan(&builder.graph, &wanted)?;
    if !global.json {
        style::note(&plan::headline(script, &builder, &planned));
    }
    let keys = &planned.identities;
    runner.check_saves(&builder, &project.root)?;
    let mut tables = report::Tables::new(&builder, keys, store, script)?;
    runner.execute(&builder.graph, &planned, &mut |event| tables.on_event(event))?;
    runner.ending();
    let look = report::Terminal { color: style::color(&std::io::stdout()), width: style::width() };
    let written = tables.finish(&runner.outcome(), &runner.run_id(), look)?;
    if global.json {
        let reports: Vec<_> =
            written.iter().map(|w| json!({ "name": w.name, "folder": w.folder, "table": w.json })).collect();
        style::print_json(&json!({ "summary": summary_json(&runner.outcome(), runner.run_id()), "reports": reports }))?;
    } else {
        for table in &written {
            style::print_styled(&table.terminal)?;
            match (&table.folder, &table.unwritten) {
                (Some(folder), _) => style::note(&format!("report: {}", style::from_here(&folder.join("index.html")))),
                (None, Some(error)) => style::note(&format!("no report was left: {error}")),
                (None, None) => style::note("the results folder cannot be written: no report was left there"),
            }
        }
    }
    // The tables are out: what cannot be saved or written costs none of them.
    let saved = runner.save(&builder, keys);
    let unwritten = written.into_iter().find_map(|w| w.unwritten).map_or(Ok(()), Err);
    runner.verdict().and(unwritten).and(saved)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_ranges() {
        let seeds = |text: &str| ScriptOptions { set: vec![], seed: text.into() }.seeds();
        assert_eq!(seeds("7").unwrap(), [7]);
        assert_eq!(seeds("0..4").unwrap(), [0, 1, 2, 3, 4]);
        for bad in ["", "x", "3..1", "0..5000", "-1"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }
}
