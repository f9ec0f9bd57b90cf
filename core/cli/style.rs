//! Writing to the terminal.

use std::{
    io::{IsTerminal, Write},
    path::Path,
};

use crate::{
    error::{Error, Result},
    printable,
};

/// Sends messages of the workbench and of scripts to standard error. `WORKBENCH_LOG` chooses what is shown.
pub(super) fn start_logging() {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_from_env("WORKBENCH_LOG").unwrap_or_else(|_| EnvFilter::new("warn,script=info"));
    let _ = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color(&std::io::stderr()))
        .without_time()
        // A message that cannot be written is lost; telling so on the same stream would end the program.
        .log_internal_errors(false)
        .try_init();
}

/// Whether to use colour on a stream: a terminal, and nobody asked for none.
pub(super) fn color(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Columns of the terminal on standard output; none for a pipe or a file.
pub(super) fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Whether to draw bars that move.
pub(super) fn bars() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("WORKBENCH_NO_PROGRESS").is_none_or(|v| v.is_empty())
}

/// Prints data. A reader that has gone away has seen enough. Control characters are printed as escapes: names and messages come
/// from anywhere.
pub(super) fn print(text: &str) -> Result<()> {
    print_styled(&printable::lines(text))
}

/// Prints text that holds colours, and nothing else for a terminal to obey.
pub(super) fn print_styled(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::refused("failed to write to standard output").cause(e.to_string()))
        }
        _ => Ok(()),
    }
}

/// A path as it is reached from the current folder.
pub(super) fn from_here(path: &Path) -> String {
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    let below = here.ok().and_then(|here| path.strip_prefix(here).ok());
    below.unwrap_or(path).display().to_string()
}

/// Prints a line for people on standard error, control characters as escapes.
pub(super) fn note(text: &str) {
    note_styled(&printable::lines(text));
}

/// Prints a line that holds colours, and nothing else for a terminal to obey, on standard error.
pub(super) fn note_styled(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a line of JSON on standard error.
pub(super) fn note_json(text: &str) {
    note_styled(&printable::json(text));
}

/// Prints a value as indented JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::internal(e.to_string()))?;
    print_styled(&printable::json(&format!("{text}\n")))
}

/// Lines up columns with two spaces between them; the last column keeps its width. A row is a line, whatever its cells hold.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable::one_line(cell).into_owned()).collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if c + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widths[c] - cell.chars().count() + 2));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
