//! The table for a terminal: aligned numbers, no wider than the screen, legible without colour.

use unicode_width::UnicodeWidthStr;

use super::analysis::Analysis;
use super::cells::{Intervals, Tone};
use super::sheet::{self, Sheet};
use super::text::{align_numbers, pad_left, pad_right, wrap};
use super::{ReportError, footer};
use crate::printable::one_line;

/// What the caller knows about the terminal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terminal {
    /// Columns of the screen; `None`: no limit (a pipe).
    pub width: Option<usize>,
    /// Whether colours may be used; the caller has looked at `NO_COLOR` and at what stdout is.
    pub color: bool,
}

/// Columns between two columns of the table.
const GAP: usize = 2;
/// A label column is never squeezed below this.
const MIN_LABEL: usize = 4;
/// A label column narrower than this and than its text is worse than a number and a legend.
const READABLE: usize = 10;

/// Renders the table with its caption and footers. Ends with a newline.
///
/// A table that is too wide is shown in several panels one under the other, each beginning with the labels; long labels
/// are wrapped, and where there are too many for the screen rows are numbered and explained above. No value is ever cut.
///
/// # Errors
/// Where the pivot fails.
pub fn terminal(analysis: &Analysis<'_>, terminal: Terminal) -> Result<String, ReportError> {
    let width = terminal.width.unwrap_or(usize::MAX).max(40);
    let mut out = String::new();
    out += &paint(&one_line(&analysis.table.name), "1", terminal.color);
    out.push('\n');
    push_lines(&mut out, &footer::caption(analysis), width, "");
    out.push('\n');
    out += &render(&sheet::main(analysis, Intervals::Arm)?, width, terminal.color)?;
    if let Some(sheet) = sheet::contrasts(analysis, Intervals::Arm)? {
        out.push('\n');
        out += &paint("Contrasts", "1", terminal.color);
        out.push('\n');
        out += &render(&sheet, width, terminal.color)?;
    }
    out.push('\n');
    push_lines(&mut out, &footer::footer(analysis, Intervals::Arm), width, "  ");
    Ok(out)
}

fn push_lines(out: &mut String, lines: &[String], width: usize, indent: &str) {
    for line in lines {
        for (i, piece) in wrap(line, width.saturating_sub(indent.len())).iter().enumerate() {
            out.push_str(if i == 0 { "" } else { indent });
            out.push_str(piece);
            out.push('\n');
        }
    }
}

fn paint(text: &str, code: &str, color: bool) -> String {
    if color && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// A sheet's cells as they will be printed, with the width of every column.
struct Layout<'a> {
    sheet: &'a Sheet,
    /// By column, then row: lines of the cell.
    cells: Vec<Vec<Vec<String>>>,
    widths: Vec<usize>,
    color: bool,
}

fn render(sheet: &Sheet, width: usize, color: bool) -> Result<String, ReportError> {
    if sheet.rows() == 0 {
        return Ok("no rows\n".to_owned());
    }
    let mut out = String::new();
    let (numbered, legend) = sheet.numbered()?;
    let mut layout = Layout::new(sheet, width, color);
    if sheet.labels > 1 && layout.is_squeezed() {
        layout = Layout::new(&numbered, width, color);
        push_lines(&mut out, &legend, width, "   ");
        out.push('\n');
    }
    for (index, panel) in layout.panels(width).iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        layout.panel(&mut out, panel, width, index == 0);
    }
    Ok(out)
}

impl<'a> Layout<'a> {
    fn new(sheet: &'a Sheet, width: usize, color: bool) -> Self {
        let mut cells = Vec::new();
        for (index, column) in sheet.columns.iter().enumerate() {
            let gap = |row: usize| if index < sheet.labels || sheet.messages[row].is_some() { "" } else { "—" };
            let texts: Vec<String> =
                (0..sheet.rows()).map(|row| sheet.text(row, index).unwrap_or(gap(row)).to_owned()).collect();
            cells.push(if column.numeric { align_numbers(&texts) } else { texts });
        }
        let header = |i: usize| sheet.columns[i].header.width();
        let natural = |i: usize| cells[i].iter().map(|text| text.width()).max().unwrap_or(0).max(header(i));
        let mut widths: Vec<usize> = (0..sheet.columns.len()).map(natural).collect();
        // Labels may take half of the screen; beyond that the widest gives way first.
        let budget = (width / 2).max(MIN_LABEL + GAP);
        let labels = sheet.labels.min(widths.len());
        while labels > 0 && widths[..labels].iter().map(|w| w + GAP).sum::<usize>() > budget {
            let Some(widest) = (0..labels).max_by_key(|i| widths[*i]).filter(|i| widths[*i] > MIN_LABEL) else { break };
            widths[widest] -= 1;
        }
        let lines = |column: usize, texts: Vec<String>| -> Vec<Vec<String>> {
            let one = |text: String| if column < labels { wrap(&text, widths[column]) } else { vec![text] };
            texts.into_iter().map(one).collect()
        };
        let cells = cells.into_iter().enumerate().map(|(column, texts)| lines(column, texts)).collect();
        Self { sheet, cells, widths, color }
    }

    /// Whether label columns became too narrow to read.
    fn is_squeezed(&self) -> bool {
        (0..self.sheet.labels).any(|column| {
            let text = |row: usize| self.sheet.text(row, column).map_or(0, UnicodeWidthStr::width);
            let natural = (0..self.sheet.rows()).map(text).max().unwrap_or(0);
            self.widths[column] < natural.min(READABLE)
        })
    }

    /// Columns of each panel, labels left out. The columns of one task stay together where they fit.
    fn panels(&self, width: usize) -> Vec<Vec<usize>> {
        let labels = self.sheet.labels;
        let room = width.saturating_sub(self.widths[..labels].iter().map(|w| w + GAP).sum::<usize>());
        let mut panels: Vec<Vec<usize>> = vec![Vec::new()];
        let mut used = vec![0];
        // Facts about the model go to the first panel that has room for them, tasks stay in their order.
        let mut first_open = 0;
        let mut column = labels;
        while column < self.widths.len() {
            let task = &self.sheet.columns[column].group;
            let same = |c: &usize| !task.is_empty() && self.sheet.columns[*c].group == *task;
            let end = (column + 1..self.widths.len()).take_while(same).last().map_or(column + 1, |last| last + 1);
            let whole: usize = self.widths[column..end].iter().map(|w| w + GAP).sum();
            let glued = |c: &usize| self.sheet.columns[*c].glued;
            let unit = (column + 1..self.widths.len()).take_while(glued).last().map_or(column + 1, |last| last + 1);
            let together: usize = self.widths[column..unit].iter().map(|w| w + GAP).sum();
            let take = match room + GAP {
                room if whole <= room => end,
                room if together <= room => unit,
                _ => column + 1,
            };
            let needed: usize = self.widths[column..take].iter().map(|w| w + GAP).sum();
            let fits = |panel: &usize| used[*panel] == 0 || used[*panel] + needed <= room + GAP;
            let from = if task.is_empty() { first_open } else { panels.len() - 1 };
            let panel = (from..panels.len()).find(fits).unwrap_or(panels.len());
            if panel == panels.len() {
                panels.push(Vec::new());
                used.push(0);
            }
            if task.is_empty() {
                first_open = panel;
            }
            panels[panel].extend(column..take);
            used[panel] += needed;
            column = take;
        }
        panels
    }

    fn panel(&self, out: &mut String, values: &[usize], width: usize, first: bool) {
        let columns: Vec<usize> = (0..self.sheet.labels).chain(values.iter().copied()).collect();
        self.task_line(out, &columns);
        let headers: Vec<Vec<String>> =
            columns.iter().map(|&c| wrap(&self.sheet.columns[c].header, self.widths[c])).collect();
        for i in 0..headers.iter().map(Vec::len).max().unwrap_or(1) {
            let text = |lines: &Vec<String>| lines.get(i).cloned().unwrap_or_default();
            let line: Vec<String> = columns.iter().zip(&headers).map(|(&c, lines)| self.pad(c, &text(lines))).collect();
            *out += &paint(&join(&line), "1", self.color);
            out.push('\n');
        }
        let total = columns.iter().map(|c| self.widths[*c] + GAP).sum::<usize>() - GAP;
        *out += &"─".repeat(total);
        out.push('\n');
        for row in 0..self.sheet.rows() {
            self.row(out, row, &columns, width, first);
        }
    }

    /// Task names over the first of their columns.
    fn task_line(&self, out: &mut String, columns: &[usize]) {
        let mut line = String::new();
        let mut position = 0;
        let mut previous = "";
        for &column in columns {
            let task = self.sheet.columns[column].group.as_str();
            if !task.is_empty() && task != previous {
                let at = line.width();
                // A name longer than its columns pushes nothing aside: it only moves the next name.
                line += &" ".repeat(position.max(at + usize::from(at > 0)) - at);
                line += task;
            }
            previous = task;
            position += self.widths[column] + GAP;
        }
        if !line.is_empty() {
            *out += &line;
            out.push('\n');
        }
    }

    fn pad(&self, column: usize, text: &str) -> String {
        let width = self.widths[column];
        if self.sheet.columns[column].numeric { pad_left(text, width) } else { pad_right(text, width) }
    }

    fn row(&self, out: &mut String, row: usize, columns: &[usize], width: usize, first: bool) {
        let labels = self.sheet.labels;
        let indent: usize = self.widths[..labels].iter().map(|w| w + GAP).sum();
        let message = self.sheet.messages[row].as_deref().filter(|_| first);
        let message = message.map_or_else(Vec::new, |text| wrap(text, width.saturating_sub(indent).max(20)));
        let cell_height = columns.iter().map(|c| self.cells[*c][row].len()).max().unwrap_or(1);
        for i in 0..cell_height.max(message.len()) {
            let mut cells = Vec::new();
            for &column in columns.iter().filter(|c| self.sheet.messages[row].is_none() || **c < labels) {
                let text = self.cells[column][row].get(i).map_or("", String::as_str);
                let padded = self.pad(column, text);
                cells.push(match self.sheet.tones[row][column] {
                    Tone::Plain => padded,
                    Tone::Better => paint(&padded, "32", self.color),
                    Tone::Worse => paint(&padded, "31", self.color),
                });
            }
            if let Some(text) = message.get(i) {
                cells.push(paint(text, "33", self.color));
            }
            *out += &join(&cells);
            out.push('\n');
        }
    }
}

fn join(cells: &[String]) -> String {
    cells.join(&" ".repeat(GAP)).trim_end().to_owned()
}
