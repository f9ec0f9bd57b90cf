//! `workbench script`

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::style;
use crate::{error::Result, script::DEFINITIONS, store::write_atomic};

/// Help with writing scripts
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  workbench script definitions --output workbench.d.rhai")]
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

pub(super) fn main(arguments: &ScriptArguments) -> Result<ExitCode> {
    let ScriptCommand::Definitions { output } = &arguments.command;
    match output {
        Some(path) => write_atomic(path, DEFINITIONS.as_bytes())?,
        None => style::print(DEFINITIONS)?,
    }
    Ok(ExitCode::SUCCESS)
}
