//! `workbench demo`

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{Global, style};
use crate::{
    demo,
    error::{Error, Result},
};

/// The small world that the demo model was trained on
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  workbench demo text stories/valid | head\n  workbench demo write /tmp/demo")]
pub(super) struct DemoArguments {
    #[command(subcommand)]
    command: DemoCommand,
}

#[derive(Debug, Subcommand)]
enum DemoCommand {
    /// Print one of its texts
    #[command(after_help = "Example:\n  workbench demo text stories/valid | head")]
    Text {
        /// `stories/train`, `stories/valid` or `stories/test`
        name: String,
        /// Documents to print; all if not given
        #[arg(long, value_name = "N")]
        documents: Option<usize>,
    },
    /// Write its tokenizer, configuration and tasks
    #[command(after_help = "Example:\n  workbench demo write /tmp/demo")]
    Write {
        /// The folder
        folder: PathBuf,
    },
}

pub(super) fn main(arguments: &DemoArguments, _: &Global) -> Result<ExitCode> {
    match &arguments.command {
        DemoCommand::Text { name, documents } => {
            let split = demo::Split::by_name(name).map_err(|e| Error::usage(e.to_string()))?;
            for text in demo::documents(split).take(documents.unwrap_or(usize::MAX)) {
                style::print(&format!("{text}\n\n"))?;
            }
        }
        DemoCommand::Write { folder } => {
            for file in demo::write_assets(folder).map_err(|e| Error::refused(e.to_string()))? {
                style::print(&format!("{}\n", file.display()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
