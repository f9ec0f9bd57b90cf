//! `workbench script`

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use clap::{Args, Subcommand};

use super::{Global, plugins, runner::OnlyStored, style};
use crate::{
    error::Result,
    script::{self, Settings, Surroundings},
    store::write_atomic,
};

/// Help with writing scripts
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  workbench script definitions --output scripts/workbench.d.rhai")]
pub(super) struct ScriptArguments {
    #[command(subcommand)]
    command: ScriptCommand,
}

#[derive(Debug, Subcommand)]
enum ScriptCommand {
    /// Print the definitions of everything a script can call, for editors that read `.d.rhai` files
    Definitions {
        /// Write them to a file instead
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub(super) fn main(arguments: &ScriptArguments, global: &Global) -> Result<ExitCode> {
    let ScriptCommand::Definitions { output } = &arguments.command;
    let (project, store) = global.project(std::path::Path::new("."))?;
    let force = OnlyStored { store: store.clone(), digests: Mutex::default(), stopped: Mutex::default() };
    let surroundings = Surroundings {
        root: project.root.clone(),
        registry: Arc::new(plugins::discover(&project, &store)?),
        force: Arc::new(force),
        settings: Settings::default(),
        seed: 0,
        label_seed: false,
    };
    let text = script::definitions(&surroundings);
    match output {
        Some(path) => write_atomic(path, text.as_bytes())?,
        None => style::print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}
