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
    /// Print one of its texts: running text, or conversations as JSON lines
    #[command(after_help = "Examples:\n  workbench demo text stories/valid | head\n  \
                            workbench demo text chat/strangers/train | head")]
    Text {
        /// One of `stories` (running text about its world), `foreign` (about a second world), `chat/answers`, `chat/language`,
        /// `chat/refusals`, `chat/strangers` and `chat/instructions`, with `/train`, `/valid` or `/test` behind it; or
        /// `chat/overcautious/train`
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
            let text = demo::Text::by_name(name).map_err(|e| Error::usage(e.to_string()).maybe_hint(e.hint()))?;
            for passage in text.passages().take(documents.unwrap_or(usize::MAX)) {
                style::print(&passage.printed())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_documents_name_every_text() {
        let command = DemoArguments::augment_args(clap::Command::new("demo"));
        let help = command.find_subcommand("text").unwrap().clone().render_long_help().to_string();
        let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo/README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        for name in demo::names() {
            let (stem, _) = name.rsplit_once('/').unwrap();
            assert!(help.contains(&format!("`{stem}`")) || help.contains(&format!("`{name}`")), "{name}: {help}");
            assert!(readme.contains(&format!("`demo:{stem}/train`")), "{name}");
        }
    }
}
