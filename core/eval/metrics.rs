//! What each kind of evaluation measures: its metrics, with their units and directions, stand here and nowhere else.

use super::{MetricInfo, Unit};

/// A kind of evaluation, as nodes and records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Loss on running text.
    Perplexity,
    /// Kullback-Leibler divergence from a reference model.
    Divergence,
    /// Multiple choice by log-likelihood.
    Choice,
    /// Answers that the model writes.
    Generate,
}

/// A quantity that is recorded of every item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub unit: Unit,
    pub higher_is_better: bool,
}

const fn nats(name: &'static str) -> Metric {
    Metric { name, unit: Unit::Nats, higher_is_better: false }
}

const fn rate(name: &'static str) -> Metric {
    Metric { name, unit: Unit::Rate, higher_is_better: true }
}

const ALL: [Method; 4] = [Method::Perplexity, Method::Divergence, Method::Choice, Method::Generate];

impl Method {
    /// The word for it in scripts, keys and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity",
            Self::Divergence => "kl",
            Self::Choice => "choice",
            Self::Generate => "generate",
        }
    }

    /// The one of a word.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|method| method.name() == name)
    }

    /// What it measures. The first stands for it in a table, unless a task file chooses another.
    pub fn metrics(self) -> &'static [Metric] {
        const PERPLEXITY: [Metric; 2] = [nats("nll"), rate("token_acc")];
        const DIVERGENCE: [Metric; 2] = [nats("kl"), rate("top1")];
        const CHOICE: [Metric; 3] = [rate("acc"), rate("acc_norm"), rate("acc_bytes")];
        const GENERATE: [Metric; 1] = [rate("acc")];
        match self {
            Self::Perplexity => &PERPLEXITY,
            Self::Divergence => &DIVERGENCE,
            Self::Choice => &CHOICE,
            Self::Generate => &GENERATE,
        }
    }

    /// The metrics for a record, the one that stands for it first.
    pub(super) fn metric_infos(self) -> Vec<MetricInfo> {
        self.metrics().iter().map(MetricInfo::from).collect()
    }

    /// The same with another one first.
    pub(super) fn metric_infos_with(self, primary: &str) -> Vec<MetricInfo> {
        let mut metrics = self.metric_infos();
        if let Some(place) = metrics.iter().position(|metric| metric.name == primary) {
            metrics[..=place].rotate_right(1);
        }
        metrics
    }
}

impl From<&Metric> for MetricInfo {
    fn from(metric: &Metric) -> Self {
        Self { name: metric.name.to_owned(), unit: metric.unit, higher_is_better: metric.higher_is_better }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_methods_are_one_to_one() {
        for method in ALL {
            assert_eq!(Method::named(method.name()), Some(method));
            assert!(!method.metrics().is_empty());
        }
        assert_eq!(Method::named("accuracy"), None);
    }

    #[test]
    fn the_metric_that_a_task_chooses_comes_first() {
        let names = |primary: &str| -> Vec<String> {
            Method::Choice.metric_infos_with(primary).into_iter().map(|metric| metric.name).collect()
        };
        assert_eq!(names("acc"), ["acc", "acc_norm", "acc_bytes"]);
        assert_eq!(names("acc_norm"), ["acc_norm", "acc", "acc_bytes"]);
    }
}
