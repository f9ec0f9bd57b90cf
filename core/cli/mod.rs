//! The command line: one file per subcommand.
//!
//! Data goes to standard output, progress and messages to standard error. Exit codes: 0 success, 1 a defect, 2 a wrong
//! command line or script, 3 a plan that cannot run here, 4 some nodes failed, 5 interrupted.

mod demo;
mod diagnostic;
mod doctor;
mod gc;
mod log;
mod node;
mod plan;
mod plugins;
mod preflight;
mod progress;
mod run;
mod runner;
mod script;
mod show;
mod signals;
mod style;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, error::ErrorKind as ClapErrorKind};

use crate::{
    config::Project,
    error::{Error, Result},
    store::Store,
};

const EXIT_CODES: &str = "Exit codes: 0 success, 1 a defect of the workbench, 2 a wrong command line or script, \
3 a plan that cannot run here, 4 some nodes failed, 5 interrupted";

/// Experiments with quantized language models, from a script to a table one can trust
#[derive(Debug, Parser)]
#[command(name = "workbench", version, about, after_help = EXIT_CODES, max_term_width = 120)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Global {
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// Folder for results, instead of `results` in the project
    #[arg(long, global = true, value_name = "FOLDER")]
    pub results: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArguments),
    Plan(plan::PlanArguments),
    Show(show::ShowArguments),
    Log(log::LogArguments),
    Plugins(plugins::PluginsArguments),
    Script(script::ScriptArguments),
    Demo(demo::DemoArguments),
    Gc(gc::GcArguments),
    Doctor(doctor::DoctorArguments),
    #[command(hide = true)]
    Node(node::NodeArguments),
    #[command(name = "__probe", hide = true)]
    Probe(plugins::ChildArguments),
    #[command(name = "__check", hide = true)]
    Check(plugins::ChildArguments),
}

/// Past the limit for file sizes the kernel ends a process with a signal; ignored, the write fails with an error that
/// names the file.
fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal installs no handler of ours, and no other thread of this program touches SIGXFSZ.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Parses the command line, runs the subcommand, and prints the error if there is one.
pub fn main() -> ExitCode {
    ignore_file_size_signal();
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(error) = split_setting(&words) {
        diagnostic::print(&error, words.iter().any(|word| word == "--json"));
        return ExitCode::from(error.kind.exit_code());
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let wanted = matches!(error.kind(), ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion);
            let _ = error.print();
            return ExitCode::from(if wanted { 0 } else { 2 });
        }
    };
    let global = arguments.global;
    match dispatch(arguments.command, &global) {
        Ok(code) => code,
        Err(error) => {
            diagnostic::print(&error, global.json);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

/// The error for `--set samples 3`, of which the parser would only say that it does not expect the 3.
fn split_setting(arguments: &[String]) -> Option<Error> {
    let at = arguments.iter().take_while(|argument| *argument != "--").position(|argument| argument == "--set")?;
    let key = arguments.get(at + 1)?;
    match key.contains('=') || key.starts_with('-') {
        true => split_setting(&arguments[at + 1..]),
        false => {
            let value = arguments.get(at + 2).filter(|value| !value.starts_with('-') && !value.ends_with(".rhai"));
            let example = value.map_or("VALUE", String::as_str);
            Some(
                Error::usage(format!("`--set {key}` is not of the form key=value"))
                    .hint(format!("write --set {key}={example}")),
            )
        }
    }
}

fn dispatch(command: Command, global: &Global) -> Result<ExitCode> {
    match command {
        // These three are child processes of ours: they set up their own logging and print their own protocol.
        Command::Node(arguments) => return Ok(node::main(&arguments)),
        Command::Probe(arguments) => return Ok(crate::plugin::probe_main(&arguments.file)),
        Command::Check(arguments) => return Ok(crate::plugin::check_main(&arguments.file)),
        _ => {
            style::start_logging();
            crate::process::adopt_orphans();
        }
    }
    match command {
        Command::Run(arguments) => run::main(&arguments, global),
        Command::Plan(arguments) => plan::main(&arguments, global),
        Command::Show(arguments) => show::main(&arguments, global),
        Command::Log(arguments) => log::main(&arguments, global),
        Command::Plugins(arguments) => plugins::main(&arguments, global),
        Command::Script(arguments) => script::main(&arguments, global),
        Command::Demo(arguments) => demo::main(&arguments, global),
        Command::Gc(arguments) => gc::main(&arguments, global),
        Command::Doctor(arguments) => doctor::main(&arguments, global),
        Command::Node(_) | Command::Probe(_) | Command::Check(_) => Err(Error::internal("unreachable subcommand")),
    }
}

impl Global {
    /// The project around a path, and its store.
    fn project(&self, start: &Path) -> Result<(Project, Store)> {
        let project = Project::around(start)?;
        let results = project.results(self.results.as_deref());
        // A plugin may change the directory of its process; nothing that is told to one may depend on it.
        let results = std::path::absolute(&results).map_err(|e| Error::io("find", &results, &e))?;
        Ok((project, Store::new(&results)))
    }
}

#[cfg(test)]
mod tests {
    use super::split_setting;

    #[test]
    fn a_setting_in_two_words_is_explained() {
        let error = |line: &str| split_setting(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let hint = |line: &str| error(line).unwrap().hints.remove(0);
        assert_eq!(hint("workbench run x.rhai --set samples 3"), "write --set samples=3");
        assert_eq!(hint("workbench run --set a=1 --set samples x.rhai"), "write --set samples=VALUE");
        assert_eq!(hint("workbench run x.rhai --set samples"), "write --set samples=VALUE");
        for good in
            ["workbench run x.rhai --set samples=3", "workbench run x.rhai --set a=b=c --set d=", "workbench show last"]
        {
            assert!(error(good).is_none(), "{good}");
        }
    }
}
