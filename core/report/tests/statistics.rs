//! What the table says about its rows: pairing, families, seeds, and data that cannot be used.

use super::synthetic::*;
use super::*;

fn simple(name: &str, kind: MetricKind, values: &[(&str, f64, f64)]) -> TaskResult {
    let items = values.iter().map(|(id, weight, sum)| Item { id: (*id).into(), weight: *weight, sum: *sum }).collect();
    let metric = Metric { name: name.into(), kind, higher_is_better: Some(true), items, unparsed: 0 };
    TaskResult {
        task: "t".into(),
        protocol: "p".into(),
        subject: None,
        reference: None,
        primary: name.into(),
        metrics: vec![metric],
    }
}

fn two(left: TaskResult, right: TaskResult) -> Table {
    let row = |index: usize, task: TaskResult| Row {
        labels: labels(json!({"row": index})),
        tasks: vec![task],
        ..Row::default()
    };
    Table { name: "two".into(), baseline: Some(0), rows: vec![row(0, right), row(1, left)], ..Table::default() }
}

fn outcome(table: &Table) -> Result<Paired, String> {
    let analysis = Analysis::new(table).unwrap();
    assert_eq!(analysis.against_baseline.len(), 1);
    analysis.against_baseline[0].outcome.clone()
}

const BASE: [(&str, f64, f64); 6] =
    [("a", 1.0, 1.0), ("b", 1.0, 0.0), ("c", 1.0, 1.0), ("d", 1.0, 1.0), ("e", 1.0, 0.0), ("f", 1.0, 1.0)];

#[test]
fn right_and_wrong_items_are_paired_by_name() {
    // The same items in another order, with `a` lost, and `b` and `e` won.
    let other = [("f", 1.0, 1.0), ("e", 1.0, 1.0), ("a", 1.0, 0.0), ("b", 1.0, 1.0), ("d", 1.0, 1.0), ("c", 1.0, 1.0)];
    let table = two(simple("acc", MetricKind::Rate, &other), simple("acc", MetricKind::Rate, &BASE));
    let paired = outcome(&table).unwrap();
    let counts = paired.discordance.unwrap();
    assert_eq!((counts.left_only, counts.right_only, counts.items), (2, 1, 6));
    assert_eq!(paired.method, Method::McNemar);
    assert_eq!((paired.p_value, paired.p_adjusted), (Some(1.0), Some(1.0)));
    assert!((paired.difference - 1.0 / 6.0).abs() < 1e-12);
}

#[test]
fn different_items_are_not_compared() {
    let table = two(simple("acc", MetricKind::Rate, &BASE[1..]), simple("acc", MetricKind::Rate, &BASE[..5]));
    let reason = outcome(&table).unwrap_err();
    assert_eq!(reason, "items differ: 1 only on the left, 1 only on the right, e.g. `f`");
    let text = terminal(&Analysis::new(&table).unwrap(), Terminal::default()).unwrap();
    assert!(text.contains("unpaired") && text.contains(&reason), "{text}");
}

#[test]
fn different_weights_are_not_compared() {
    let heavier: Vec<_> = BASE.iter().map(|(id, weight, sum)| (*id, 2.0 * weight, *sum)).collect();
    let table = two(simple("nll", MetricKind::MeanNats, &heavier), simple("nll", MetricKind::MeanNats, &BASE));
    assert_eq!(
        outcome(&table).unwrap_err(),
        "items have different weights: `a` stands for 2 on the left, 1 on the right"
    );
}

#[test]
fn different_protocols_are_not_compared() {
    let mut other = simple("acc", MetricKind::Rate, &BASE);
    other.protocol = "0-shot".into();
    let table = two(other, simple("acc", MetricKind::Rate, &BASE));
    assert_eq!(outcome(&table).unwrap_err(), "scored under different protocols");
    let warnings = Analysis::new(&table).unwrap().warnings;
    assert_eq!(warnings, ["t: rows were scored under different protocols and are not compared"]);
}

#[test]
fn unusable_items_are_named() {
    for (bad, message) in [
        (("a", 1.0, f64::NAN), "item `a` has the value NaN over the weight 1"),
        (("a", 0.0, 1.0), "item `a` has the value 1 over the weight 0"),
        (("b", 1.0, 1.0), "item `b` is listed twice"),
    ] {
        let mut items = BASE;
        items[0] = bad;
        let table = two(simple("acc", MetricKind::Rate, &items), simple("acc", MetricKind::Rate, &BASE));
        let text = terminal(&Analysis::new(&table).unwrap(), Terminal::default()).unwrap();
        assert!(text.contains(&format!("row=1, t acc: {message}")), "{text}");
        assert!(text.contains("unusable"), "{text}");
        assert_eq!(outcome(&table).unwrap_err(), message);
    }
}

#[test]
fn few_items_have_an_estimate_and_no_interval() {
    let table = two(simple("f1", MetricKind::Mean, &BASE[1..4]), simple("f1", MetricKind::Mean, &BASE[1..4]));
    let analysis = Analysis::new(&table).unwrap();
    let cell = analysis.cell(1, 0).unwrap();
    assert_eq!((cell.estimate.clone(), cell.interval), (Ok(2.0 / 3.0), None));
    let paired = outcome(&table).unwrap();
    assert_eq!((paired.difference, paired.interval, paired.p_value), (0.0, None, None));
}

#[test]
fn estimates_are_ratios_of_sums() {
    let weighted = [("a", 10.0, 30.0), ("b", 30.0, 60.0), ("c", 5.0, 20.0), ("d", 5.0, 10.0), ("e", 50.0, 130.0)];
    let table = two(simple("nll", MetricKind::MeanNats, &weighted), simple("nll", MetricKind::MeanNats, &weighted));
    let analysis = Analysis::new(&table).unwrap();
    let cell = analysis.cell(0, 0).unwrap();
    assert_eq!(cell.estimate, Ok(2.5));
    assert!(cell.interval.unwrap().low < 2.5 && cell.interval.unwrap().high > 2.5);
    assert_eq!((cell.items, cell.weight), (5, 100.0));
}

#[test]
fn the_order_of_items_and_rows_changes_nothing() {
    let table = ablation();
    let mut shuffled = table.clone();
    for row in &mut shuffled.rows {
        for metric in row.tasks.iter_mut().flat_map(|task| &mut task.metrics) {
            metric.items.reverse();
        }
    }
    shuffled.rows[1..].reverse();
    let (one, other) = (Analysis::new(&table).unwrap(), Analysis::new(&shuffled).unwrap());
    for comparison in &one.against_baseline {
        let group = one.groups.len() - comparison.pair.left;
        let same = other.difference(group, comparison.metric).unwrap();
        let (a, b) = (comparison.outcome.as_ref().unwrap(), same.outcome.as_ref().unwrap());
        assert_eq!((a.difference, a.interval, a.p_value), (b.difference, b.interval, b.p_value));
        // Ties share a place in Holm's order, so the adjusted values agree too.
        assert_eq!(a.p_adjusted, b.p_adjusted);
    }
}

#[test]
fn holm_runs_over_the_rows_of_each_metric() {
    let table = ablation();
    let analysis = Analysis::new(&table).unwrap();
    for metric in 0..analysis.metrics.len() {
        let family: Vec<&Paired> = analysis
            .against_baseline
            .iter()
            .filter(|c| c.metric == metric)
            .map(|c| c.outcome.as_ref().unwrap())
            .collect();
        let raw: Vec<f64> = family.iter().map(|p| p.p_value.unwrap()).collect();
        let adjusted: Vec<f64> = family.iter().map(|p| p.p_adjusted.unwrap()).collect();
        assert_eq!(adjusted, stats::holm(&raw));
        assert!(raw.is_empty() || raw.len() == 4, "the failed row is no test: {}", raw.len());
    }
}

#[test]
fn contrasts_match_rows_that_are_equal_elsewhere() {
    let table = contrasted();
    let analysis = Analysis::new(&table).unwrap();
    let pairs: Vec<(usize, usize)> =
        analysis.contrasts.iter().filter(|c| c.metric == 0).map(|c| (c.pair.left, c.pair.right)).collect();
    // static against dynamic: with `[]` (with down_proj left out the dynamic row failed); down_proj left out against not.
    assert_eq!(pairs, [(2, 4), (3, 2)]);
    assert!(analysis.against_baseline.iter().all(|c| c.outcome.as_ref().unwrap().p_adjusted.is_none()));
    assert!(analysis.contrasts.iter().all(|c| c.outcome.as_ref().unwrap().p_adjusted.is_some()));
}

/// A distance to the base model is a comparison already: it is tested between rows, not against the baseline again.
#[test]
fn divergences_are_tested_in_contrasts_only() {
    let mut table = contrasted();
    for row in &mut table.rows {
        let divergence: Vec<Metric> =
            row.tasks.iter_mut().flat_map(|task| task.metrics.extract_if(1.., |_| true)).collect();
        if !divergence.is_empty() {
            let task = TaskResult {
                task: "kl".into(),
                protocol: "p".into(),
                subject: None,
                reference: None,
                primary: "kl".into(),
                metrics: divergence,
            };
            row.tasks.push(task);
        }
    }
    let analysis = Analysis::new(&table).unwrap();
    let kl = analysis.metrics.iter().position(|key| key.name == "kl").unwrap();
    assert!(analysis.metrics[kl].primary);
    assert!(analysis.against_baseline.iter().all(|c| c.metric != kl));
    let tested = analysis.contrasts.iter().find(|c| c.metric == kl).unwrap().outcome.as_ref().unwrap();
    assert!(tested.is_significant() && tested.difference > 0.3);
    let text = terminal(&analysis, Terminal::default()).unwrap();
    assert_eq!(text.matches("ΔKL").count(), 2, "the contrasts' header and the smallest detectable difference: {text}");
}

#[test]
fn a_contrast_without_rows_is_said_aloud() {
    let mut table = ablation();
    table.contrasts = vec![contrast(json!({"activations": "statik"}), json!({"activations": "dynamic"}))];
    let warnings = Analysis::new(&table).unwrap().warnings;
    assert_eq!(
        warnings,
        ["contrast activations=statik against activations=dynamic: no two rows that are equal in all other labels"]
    );
}

/// A difference of two rows is the difference of their estimates, and transitive.
#[test]
fn differences_add_up() {
    let table = contrasted();
    let analysis = Analysis::new(&table).unwrap();
    let difference = |group: usize| analysis.difference(group, 0).unwrap().outcome.as_ref().unwrap().difference;
    let declared = analysis.contrasts[0].outcome.as_ref().unwrap().difference;
    assert!((difference(2) - difference(4) - declared).abs() < 1e-12);
}

#[test]
fn seeds_are_one_line_with_their_own_spread() {
    let table = seeded();
    let analysis = Analysis::new(&table).unwrap();
    assert_eq!(analysis.groups.iter().map(|group| group.rows.len()).collect::<Vec<_>>(), [1, 5, 5]);
    let cell = analysis.cell(1, 0).unwrap();
    assert_eq!(cell.per_seed.len(), 5);
    // Item means over the seeds: all seeds have the same items and weights, so the estimate is the mean of theirs.
    let mean = cell.per_seed.iter().sum::<f64>() / 5.0;
    assert!((cell.estimate.clone().unwrap() - mean).abs() < 1e-12);
}

/// A row that was repeated is compared by its seeds too: with the same ones on both sides seed by seed, else as independent draws.
#[test]
fn seeds_are_drawn_as_items_are() {
    let arm = |table: &Table, left: Value, right: Value| {
        let mut table = table.clone();
        table.contrasts = vec![contrast(left, right)];
        let analysis = Analysis::new(&table).unwrap();
        let of_baseline = analysis.difference(1, 0).unwrap().outcome.as_ref().unwrap().interval.unwrap();
        let declared = analysis.contrasts[0].outcome.as_ref().unwrap().interval.unwrap();
        [of_baseline.half_width(), declared.half_width()]
    };
    let (left, right) = (json!({"variant": "gptq"}), json!({"variant": "rotate+gptq"}));
    // The damage of a variant differs by a tenth of itself from seed to seed, beside what its items draw: .005 of the differences with the
    // baseline, .002 of the paired ones of the variants, .005 and .003 of unpaired ones; by Student's t of four degrees of freedom.
    let near = |found: f64, step: f64| {
        let expected = 2.776_445_105 * step * 2.5_f64.sqrt() / 5.0_f64.sqrt();
        assert!((0.7 * expected..1.7 * expected).contains(&found), "{found} for {expected}");
    };
    let [of_baseline, paired] = arm(&seeded(), left.clone(), right.clone());
    near(of_baseline, 0.005);
    near(paired, 0.002);
    // Other seeds on one side: nothing to pair.
    let mut table = seeded();
    for (index, row) in table.rows[6..].iter_mut().enumerate() {
        row.labels.retain(|(key, _)| key != "seed");
        row.labels.push(("seed".to_owned(), (10 + index).into()));
    }
    let [_, unpaired] = arm(&table, left, right);
    near(unpaired, 0.005_f64.hypot(0.003));
    assert!(unpaired > 1.5 * paired, "{unpaired} {paired}");
}

/// A divergence from another model is another quantity, and so is a score on other questions.
#[test]
fn rows_on_other_questions_or_from_other_models_are_not_compared() {
    let mut table = ablation();
    for (index, row) in table.rows.iter_mut().enumerate() {
        let other = if index == 2 { "b" } else { "a" };
        row.tasks.iter_mut().take(1).for_each(|task| task.reference = Some(other.to_owned()));
    }
    let analysis = Analysis::new(&table).unwrap();
    let reason = analysis.difference(2, 0).unwrap().outcome.clone().unwrap_err();
    assert_eq!(reason, "divergences from different models");
    assert!(analysis.difference(1, 0).unwrap().outcome.is_ok());
    assert!(analysis.warnings.iter().any(|warning| warning.contains("measured from different models")));
}

/// A line of several seeds has one size: where theirs differ, it says so.
#[test]
fn seeds_of_other_sizes_are_told() {
    let mut table = ablation();
    let rows = table.rows.len();
    let mut second = table.rows[rows - 1].clone();
    table.rows[rows - 1].labels.push(("seed".to_owned(), 0.into()));
    second.labels.push(("seed".to_owned(), 1.into()));
    table.rows.push(second);
    let told = |table: &Table| {
        Analysis::new(table).unwrap().warnings.iter().any(|warning| warning.contains("differ in bits/weight"))
    };
    assert!(!told(&table));
    table.rows[rows].model.bits_per_weight = Some(3.0);
    table.rows[rows - 1].model.bits_per_weight = Some(4.0);
    assert!(told(&table));
}

/// Nats per token of other tokens are another quantity, whatever the blocks are called.
#[test]
fn rows_on_different_tokens_are_not_compared() {
    let mut table = ablation();
    for (index, row) in table.rows.iter_mut().enumerate() {
        let read = if index == 2 { "b" } else { "a" };
        row.tasks.iter_mut().take(1).for_each(|task| task.subject = Some(read.to_owned()));
    }
    let analysis = Analysis::new(&table).unwrap();
    let reason = analysis.difference(2, 0).unwrap().outcome.clone().unwrap_err();
    assert!(reason.contains("scored on different tokens"), "{reason}");
    assert!(analysis.difference(1, 0).unwrap().outcome.is_ok());
    assert!(
        analysis.warnings.iter().any(|warning| warning.contains("their tokenizers read the text differently")),
        "{:?}",
        analysis.warnings
    );
}

/// The same number of right answers says nothing of what was drawn, likelihoods that are the same bits do.
#[test]
fn only_equal_likelihoods_say_that_nothing_was_drawn() {
    for (kind, undrawn) in [(MetricKind::Rate, false), (MetricKind::MeanNats, true)] {
        let mut table = seeded();
        let first = table.rows[1].tasks.clone();
        for row in &mut table.rows[1..6] {
            row.tasks.clone_from(&first);
        }
        table
            .rows
            .iter_mut()
            .flat_map(|row| &mut row.tasks)
            .flat_map(|task| &mut task.metrics)
            .for_each(|m| m.kind = kind);
        let analysis = Analysis::new(&table).unwrap();
        assert_eq!((analysis.groups[1].undrawn, analysis.groups[2].undrawn), (undrawn, false), "{kind:?}");
        assert_eq!(analysis.cell(1, 0).unwrap().per_seed.len(), if undrawn { 1 } else { 5 });
    }
}

#[test]
fn seeds_on_different_items_are_not_merged() {
    let mut table = seeded();
    table.rows[3].tasks[0].metrics[0].items.pop();
    let analysis = Analysis::new(&table).unwrap();
    let reason = analysis.cell(1, 0).unwrap().estimate.clone().unwrap_err();
    assert_eq!(reason, "its seeds were scored on different items (`chunk 063`)");
}

#[test]
fn a_failed_seed_is_told_and_the_others_count() {
    let mut table = seeded();
    table.rows[3].tasks.clear();
    table.rows[3].state = RowState::Failed { message: "out of memory".into() };
    let text = terminal(&Analysis::new(&table).unwrap(), Terminal::default()).unwrap();
    assert!(text.contains("(4)") && text.contains("variant=gptq: failed: out of memory"), "{text}");
}

#[test]
fn a_baseline_that_is_no_row_is_an_error() {
    let mut table = ablation();
    table.baseline = Some(6);
    let error = Analysis::new(&table).unwrap_err();
    assert_eq!(error.to_string(), "the baseline is row 6, but the table has 6 rows");
}

/// A table of the size that people make: 40 rows, 500 questions, 250 chunks.
#[test]
fn forty_rows_are_no_wait() {
    let rows = (0..40).map(|index| Row {
        labels: labels(json!({"index": index})),
        tasks: vec![wikitext(250, 0.01 * index as f64, 0.02, index), quiz("mmlu", 500, 0.0, index)],
        ..Row::default()
    });
    let table = Table { name: "large".into(), baseline: Some(0), rows: rows.collect(), ..Table::default() };
    let start = std::time::Instant::now();
    let analysis = Analysis::new(&table).unwrap();
    let elapsed = start.elapsed();
    assert_eq!(analysis.against_baseline.len(), 78);
    // The smallest possible p-value must survive the adjustment over the family.
    let last = analysis.difference(39, 0).unwrap().outcome.as_ref().unwrap();
    assert!(last.p_adjusted.unwrap() <= 0.01, "{last:?}");
    assert!(elapsed.as_secs() < 60, "{elapsed:?}");
}
