//! `workbench plugins`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Global, style};
use crate::{
    config::Project,
    error::{Error, ErrorKind, Result},
    plugin::{self, ApiSource, CheckReport, PluginInfo, ProbeCache, Registry, search_folders},
    store::{Store, read_sealed, write_cache},
};

/// List, check and begin plugins
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  workbench plugins list\n  workbench plugins check target/debug/libworkbench_rtn.so\n  workbench plugins new my-rounding --folder ~/plugins"
)]
pub(super) struct PluginsArguments {
    #[command(subcommand)]
    command: PluginsCommand,
}

#[derive(Debug, Subcommand)]
enum PluginsCommand {
    /// List the plugins that scripts can use, with their parameters
    #[command(after_help = "Example:\n  workbench plugins list --parameters")]
    List {
        /// Show the parameters with their defaults, ranges and choices
        #[arg(long)]
        parameters: bool,
    },
    /// Load plugins in a child process and run the examples that they carry
    #[command(after_help = "Example:\n  workbench plugins check target/debug/libworkbench_rtn.so")]
    Check {
        /// Files; all that are found if none is given
        files: Vec<PathBuf>,
    },
    /// Begin a plugin: a crate that builds, passes its own test, and runs when its library is dropped into a plugin folder
    #[command(after_help = "Example:\n  workbench plugins new my-rounding --folder ~/plugins")]
    New {
        /// Name of the method: lowercase letters, digits, `-` and `_`
        name: String,
        /// The folder in which the crate's folder is made
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        folder: PathBuf,
        /// Where the workbench's sources are, for the crate's dependencies [default: where this program was built]
        #[arg(long, value_name = "FOLDER")]
        api: Option<PathBuf>,
        /// Depend on a git repository of the workbench instead
        #[arg(long, value_name = "URL", conflicts_with = "api")]
        git: Option<String>,
        /// Revision of that repository
        #[arg(long, value_name = "REVISION", requires = "git")]
        revision: Option<String>,
    },
}

/// A file for a child process of ours.
#[derive(Args, Debug)]
pub(super) struct ChildArguments {
    pub file: PathBuf,
}

/// The plugins of a project, probed by children where the cache does not know them.
pub(super) fn discover(project: &Project, store: &Store) -> Result<Registry> {
    let program = std::env::current_exe().map_err(|e| Error::internal(format!("cannot find this program: {e}")))?;
    let configured: Vec<PathBuf> = project.config.plugins.path.iter().map(|p| project.root.join(p)).collect();
    let folders = search_folders(&program, &configured, std::env::var_os("WORKBENCH_PLUGIN_PATH").as_deref());
    let memory = store.cache_file("plugins.json");
    let mut cache = ProbeCache::from_json(&read_sealed(&memory).unwrap_or_default());
    let child =
        plugin::this_program("__probe").map_err(|e| Error::internal(format!("cannot find this program: {e}")))?;
    let registry = Registry::discover(&folders, &mut cache, &child);
    if let Some(text) = cache.to_json() {
        write_cache(&memory, &text);
    }
    Ok(registry)
}

pub(super) fn main(arguments: &PluginsArguments, global: &Global) -> Result<ExitCode> {
    let (project, store) = global.project(Path::new("."))?;
    match &arguments.command {
        PluginsCommand::List { parameters } => list(&discover(&project, &store)?, *parameters, global),
        PluginsCommand::Check { files } if files.is_empty() => {
            let registry = discover(&project, &store)?;
            let files: Vec<PathBuf> = registry.plugins().map(|p| p.path.clone()).collect();
            check(&files, global)
        }
        PluginsCommand::Check { files } => check(files, global),
        PluginsCommand::New { name, folder, api, git, revision } => {
            let source = match git {
                Some(url) => ApiSource::Git { url: url.clone(), revision: revision.clone() },
                None => ApiSource::Folder(api.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")))),
            };
            begin(name, folder, &source, global)
        }
    }
}

fn begin(name: &str, folder: &Path, source: &ApiSource, global: &Global) -> Result<ExitCode> {
    let files = plugin::new(name, folder, source)?;
    let made = folder.join(name);
    if global.json {
        style::print_json(&json!({ "folder": made, "files": files }))?;
    } else {
        let list: String = files.iter().map(|f| format!("{}\n", f.display())).collect();
        style::print(&list)?;
        style::note(&format!("next: cd {} && cargo test && cargo build --release", made.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(registry: &Registry, parameters: bool, global: &Global) -> Result<ExitCode> {
    if global.json {
        let listed = |info: &PluginInfo| {
            let mut plugin = serde_json::to_value(info).unwrap_or_default();
            if parameters {
                plugin["parameters"] = json!(plugin::parameters(&info.descriptor));
            }
            plugin
        };
        let plugins: Vec<Value> = registry.plugins().map(listed).collect();
        let problems: Vec<String> = registry.problems().iter().map(ToString::to_string).collect();
        style::print_json(&json!({ "plugins": plugins, "problems": problems }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for info in registry.plugins() {
        let d = &info.descriptor;
        style::print(&format!(
            "{} {}  {}  {}\n    {}\n",
            d.name,
            d.version,
            d.kind.name(),
            d.summary,
            info.path.display()
        ))?;
        if let Some(paper) = &d.paper {
            style::print(&format!("    {paper}\n"))?;
        }
        if parameters {
            for field in plugin::parameters(d) {
                let (default, values) = (field.default_word(), field.values());
                style::print(&format!("      {} = {default}  ({values})  {}\n", field.name, field.about))?;
            }
        }
    }
    for problem in registry.problems() {
        style::note(&format!("warning: {problem}"));
        if let Some(hint) = &problem.hint {
            style::note(&format!("  hint: {hint}"));
        }
    }
    if registry.plugins().next().is_none() {
        style::note(
            "no plugin was found; build the workspace, or name folders in workbench.toml or WORKBENCH_PLUGIN_PATH",
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn check(files: &[PathBuf], global: &Global) -> Result<ExitCode> {
    let child =
        plugin::this_program("__check").map_err(|e| Error::internal(format!("cannot find this program: {e}")))?;
    let reports: Vec<CheckReport> = files.iter().map(|file| plugin::check(file, &child)).collect();
    if global.json {
        style::print_json(&reports)?;
    } else {
        for report in &reports {
            style::print(&format!("{}\n", report.file.display()))?;
            for step in &report.steps {
                let mark = if step.found.is_empty() { "ok" } else { "FAILED" };
                style::print(&format!("  {mark:<6} {}  {:.3} s\n", step.name, step.seconds))?;
                for found in &step.found {
                    style::print(&format!("         {found}\n"))?;
                }
                if let Some(hint) = &step.hint {
                    style::print(&format!("         hint: {hint}\n"))?;
                }
            }
        }
    }
    match reports.iter().filter(|r| !r.passed()).count() {
        0 if reports.is_empty() => {
            Err(Error::usage("there is no plugin to check").hint("name a file, or build the workspace"))
        }
        0 => Ok(ExitCode::SUCCESS),
        n => Err(Error::new(ErrorKind::Refused, format!("{n} of {} plugins failed their check", reports.len()))),
    }
}
