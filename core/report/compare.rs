//! Which cells are compared, how they are paired, and what the tests say.

use std::collections::{BTreeMap, HashMap};

use super::aggregate::{Group, Items, MetricKey, RawCell};
use super::input::{Contrast, Labels, MetricKind, SEED_LABEL};
use super::labels;
use super::stats::rates::{self, Discordance};
use super::stats::{Bootstrap, Interval, Resamples, SeedSpread, bootstrap, holm};

/// Seed of the bootstrap's draws. Fixed: the same records give the same table.
const SEED: u64 = 0x0074_6162_6c65;

/// Which method produced an interval or a p-value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Wilson's interval of a share.
    Wilson,
    /// McNemar's exact test with Tango's interval.
    McNemar,
    /// Studentized bootstrap over items.
    Bootstrap,
}

/// The two lines of a comparison, and why they are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Group whose value comes first in the difference.
    pub left: usize,
    /// Group that it is compared with.
    pub right: usize,
    /// Index of the declared contrast; `None`: `right` is the baseline.
    pub contrast: Option<usize>,
}

/// One paired comparison of one metric.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The two groups.
    pub pair: Pair,
    /// Index of the metric.
    pub metric: usize,
    /// Difference and test, or the reason why the two cannot be paired.
    pub outcome: Result<Paired, String>,
}

/// A paired difference `left - right`.
#[derive(Debug, Clone)]
pub struct Paired {
    /// Difference of the two estimates; nats per token for the likelihood, a share for rates.
    pub difference: f64,
    /// Its 95 % interval; `None` where there are too few items, or too few that differ.
    pub interval: Option<Interval>,
    /// Two-sided p-value; `None` where no test was possible.
    pub p_value: Option<f64>,
    /// The p-value is the smallest that the resamples can tell from zero: an upper bound.
    pub p_is_bound: bool,
    /// The p-value after Holm's adjustment; `None` where the comparison is not of the tested family.
    pub p_adjusted: Option<f64>,
    /// Number of paired items.
    pub items: usize,
    /// Method behind interval and p-value.
    pub method: Method,
    /// Discordant items, for right / wrong items.
    pub discordance: Option<Discordance>,
    /// Smallest true difference that it would have found with 80 % power.
    pub detectable: Option<f64>,
    /// Several seeds have their part in interval and test.
    pub over_seeds: bool,
}

impl Paired {
    /// Whether the adjusted test finds a difference at 5 %.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.p_adjusted.is_some_and(|p| p <= 0.05)
    }
}

/// Resamples by number of items, drawn once for all rows and metrics.
pub(super) struct ResampleCache {
    by_items: HashMap<usize, Resamples>,
}

impl ResampleCache {
    /// Draws for every number of items that occurs, enough for a family of `family` tests.
    pub(super) fn new(items: impl Iterator<Item = usize>, family: usize) -> Self {
        let mut by_items = HashMap::new();
        for items in items.filter(|items| *items >= bootstrap::MIN_ITEMS) {
            by_items.entry(items).or_insert_with(|| {
                Resamples::new(items, Resamples::replicates_for(items, family), SEED ^ ((items as u64) << 32))
            });
        }
        Self { by_items }
    }

    fn ratio(&self, weights: &[f64], sums: &[f64], seeds: Option<SeedSpread>) -> Option<Bootstrap> {
        Some(Bootstrap::ratio(weights, sums, self.by_items.get(&weights.len())?)?.over_seeds(seeds))
    }
}

/// Interval of one estimate: Wilson's for right / wrong items, the bootstrap's for everything else. Items that are right or wrong where
/// there are several seeds are so with every seed.
pub(super) fn interval(
    items: &Items,
    seeds: &[f64],
    key: &MetricKey,
    cache: &ResampleCache,
) -> (Option<Interval>, Method) {
    if key.kind == MetricKind::Rate && items.is_binary() {
        let right = items.sums.iter().filter(|sum| **sum == 1.0).count() as u64;
        return (rates::wilson(right, items.sums.len() as u64), Method::Wilson);
    }
    let bootstrap = cache.ratio(&items.weights, &items.sums, SeedSpread::of(seeds));
    let (low, high) = key.bounds();
    (bootstrap.and_then(|b| b.interval()).map(|interval| interval.clamped(low, high)), Method::Bootstrap)
}

/// Every group but the baseline against the baseline.
pub(super) fn against_baseline(groups: usize, baseline: Option<usize>) -> Vec<Pair> {
    let Some(right) = baseline else { return Vec::new() };
    (0..groups).filter(|left| *left != right).map(|left| Pair { left, right, contrast: None }).collect()
}

/// The pairs of groups that a contrast names: equal in every label that it does not mention.
pub(super) fn matched(contrast: &Contrast, index: usize, groups: &[Group]) -> Vec<Pair> {
    let named: Vec<&str> = contrast.left.iter().chain(&contrast.right).map(|(key, _)| key.as_str()).collect();
    let has = |group: &Group, wanted: &Labels| {
        !wanted.is_empty() && wanted.iter().all(|(key, value)| labels::get(&group.labels, key) == value)
    };
    let equal_elsewhere = |a: &Group, b: &Group| {
        labels::keys([&a.labels, &b.labels].into_iter())
            .iter()
            .filter(|key| !named.contains(&key.as_str()) && *key != SEED_LABEL)
            .all(|key| labels::get(&a.labels, key) == labels::get(&b.labels, key))
    };
    let mut pairs = Vec::new();
    for (left, a) in groups.iter().enumerate().filter(|(_, group)| has(group, &contrast.left)) {
        for (right, b) in groups.iter().enumerate().filter(|(_, group)| has(group, &contrast.right)) {
            if left != right && equal_elsewhere(a, b) {
                pairs.push(Pair { left, right, contrast: Some(index) });
            }
        }
    }
    pairs
}

/// Pairs two cells and tests their difference; the adjustment comes later, over the family.
pub(super) fn compare(
    left: &RawCell,
    right: &RawCell,
    key: &MetricKey,
    names: &[String],
    cache: &ResampleCache,
) -> Result<Paired, String> {
    let (a, b) = (left.items.as_ref().map_err(Clone::clone)?, right.items.as_ref().map_err(Clone::clone)?);
    if left.protocol != right.protocol {
        return Err("scored under different protocols".to_owned());
    }
    if left.subject != right.subject {
        return Err("scored on different tokens or questions: their tokenizers read the text differently, or their task files hold others".to_owned());
    }
    if left.references != right.references {
        return Err("divergences from different models".to_owned());
    }
    check_pairing(a, b, names)?;
    let difference = a.estimate() - b.estimate();
    if key.kind == MetricKind::Rate && a.is_binary() && b.is_binary() {
        return Ok(right_and_wrong(a, b));
    }
    let sums: Vec<f64> = a.sums.iter().zip(&b.sums).map(|(x, y)| x - y).collect();
    let seeds = seed_spread(left, right);
    let bootstrap = cache.ratio(&a.weights, &sums, seeds);
    Ok(Paired {
        difference: bootstrap.as_ref().map_or(difference, |b| b.estimate),
        interval: bootstrap.as_ref().and_then(Bootstrap::interval),
        p_value: bootstrap.as_ref().map(Bootstrap::p_value),
        p_is_bound: bootstrap.as_ref().is_some_and(|b| b.p_value() <= b.smallest_p_value()),
        p_adjusted: None,
        items: a.ids.len(),
        method: Method::Bootstrap,
        discordance: None,
        detectable: bootstrap.as_ref().and_then(Bootstrap::detectable_difference).filter(|d| *d > 0.0),
        over_seeds: seeds.is_some(),
    })
}

/// What the difference of two cells owes to their seeds. Rows with the same seeds are paired seed by seed, as they are item by item.
fn seed_spread(left: &RawCell, right: &RawCell) -> Option<SeedSpread> {
    let by_seed = |cell: &RawCell| -> BTreeMap<String, f64> {
        cell.seeds.iter().cloned().zip(cell.per_seed.iter().copied()).collect()
    };
    let (a, b) = (by_seed(left), by_seed(right));
    if a.len() > 1 && a.keys().eq(b.keys()) {
        return SeedSpread::of(&a.values().zip(b.values()).map(|(x, y)| x - y).collect::<Vec<_>>());
    }
    SeedSpread::beside(SeedSpread::of(&left.per_seed), SeedSpread::of(&right.per_seed))
}

/// Both sides must hold the same items with the same weights: anything else is no paired comparison.
fn check_pairing(a: &Items, b: &Items, names: &[String]) -> Result<(), String> {
    let name = |id: u32| names.get(id as usize).map_or("", String::as_str);
    let only = |x: &Items, y: &Items| -> Vec<u32> {
        x.ids.iter().copied().filter(|id| y.ids.binary_search(id).is_err()).collect()
    };
    let (left_only, right_only) = (only(a, b), only(b, a));
    if let Some(example) = left_only.first().or(right_only.first()) {
        let (n, m) = (left_only.len(), right_only.len());
        return Err(format!("items differ: {n} only on the left, {m} only on the right, e.g. `{}`", name(*example)));
    }
    let weights = || a.ids.iter().zip(a.weights.iter().zip(&b.weights));
    if let Some((id, (x, y))) = weights().find(|(_, (x, y))| x != y) {
        return Err(format!(
            "items have different weights: `{}` stands for {x} on the left, {y} on the right",
            name(*id)
        ));
    }
    Ok(())
}

fn right_and_wrong(a: &Items, b: &Items) -> Paired {
    let count = |x: f64, y: f64| a.sums.iter().zip(&b.sums).filter(|(s, t)| **s == x && **t == y).count() as u64;
    let counts = Discordance { left_only: count(1.0, 0.0), right_only: count(0.0, 1.0), items: a.ids.len() as u64 };
    Paired {
        difference: counts.difference(),
        interval: rates::tango(counts),
        p_value: Some(rates::mcnemar_exact(counts)),
        p_is_bound: false,
        p_adjusted: None,
        items: a.ids.len(),
        method: Method::McNemar,
        discordance: Some(counts),
        detectable: rates::detectable_difference(counts),
        over_seeds: false,
    }
}

/// Adjusts the p-values of `comparisons` by Holm, one family per metric: metrics are read as separate questions, the
/// rows under one metric as one.
pub(super) fn adjust(comparisons: &mut [Comparison]) {
    let mut families: HashMap<usize, Vec<usize>> = HashMap::new();
    for (index, comparison) in comparisons.iter().enumerate() {
        if matches!(&comparison.outcome, Ok(paired) if paired.p_value.is_some()) {
            families.entry(comparison.metric).or_default().push(index);
        }
    }
    for members in families.values() {
        let p_of = |index: &usize| comparisons[*index].outcome.as_ref().ok().and_then(|paired| paired.p_value);
        let p_values: Vec<f64> = members.iter().filter_map(p_of).collect();
        for (index, adjusted) in members.iter().zip(holm(&p_values)) {
            if let Ok(paired) = &mut comparisons[*index].outcome {
                paired.p_adjusted = Some(adjusted);
            }
        }
    }
}
