//! Verdicts at a margin.

use super::synthetic::*;
use super::*;

fn paired(low: f64, difference: f64, high: f64) -> Paired {
    let interval = stats::Interval { estimate: difference, low, high };
    Paired {
        difference,
        interval: Some(interval),
        p_value: Some(0.5),
        p_is_bound: false,
        p_adjusted: None,
        items: 100,
        method: Method::Bootstrap,
        discordance: None,
        detectable: Some(1.43 * (high - difference)),
        over_seeds: false,
    }
}

#[test]
fn the_interval_decides_at_the_margin() {
    let nll = |low, difference, high| Verdict::of(&paired(low, difference, high), false, 0.01);
    assert_eq!(nll(-0.005, 0.001, 0.009), Verdict::NotWorse);
    assert_eq!(nll(0.002, 0.005, 0.0099), Verdict::NotWorse, "harm below the margin, though it is there");
    assert_eq!(nll(0.011, 0.02, 0.03), Verdict::Worse);
    assert_eq!(nll(-0.05, -0.03, -0.01), Verdict::NotWorse);
    // Half of the way to the margin is left: arms of .01 with their power have to become as long as that.
    assert_eq!(
        nll(-0.005, 0.005, 0.015),
        Verdict::Undecided { items: Some((100.0_f64 * (0.0143 / 0.005_f64).powi(2)).ceil() as u64) }
    );
    assert_eq!(nll(0.0, 0.012, 0.024), Verdict::Undecided { items: None }, "the difference itself is beyond");
    // Rates: less is worse.
    let acc = |low, difference, high| Verdict::of(&paired(low, difference, high), true, 0.01);
    assert_eq!(acc(-0.009, 0.0, 0.02), Verdict::NotWorse);
    assert_eq!(acc(-0.05, -0.03, -0.011), Verdict::Worse);
    assert_eq!(acc(-0.05, -0.03, 0.01).items(), None);
    let few = Paired { interval: None, ..paired(0.0, 0.0, 0.0) };
    assert_eq!(Verdict::of(&few, true, 0.01), Verdict::Undecided { items: None });
    let seeds = Paired { over_seeds: true, ..paired(-0.005, 0.005, 0.015) };
    assert_eq!(Verdict::of(&seeds, false, 0.01), Verdict::Undecided { items: None }, "items alone do not decide");
}

/// Where answers are right or wrong the number of items does not hang on how many there are: with so many of the same kind the verdict
/// falls, and with two thirds of them it does not.
#[test]
fn right_and_wrong_items_need_as_many_as_they_say() {
    let verdict = |items: u64, discordant: u64, margin: f64| {
        let counts = stats::rates::Discordance { left_only: discordant, right_only: discordant, items };
        let interval = stats::rates::tango(counts);
        let paired = Paired {
            interval,
            items: items as usize,
            discordance: Some(counts),
            detectable: stats::rates::detectable_difference(counts),
            ..paired(0.0, counts.difference(), 0.0)
        };
        Verdict::of(&paired, true, margin)
    };
    for (items, margin) in [(100, 0.01), (200, 0.01), (100, 0.005)] {
        let needed = verdict(items, 0, margin).items().unwrap();
        assert_eq!(verdict(needed, 0, margin), Verdict::NotWorse, "{items} {margin}");
        assert!(verdict(2 * needed / 3, 0, margin).items().is_some(), "{items} {margin}");
    }
    let [few, many] = [(200, 3), (400, 6)].map(|(items, discordant)| verdict(items, discordant, 0.01).items().unwrap());
    assert_eq!(few, many);
    assert!((2000..2800).contains(&few), "{few}");
}

/// "Not worse" of a row whose true harm is the margin, and "worse" as well: at most one in forty each.
#[test]
fn verdicts_err_as_seldom_as_they_say() {
    let text = |damage: f64, seed: u64| {
        let mut task = wikitext(30, damage, 0.4, seed);
        task.metrics.truncate(1);
        Row { labels: labels(json!({"row": seed})), tasks: vec![task], ..Row::default() }
    };
    let trials = 120;
    let verdicts: Vec<Verdict> = (0..trials)
        .map(|trial| {
            // The damage of a chunk is .05 on average.
            let rows = vec![text(0.0, 2 * trial), text(0.05, 2 * trial + 1)];
            let margins = vec![("wikitext.nll".to_owned(), 0.05)];
            let table = Table { name: "t".into(), baseline: Some(0), rows, margins, ..Table::default() };
            let analysis = Analysis::new(&table).unwrap();
            analysis.verdict(analysis.difference(1, 0).unwrap()).unwrap()
        })
        .collect();
    let count = |wanted: &str| verdicts.iter().filter(|verdict| verdict.name() == wanted).count();
    // Twice the standard deviation of such a count above its mean of 3.
    assert!(count("not worse") <= 7 && count("worse") <= 7, "{verdicts:?}");
}

#[test]
fn verdicts_stand_in_every_output() {
    let mut table = ablation();
    table.margins = vec![("nll".to_owned(), 0.05), ("world.acc".to_owned(), 5.0)];
    let analysis = Analysis::new(&table).unwrap();
    assert_eq!(analysis.warnings.iter().filter(|warning| warning.contains("margin")).count(), 0);
    let verdict = |group: usize, metric: usize| analysis.verdict(analysis.difference(group, metric).unwrap());
    assert_eq!(
        [1, 2, 3, 4].map(|group| verdict(group, 0).unwrap().name()),
        ["not worse", "worse", "worse", "not worse"]
    );
    let text = markdown(&analysis).unwrap();
    assert!(
        text.contains("wikitext at 0.05") && text.contains("world at 5") && text.contains("| not worse |"),
        "{text}"
    );
    assert!(text.contains("Margins: wikitext ΔNLL 0.05 nats; world Δ acc 5 points."), "{text}");
    assert!(html(&analysis).unwrap().contains("not worse"));
    let csv = comparisons_csv(&analysis).unwrap();
    let header = csv.lines().next().unwrap();
    assert!(header.contains("margin,verdict,items_needed"), "{header}");
    assert!(csv.lines().any(|line| line.contains(",0.05,worse,,")), "{csv}");
    // A margin of what nothing is compared by is told.
    table.margins = vec![("token_acc".to_owned(), 1.0)];
    let warnings = Analysis::new(&table).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.starts_with("margin of token_acc: no two rows")), "{warnings:?}");
}
