//! Whether a row may take the place of what it is compared with: verdicts at a margin.
//!
//! That no difference was found says little: with few items none ever is. A margin is what its user would give up. A row is *not worse* where
//! the 95 % interval of the paired difference leaves room for less harm than that (a one-sided test of non-inferiority at 2.5 %, as in ICH
//! E9, section 3.3.2), *worse* where it leaves room for nothing less, and undecided in between.

use super::aggregate::MetricKey;
use super::analysis::Analysis;
use super::compare::Paired;
use super::stats::{Z_80, Z_975};
use super::{cells, format};

/// What a margin decides of a paired difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The harm is below the margin.
    NotWorse,
    /// The harm is above the margin.
    Worse,
    /// Either can be.
    Undecided {
        /// Items that would decide for "not worse" four times in five, if difference and spread are what they seem; `None` where the
        /// difference itself is beyond the margin, or several seeds have their part in it.
        items: Option<u64>,
    },
}

impl Verdict {
    /// The verdict on `left - right` where higher values are better or worse, at a margin above zero on the scale of the difference.
    #[must_use]
    pub fn of(paired: &Paired, higher_is_better: bool, margin: f64) -> Self {
        let Some(interval) = paired.interval else { return Self::Undecided { items: None } };
        let (harm, least, most) = match higher_is_better {
            true => (-paired.difference, -interval.high, -interval.low),
            false => (paired.difference, interval.low, interval.high),
        };
        if most < margin {
            return Self::NotWorse;
        }
        if least > margin {
            return Self::Worse;
        }
        let room = Some(margin - harm).filter(|room| *room > 0.0 && !paired.over_seeds);
        Self::Undecided { items: room.and_then(|room| items_for(paired, room)) }
    }

    /// The word for it in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotWorse => "not worse",
            Self::Worse => "worse",
            Self::Undecided { .. } => "undecided",
        }
    }

    /// Items that it would take.
    #[must_use]
    pub fn items(self) -> Option<u64> {
        match self {
            Self::Undecided { items } => items,
            _ => None,
        }
    }
}

/// Items with which an interval would leave no more than `room` on the side of the harm, four times in five.
fn items_for(paired: &Paired, room: f64) -> Option<u64> {
    let items = match paired.discordance {
        // Of items that are right or wrong: by the variance of their differences, and where nothing is discordant by what a share of none
        // leaves open (Wilson's end of 0 of n is z² / (n + z²)).
        Some(counts) => {
            let n = counts.items as f64;
            let discordant = (counts.left_only + counts.right_only) as f64 / n;
            let variance = discordant - counts.difference().powi(2);
            let by_variance = variance * ((Z_975 + Z_80) / room).powi(2);
            by_variance.max(Z_975 * Z_975 * (1.0 / room - 1.0))
        }
        // An arm falls with the root of the number of items.
        None => paired.items as f64 * (paired.detectable? / room).powi(2),
    };
    Some(items.ceil() as u64)
}

impl Analysis<'_> {
    /// The margin of a metric on its stored scale: what was given for the metric of this task, or for all metrics of its name.
    #[must_use]
    pub fn margin(&self, key: &MetricKey) -> Option<f64> {
        let of = |name: &str| self.table.margins.iter().find(|(metric, _)| metric == name);
        let given = of(&format!("{}.{}", key.task, key.name)).or_else(|| of(&key.name));
        given.filter(|_| key.higher_is_better.is_some()).map(|(_, margin)| margin / cells::scale(key))
    }

    /// One warning per margin that decides nothing.
    pub(super) fn idle_margins(&self) -> Vec<String> {
        let all = || self.against_baseline.iter().chain(&self.contrasts);
        let names = |key: &MetricKey, name: &str| key.name == name || format!("{}.{}", key.task, key.name) == name;
        let decides = |name: &str| all().any(|c| self.metrics.get(c.metric).is_some_and(|key| names(key, name)));
        let idle = self.table.margins.iter().filter(|(name, _)| !decides(name));
        idle.map(|(name, _)| {
            format!("margin of {name}: no two rows are compared by it, but by what stands for its task")
        })
        .collect()
    }

    /// What the margin of its metric says about a comparison; `None` without one, or where nothing could be paired.
    #[must_use]
    pub fn verdict(&self, comparison: &super::Comparison) -> Option<Verdict> {
        let key = self.metrics.get(comparison.metric)?;
        let paired = comparison.outcome.as_ref().ok()?;
        Some(Verdict::of(paired, key.higher_is_better?, self.margin(key)?))
    }
}

/// The verdict in a cell.
pub(super) fn text(verdict: Verdict) -> (String, cells::Tone) {
    match verdict {
        Verdict::NotWorse => ("not worse".to_owned(), cells::Tone::Better),
        Verdict::Worse => ("worse".to_owned(), cells::Tone::Worse),
        Verdict::Undecided { items: None } => ("undecided".to_owned(), cells::Tone::Plain),
        Verdict::Undecided { items: Some(items) } => {
            let needed = format::plural(usize::try_from(items).unwrap_or(usize::MAX), "item");
            (format!("undecided ({needed})"), cells::Tone::Plain)
        }
    }
}

/// What the margins are and what the words mean, for the lines under a table; `None` where there are none.
pub(super) fn explained(analysis: &Analysis<'_>) -> Option<String> {
    let shown = |key: &&MetricKey| key.is_tested() && analysis.margin(key).is_some();
    let parts: Vec<String> = analysis
        .metrics
        .iter()
        .filter(shown)
        .filter_map(|key| {
            let margin = analysis.margin(key)? * cells::scale(key);
            Some(format!(
                "{} {} {}{}",
                key.task,
                cells::difference_header(key),
                format::short(margin),
                cells::unit(key)
            ))
        })
        .collect();
    (!parts.is_empty()).then(|| {
        format!(
            "Margins: {}. not worse: the 95 % interval of the difference leaves room for less harm than the margin (one-sided, 2.5 %; each row \
             for itself); worse: for nothing less; undecided: either, with the items that it would take if difference and spread stayed what \
             they are.",
            parts.join("; ")
        )
    })
}
