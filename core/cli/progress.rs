//! Events as a person follows them: bars on a terminal, lines elsewhere.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::style;
use crate::{
    exec::{End, Event, NodeEvent},
    graph::Key,
    printable,
    words::plural,
};

/// Draws the events of a run on standard error.
pub(super) struct Renderer {
    bars: Option<MultiProgress>,
    running: BTreeMap<Key, ProgressBar>,
    quiet: bool,
}

impl Renderer {
    /// A renderer for this terminal; `quiet` draws nothing.
    pub(super) fn new(quiet: bool) -> Self {
        let bars = (!quiet && style::bars()).then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { bars, running: BTreeMap::new(), quiet }
    }

    /// Draws one event.
    pub(super) fn show(&mut self, event: &Event) {
        if self.quiet {
            return;
        }
        match event {
            Event::NodeStarted { key, label, index, of } => self.started(key, label, *index, *of),
            Event::Node { key, said } => self.said(key, said),
            Event::NodeEnded { key, label, seconds, end, index, of } => {
                if let Some(bar) = self.running.remove(key) {
                    bar.finish_and_clear();
                }
                let place = format!("[{index:>w$}/{of}]", w = of.to_string().len());
                let time = duration(*seconds);
                match end {
                    End::Done => self.line(&format!("{place} done     {label}  {time}")),
                    End::Failed { message, causes, hints } => {
                        self.line(&format!("{place} FAILED   {label}  {time}"));
                        self.line(&format!(
                            "    {}",
                            std::iter::once(message).chain(causes).cloned().collect::<Vec<_>>().join(": ")
                        ));
                        hints.iter().for_each(|hint| self.line(&format!("    hint: {hint}")));
                    }
                    End::Skipped { because } => self.line(&format!("{place} skipped  {label}  ({because})")),
                    End::Interrupted => {
                        self.line(&format!("{place} interrupted  {label}  {time}  (the same command goes on with it)"));
                    }
                    End::Cancelled => self.line(&format!("{place} stopped  {label}")),
                }
            }
            Event::Interrupting { running } => {
                let nodes = plural(*running, "running node");
                let (they, them) = if *running == 1 { ("it", "it") } else { ("they", "them") };
                self.line(&format!(
                    "stopping {nodes} where {they} can be continued; press Ctrl-C again to end {them} at once"
                ));
            }
            Event::RunStarted { .. } | Event::RunEnded { .. } | Event::Closed { .. } => {}
        }
    }

    /// Prints a line between the bars. What begins further lines is indented, so that no message looks like another one.
    pub(super) fn line(&self, text: &str) {
        let text = printable::lines(text).replace('\n', "\n      ");
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(text);
            }
            None => style::note(&text),
        }
    }

    fn started(&mut self, key: &Key, label: &str, index: usize, of: usize) {
        let Some(bars) = &self.bars else { return };
        let bar = bars.add(ProgressBar::new_spinner());
        if let Ok(look) = ProgressStyle::with_template("{prefix} {wide_msg} {elapsed}") {
            bar.set_style(look);
        }
        bar.set_prefix(format!("[{index}/{of}]"));
        bar.set_message(printable::one_line(label).into_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        self.running.insert(key.clone(), bar);
    }

    fn said(&mut self, key: &Key, said: &NodeEvent) {
        match said {
            NodeEvent::Progress { done, total, unit } => {
                let Some(bar) = self.running.get(key) else { return };
                if bar.length() != Some(*total) {
                    bar.set_length(*total);
                    let unit = printable::one_line(unit).replace(['{', '}'], "");
                    let template =
                        format!("{{prefix}} {{wide_msg}} {{bar:16}} {{pos}}/{{len}} {unit} {{elapsed}}<{{eta}}");
                    if let Ok(look) = ProgressStyle::with_template(&template) {
                        bar.set_style(look);
                    }
                }
                bar.set_position(*done);
            }
            NodeEvent::Log { level, message } if level == "warn" || level == "error" => {
                self.line(&format!("    {level}: {message}"))
            }
            _ => {}
        }
    }
}

/// Seconds for people.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!("{:.0} h {:02.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations() {
        assert_eq!(
            [0.04, 59.9, 61.0, 3600.0, 7322.0].map(duration),
            ["0.0 s", "59.9 s", "1 min 01 s", "1 h 00 min", "2 h 02 min"]
        );
    }
}
