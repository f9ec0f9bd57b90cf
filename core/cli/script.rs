//! `workbench script`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};

use super::{Global, plugins, style};
use crate::{
    error::Result,
    script::{Reference, definitions},
    store::write_atomic,
};

/// Help with writing scripts
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  workbench script definitions --output workbench.d.rhai\n  workbench script reference"
)]
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
    /// Print every call and option, the keys of files and the parameters of plugins, with defaults, ranges, choices and units
    #[command(after_help = "Example:\n  workbench script reference --output REFERENCE.md")]
    Reference {
        /// Write it to a file instead
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub(super) fn main(arguments: &ScriptArguments, global: &Global) -> Result<ExitCode> {
    let (text, output) = match &arguments.command {
        ScriptCommand::Definitions { output } => (definitions(), output),
        ScriptCommand::Reference { output } => {
            let (project, store) = global.project(Path::new("."))?;
            let reference = Reference::new(&plugins::discover(&project, &store)?);
            if global.json && output.is_none() {
                style::print_json(&reference)?;
                return Ok(ExitCode::SUCCESS);
            }
            (reference.page(), output)
        }
    };
    match output {
        Some(path) => write_atomic(path, text.as_bytes())?,
        None => style::print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}
