//! The table for a README or an issue.

use super::analysis::Analysis;
use super::cells::Intervals;
use super::sheet::{self, Sheet};
use super::{ReportError, footer};
use crate::printable;

/// Renders title, caption, table, contrasts and footers as GitHub-flavoured Markdown. Ends with a newline.
///
/// # Errors
/// Where the pivot fails.
pub fn markdown(analysis: &Analysis<'_>) -> Result<String, ReportError> {
    let mut out = format!("## {}\n\n", escape(&analysis.table.name));
    for line in footer::caption(analysis) {
        out += &format!("{}  \n", escape(&line));
    }
    out.push('\n');
    table(&mut out, &sheet::main(analysis, Intervals::Arm)?);
    if let Some(contrasts) = sheet::contrasts(analysis, Intervals::Arm)? {
        out += "\n### Contrasts\n\n";
        table(&mut out, &contrasts);
    }
    let footer = footer::footer(analysis, Intervals::Arm);
    if !footer.is_empty() {
        out.push('\n');
    }
    for line in footer {
        out += &format!("- {}\n", escape(&line));
    }
    Ok(out)
}

fn table(out: &mut String, sheet: &Sheet) {
    if sheet.rows() == 0 {
        *out += "no rows\n";
        return;
    }
    let header = sheet.columns.iter().map(|column| escape(format!("{} {}", column.group, column.header).trim()));
    let rule = sheet.columns.iter().map(|column| if column.numeric { "---:" } else { "---" }.to_owned());
    let wordy = sheet.columns.len() == sheet.labels && sheet.messages.iter().any(Option::is_some);
    line(out, header.chain(wordy.then(String::new)));
    line(out, rule.chain(wordy.then(|| "---".to_owned())));
    for row in 0..sheet.rows() {
        let message = |column: usize| sheet.messages[row].as_deref().filter(|_| column == sheet.labels);
        let gap = if sheet.messages[row].is_some() { "" } else { "—" };
        let cell = |column: usize| {
            let gap = if column < sheet.labels { "" } else { gap };
            message(column).or(sheet.text(row, column)).unwrap_or(gap)
        };
        // Where no row has a value there are no columns for them, and a message needs one of its own.
        let alone = message(sheet.columns.len()).map(escape);
        line(out, (0..sheet.columns.len()).map(|column| escape(cell(column))).chain(alone));
    }
}

fn line(out: &mut String, cells: impl Iterator<Item = String>) {
    *out += "|";
    for cell in cells {
        *out += &format!(" {cell} |");
    }
    out.push('\n');
}

/// Keeps every character that Markdown would read as markup, and a row on its line.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable::lines(text).chars() {
        match character {
            '\\' | '|' | '*' | '_' | '`' | '<' | '>' | '[' | ']' | '#' | '~' | '&' => {
                escaped.push('\\');
                escaped.push(character);
            }
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}
