//! One page that says everything: no scripts, nothing loaded from anywhere, light and dark, fit to be mailed.

mod curves;
mod graph;
mod heat;
mod plot;
mod scale;

use super::analysis::Analysis;
use super::cells::{Intervals, Tone};
use super::sheet::{self, Column, Sheet};
use super::{ReportError, footer, format};
use crate::printable;

const STYLE: &str = include_str!("style.css");

/// Renders the whole page.
///
/// # Errors
/// Where the pivot fails.
pub fn html(analysis: &Analysis<'_>) -> Result<String, ReportError> {
    let table = analysis.table;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&table.name)
    );
    head(&mut page, analysis);
    section(&mut page, "Results", |page| {
        sheet_table(page, &sheet::main(analysis, Intervals::Ends)?, analysis.baseline)
    })?;
    if let Some(contrasts) = sheet::contrasts(analysis, Intervals::Ends)? {
        section(&mut page, "Contrasts", |page| sheet_table(page, &contrasts, None))?;
    }
    let heat_maps = heat::maps(analysis);
    if !heat_maps.is_empty() {
        section(&mut page, "Heat maps", |page| {
            *page += &format!("<div class=\"heats\">\n{heat_maps}</div>\n");
            Ok(())
        })?;
    }
    let plots = plot::plots(analysis);
    if !plots.is_empty() {
        section(&mut page, "Plots", |page| {
            *page += &format!("<div class=\"plots\">\n{plots}</div>\n");
            Ok(())
        })?;
    }
    let curves = curves::panels(&table.curves);
    if !curves.is_empty() {
        section(&mut page, "Curves", |page| {
            *page += &format!("<div class=\"plots\">\n{curves}</div>\n");
            Ok(())
        })?;
    }
    section(&mut page, "How to read it", |page| {
        note_list(page, analysis);
        Ok(())
    })?;
    if !table.graph.nodes.is_empty() {
        section(&mut page, "Graph", |page| {
            *page += &format!("<div class=\"card graph\">\n{}</div>\n", graph::picture(&table.graph));
            Ok(())
        })?;
    }
    if !table.provenance.is_empty() {
        section(&mut page, "Provenance", |page| {
            provenance(page, analysis);
            Ok(())
        })?;
    }
    page += "</main>\n</body>\n</html>\n";
    Ok(page)
}

/// Text as HTML text or attribute value.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable::lines(text).chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            // Typographic minus: a hyphen before a digit is hard to see in a proportional face.
            control if control.is_control() && control != '\n' => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A number as text: the hyphen in front of a digit becomes a minus sign, which is as wide as a digit.
fn number(text: &str) -> String {
    let mut previous = ' ';
    let mut out = String::new();
    for character in text.chars() {
        out.push(if character == '-' && !previous.is_alphanumeric() { '−' } else { character });
        previous = character;
    }
    escape(&out)
}

fn section(
    page: &mut String,
    title: &str,
    body: impl FnOnce(&mut String) -> Result<(), ReportError>,
) -> Result<(), ReportError> {
    *page += &format!("<section>\n<h2>{}</h2>\n", escape(title));
    body(page)?;
    *page += "</section>\n";
    Ok(())
}

fn head(page: &mut String, analysis: &Analysis<'_>) {
    *page += &format!("<header>\n<h1>{}</h1>\n", escape(&analysis.table.name));
    let mut caption = footer::caption(analysis);
    if !analysis.table.script.is_empty() && !caption.is_empty() {
        *page += &format!("<p class=\"mono\">{}</p>\n", escape(&caption.remove(0)));
    }
    for line in caption {
        *page += &format!("<p>{}</p>\n", escape(&line));
    }
    *page += "<ul class=\"facts\">\n";
    let mut fact = |text: String, class: &str| *page += &format!("<li{class}>{}</li>\n", escape(&text));
    fact(format::plural(analysis.groups.len(), "row"), "");
    let mut tasks: Vec<&str> = analysis.metrics.iter().map(|key| key.task.as_str()).collect();
    tasks.dedup();
    if !tasks.is_empty() {
        fact(format!("{}: {}", format::plural(tasks.len(), "task"), tasks.join(", ")), "");
    }
    if let Some(baseline) = analysis.baseline.filter(|row| !analysis.groups[*row].labels.is_empty()) {
        fact(format!("baseline: {}", footer::name(analysis, baseline)), "");
    }
    if !analysis.table.contrasts.is_empty() {
        fact(format::plural(analysis.table.contrasts.len(), "declared contrast"), "");
    }
    let failed = analysis.groups.iter().filter(|group| !group.failures.is_empty()).count();
    if failed > 0 {
        fact(format!("{} failed", format::plural(failed, "row")), " class=\"bad\"");
    }
    *page += "</ul>\n</header>\n";
}

fn sheet_table(page: &mut String, sheet: &Sheet, baseline: Option<usize>) -> Result<(), ReportError> {
    if sheet.rows() == 0 {
        *page += "<p class=\"faint\">no rows</p>\n";
        return Ok(());
    }
    *page += "<div class=\"card scroll\">\n<table>\n<thead>\n";
    table_head(page, &sheet.columns);
    *page += "</thead>\n<tbody>\n";
    for row in 0..sheet.rows() {
        let class = if baseline == Some(row) { " class=\"baseline\"" } else { "" };
        *page += &format!("<tr{class}>");
        for column in 0..sheet.labels {
            let more = if column > 0 { " class=\"more\"" } else { "" };
            *page += &format!("<th scope=\"row\"{more}>{}</th>", escape(sheet.text(row, column).unwrap_or("")));
        }
        if let Some(message) = &sheet.messages[row] {
            let rest = sheet.columns.len() - sheet.labels;
            *page += &format!("<td class=\"message\" colspan=\"{}\">{}</td>", rest.max(1), escape(message));
        } else {
            for column in sheet.labels..sheet.columns.len() {
                value_cell(page, sheet, row, column);
            }
        }
        *page += "</tr>\n";
    }
    *page += "</tbody>\n</table>\n</div>\n";
    Ok(())
}

/// Whether a column is the first of a task, or the first after the last task.
fn begins_group(columns: &[Column], index: usize) -> bool {
    index > 0 && columns[index].group != columns[index - 1].group
}

fn table_head(page: &mut String, columns: &[Column]) {
    if columns.iter().any(|column| !column.group.is_empty()) {
        *page += "<tr>";
        let mut start = 0;
        while start < columns.len() {
            let same = columns[start..].iter().take_while(|column| column.group == columns[start].group).count();
            let group = &columns[start].group;
            let class = if start == 0 { "" } else { " class=\"task\"" };
            *page += &format!("<th{class} colspan=\"{same}\">{}</th>", escape(group));
            start += same;
        }
        *page += "</tr>\n";
    }
    *page += "<tr>";
    for (index, column) in columns.iter().enumerate() {
        let classes = classes(column.numeric, begins_group(columns, index), "");
        *page += &format!("<th scope=\"col\"{classes}>{}</th>", escape(&column.header));
    }
    *page += "</tr>\n";
}

fn classes(numeric: bool, first: bool, tone: &str) -> String {
    let all: Vec<&str> = [if numeric { "num" } else { "" }, if first { "first" } else { "" }, tone]
        .into_iter()
        .filter(|c| !c.is_empty())
        .collect();
    if all.is_empty() { String::new() } else { format!(" class=\"{}\"", all.join(" ")) }
}

fn value_cell(page: &mut String, sheet: &Sheet, row: usize, column: usize) {
    let tone = match sheet.tones[row][column] {
        Tone::Plain => "",
        Tone::Better => "better",
        Tone::Worse => "worse",
    };
    let classes = classes(sheet.columns[column].numeric, begins_group(&sheet.columns, column), tone);
    let text = sheet.text(row, column).unwrap_or("—");
    *page += &format!("<td{classes}>{}</td>", with_ends(text));
}

/// A value and its interval; the interval in smaller type.
fn with_ends(text: &str) -> String {
    match text.split_once(" [") {
        Some((value, ends)) => format!("{} <span class=\"ends\">[{}</span>", number(value), number(ends)),
        None => number(text),
    }
}

fn note_list(page: &mut String, analysis: &Analysis<'_>) {
    *page += "<ul class=\"card notes\">\n";
    for line in footer::footer(analysis, Intervals::Ends) {
        let class = if line.starts_with("Warning: ") { " class=\"warning\"" } else { "" };
        *page += &format!("<li{class}>{}</li>\n", escape(&line));
    }
    *page += "</ul>\n";
}

fn provenance(page: &mut String, analysis: &Analysis<'_>) {
    *page += "<div class=\"card scroll\">\n<table class=\"prov\">\n<tbody>\n";
    for (key, value) in &analysis.table.provenance {
        *page += &format!("<tr><th scope=\"row\">{}</th><td class=\"mono\">{}</td></tr>\n", escape(key), escape(value));
    }
    *page += "</tbody>\n</table>\n</div>\n";
}
