//! Statistics against SciPy 1.x figures, brute force over all outcomes, identities, and simulated coverage.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::bootstrap::{Bootstrap, MIN_ITEMS, Resamples};
use super::rates::{Discordance, detectable_difference, mcnemar_exact, tango, tango_statistic, wilson};
use super::{SeedSpread, Z_80, Z_975, holm, seeds};

fn close(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance, "{a} is not {b} within {tolerance}");
}

fn counts(left_only: u64, right_only: u64, items: u64) -> Discordance {
    Discordance { left_only, right_only, items }
}

#[test]
fn mcnemar_agrees_with_scipy_binomtest() {
    let reference = [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 1, 0.21875),
        (10, 2, 0.03857421875),
        (12, 12, 1.0),
        (40, 21, 0.0204147137996349),
        (130, 95, 0.023197506839685394),
        (700, 600, 0.0060157938610449395),
    ];
    for (b, c, p) in reference {
        close(mcnemar_exact(counts(b, c, 2000)), p, 1e-11);
        close(mcnemar_exact(counts(c, b, 2000)), p, 1e-11);
    }
}

/// All ways in which the discordant items could have fallen, each equally likely.
#[test]
fn mcnemar_is_the_share_of_outcomes_at_least_as_extreme() {
    for discordant in 0_u32..=12 {
        for b in 0..=discordant {
            let observed = (2 * i64::from(b) - i64::from(discordant)).abs();
            let extreme = (0_u32..1 << discordant)
                .filter(|sides| (2 * i64::from(sides.count_ones()) - i64::from(discordant)).abs() >= observed)
                .count();
            let p = extreme as f64 / f64::from(1_u32 << discordant);
            close(mcnemar_exact(counts(u64::from(b), u64::from(discordant - b), 50)), p, 1e-12);
        }
    }
}

/// Holm is the closed test of all Bonferroni tests: the adjusted p-value of a hypothesis is the largest Bonferroni
/// p-value among all sets of hypotheses that contain it.
#[test]
fn holm_is_the_closure_of_bonferroni() {
    let mut generator = ChaCha8Rng::seed_from_u64(3);
    for size in 1..=7_usize {
        for _ in 0..20 {
            // A coarse grid, so that ties occur.
            let p: Vec<f64> = (0..size).map(|_| f64::from(generator.next_u32() % 40) / 200.0).collect();
            let adjusted = holm(&p);
            for (i, adjusted) in adjusted.iter().enumerate() {
                let bonferroni = |set: u32| {
                    let smallest = (0..size).filter(|j| set >> j & 1 == 1).map(|j| p[j]).fold(1.0, f64::min);
                    (f64::from(set.count_ones()) * smallest).min(1.0)
                };
                let closed = (0_u32..1 << size).filter(|set| set >> i & 1 == 1).map(bonferroni).fold(0.0, f64::max);
                close(*adjusted, closed, 1e-12);
            }
        }
    }
    assert!(holm(&[]).is_empty());
}

#[test]
fn wilson_agrees_with_scipy() {
    let reference = [
        (0, 10, 0.0, 0.27753279986288926),
        (10, 10, 0.7224672001371109, 1.0),
        (1, 30, 0.005908590381612441, 0.16670390991409173),
        (171, 200, 0.7995133246921848, 0.897106493579956),
        (692, 980, 0.6768414180468728, 0.7337938488225112),
        (4999, 10000, 0.49010210041112534, 0.5096979763885487),
    ];
    for (k, n, low, high) in reference {
        let interval = wilson(k, n).unwrap();
        close(interval.estimate, k as f64 / n as f64, 1e-15);
        close(interval.low, low, 1e-12);
        close(interval.high, high, 1e-12);
    }
    assert!(wilson(0, 0).is_none() && wilson(3, 2).is_none());
}

/// The reference maximises the restricted likelihood numerically and finds the ends with SciPy's root finder.
#[test]
fn tango_agrees_with_a_numerical_likelihood() {
    let reference = [
        (1, 0, 12, -0.17936850726603143, 0.35387991114112394),
        (14, 3, 100, 0.032797742796828816, 0.19710836692658085),
        (20, 41, 200, -0.18122577646607266, -0.02922264796252755),
        (5, 5, 50, -0.13543228457074757, 0.13543228515094838),
        (9, 0, 30, 0.15243258902227452, 0.47875787458709235),
        (90, 130, 980, -0.07062221865198856, -0.011236955430485392),
    ];
    for (b, c, n, low, high) in reference {
        let interval = tango(counts(b, c, n)).unwrap();
        close(interval.low, low, 2e-8);
        close(interval.high, high, 2e-8);
        let mirrored = tango(counts(c, b, n)).unwrap();
        close(mirrored.low, -interval.high, 1e-12);
        close(mirrored.high, -interval.low, 1e-12);
    }
}

#[test]
fn tango_at_zero_is_mcnemar_chi_square() {
    for (b, c, n) in [(3_u64, 9_u64, 40_u64), (0, 4, 10), (25, 25, 60), (100, 70, 900)] {
        let chi_square = (b as f64 - c as f64).powi(2) / (b + c) as f64;
        close(tango_statistic(counts(b, c, n), 0.0).powi(2), chi_square, 1e-9);
    }
}

#[test]
fn tango_holds_in_the_corners() {
    for (b, c, n) in [(0, 0, 1), (0, 0, 500), (5, 0, 5), (0, 7, 7), (1, 1, 2)] {
        let interval = tango(counts(b, c, n)).unwrap();
        assert!(-1.0 <= interval.low && interval.low <= interval.estimate, "{interval:?}");
        assert!(interval.estimate <= interval.high && interval.high <= 1.0, "{interval:?}");
        assert!(interval.high - interval.low > 0.0);
    }
    assert!(tango(counts(0, 0, 0)).is_none());
}

/// Power of the exact test at the difference that was called detectable, summed over all outcomes.
#[test]
fn detectable_difference_of_rates_has_80_percent_power() {
    for (discordant, items) in [(20_u64, 200_u64), (40, 300), (10, 512)] {
        let share = discordant as f64 / items as f64;
        let delta = detectable_difference(counts(discordant / 2, discordant / 2, items)).unwrap();
        let (p, q) = ((share + delta) / 2.0, (share - delta) / 2.0);
        let log_factorial: Vec<f64> = (0..=items)
            .scan(0.0, |sum, k| {
                *sum += if k > 0 { (k as f64).ln() } else { 0.0 };
                Some(*sum)
            })
            .collect();
        let mut power = 0.0;
        for b in 0..=items {
            for c in 0..=items - b {
                // The hopeless half of the outcomes would only cost time.
                if b > c && b + c <= 4 * discordant && mcnemar_exact(counts(b, c, items)) <= 0.05 {
                    let rest = items - b - c;
                    let ways = log_factorial[items as usize]
                        - log_factorial[b as usize]
                        - log_factorial[c as usize]
                        - log_factorial[rest as usize];
                    let log = ways + b as f64 * p.ln() + c as f64 * q.ln() + rest as f64 * (1.0 - p - q).ln();
                    power += log.exp();
                }
            }
        }
        // The formula is the normal test's; the exact one is a little more careful.
        assert!((0.75..=0.82).contains(&power), "{power}");
    }
    // 200 questions of which a tenth is discordant: about six points.
    close(detectable_difference(counts(10, 10, 200)).unwrap(), 0.062, 0.001);
    // Nothing discordant: six items are the least that an exact test can call a difference.
    close(detectable_difference(counts(0, 0, 200)).unwrap(), 0.03, 1e-12);
}

/// Standard normal by Box-Muller from a seeded stream.
fn normal(generator: &mut ChaCha8Rng) -> f64 {
    let uniform = |g: &mut ChaCha8Rng| (f64::from(g.next_u32()) + 0.5) / f64::from(u32::MAX);
    let (u, v) = (uniform(generator), uniform(generator));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Text chunks of random length with a skewed loss per token of mean 3.
fn chunks(n: usize, generator: &mut ChaCha8Rng) -> (Vec<f64>, Vec<f64>) {
    let weights: Vec<f64> = (0..n).map(|_| 20.0 + f64::from(generator.next_u32() % 180)).collect();
    // A gamma variable of shape 4 and scale 3/4, as a sum of exponentials.
    let exponential = |g: &mut ChaCha8Rng| -((f64::from(g.next_u32()) + 0.5) / f64::from(u32::MAX)).ln();
    let loss: Vec<f64> = (0..n).map(|_| (0..4).map(|_| exponential(generator)).sum::<f64>() * 0.75).collect();
    let sums = weights.iter().zip(&loss).map(|(w, l)| w * l).collect();
    (weights, sums)
}

/// Studentized error of a replicate, straight from the definition.
fn studentized(weights: &[f64], sums: &[f64], drawn: &[usize], full: f64) -> f64 {
    let n = drawn.len() as f64;
    let total: f64 = drawn.iter().map(|i| weights[*i]).sum();
    let estimate = drawn.iter().map(|i| sums[*i]).sum::<f64>() / total;
    let squares: f64 = drawn.iter().map(|i| (sums[*i] - estimate * weights[*i]).powi(2)).sum();
    ((estimate - full) / ((n / (n - 1.0) * squares).sqrt() / total)).abs()
}

/// All 6^6 resamples of six items against the 9,999 that are drawn.
#[test]
fn bootstrap_agrees_with_all_resamples() {
    let weights = [10.0, 20.0, 15.0, 12.0, 30.0, 18.0];
    let sums = [4.0, 13.0, -2.0, 9.0, 16.0, 2.5];
    let n = weights.len();
    let full = sums.iter().sum::<f64>() / weights.iter().sum::<f64>();
    let mut all = Vec::new();
    for code in 0..n.pow(n as u32) {
        let drawn: Vec<usize> = (0..n).map(|place| code / n.pow(place as u32) % n).collect();
        if drawn.iter().any(|i| *i != drawn[0]) {
            all.push(studentized(&weights, &sums, &drawn, full));
        } else {
            all.push(f64::INFINITY);
        }
    }
    all.sort_by(f64::total_cmp);
    let bootstrap = Bootstrap::ratio(&weights, &sums, &Resamples::new(n, 9_999, 1)).unwrap();
    close(bootstrap.estimate, full, 1e-15);
    let exact_error = studentized(&weights, &sums, &[0, 1, 2, 3, 4, 5], 0.0);
    close(bootstrap.estimate / bootstrap.standard_error, exact_error, 1e-12);
    let reach = |share: f64| all[(share * all.len() as f64) as usize];
    // The order statistic of 9,999 draws lies between these quantiles with near certainty.
    let critical = bootstrap.critical_value();
    assert!(reach(0.94) < critical && critical < reach(0.96), "{critical} against {} {}", reach(0.94), reach(0.96));
    let p = all.iter().filter(|error| **error >= exact_error).count() as f64 / all.len() as f64;
    close(bootstrap.p_value(), p, 0.01);
}

#[test]
fn bootstrap_draws_every_item_equally_often() {
    let resamples = Resamples::new(7, 4_999, 9);
    assert_eq!(resamples.items(), 7);
    let mut weights = [1.0; 7];
    // An item is drawn once per resample on average: with its weight changed the mean over replicates must follow.
    weights[3] = 2.0;
    let bootstrap = Bootstrap::ratio(&weights, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &resamples).unwrap();
    close(bootstrap.estimate, 28.0 / 8.0, 1e-15);
    assert_eq!(resamples.clone().items(), Resamples::new(7, 4_999, 9).items());
    let again = Bootstrap::ratio(&weights, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &Resamples::new(7, 4_999, 9)).unwrap();
    assert_eq!(bootstrap.interval(), again.interval());
}

#[test]
fn bootstrap_for_many_items_is_the_normal_interval() {
    let mut generator = ChaCha8Rng::seed_from_u64(11);
    let n = 2_000;
    let sums: Vec<f64> = (0..n).map(|_| 0.5 + normal(&mut generator)).collect();
    let bootstrap = Bootstrap::ratio(&vec![1.0; n], &sums, &Resamples::new(n, 4_999, 2)).unwrap();
    let mean = sums.iter().sum::<f64>() / n as f64;
    let variance = sums.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n as f64 - 1.0);
    close(bootstrap.standard_error, (variance / n as f64).sqrt(), 1e-12);
    close(bootstrap.critical_value(), Z_975, 0.07);
    let detectable = bootstrap.detectable_difference().unwrap();
    close(detectable / bootstrap.standard_error, Z_975 + Z_80, 0.07);
}

#[test]
fn bootstrap_interval_and_test_are_one_statement() {
    let mut generator = ChaCha8Rng::seed_from_u64(5);
    let resamples = Resamples::new(12, 1_999, 4);
    let (mut significant, trials) = (0, 300);
    for _ in 0..trials {
        let sums: Vec<f64> = (0..12).map(|_| 0.6 + normal(&mut generator)).collect();
        let bootstrap = Bootstrap::ratio(&[1.0; 12], &sums, &resamples).unwrap();
        let interval = bootstrap.interval().unwrap();
        let excludes_zero = interval.low > 0.0 || interval.high < 0.0;
        assert_eq!(excludes_zero, bootstrap.p_value() <= 0.05, "{interval:?} {}", bootstrap.p_value());
        significant += usize::from(excludes_zero);
        // The other direction of the same difference.
        let negated: Vec<f64> = sums.iter().map(|s| -s).collect();
        let mirrored = Bootstrap::ratio(&[1.0; 12], &negated, &resamples).unwrap();
        assert_eq!(mirrored.p_value(), bootstrap.p_value());
    }
    assert!((60..240).contains(&significant), "both outcomes must occur: {significant}");
}

/// The claim of the module: eight chunks of text are enough for the nominal coverage, and would not be for the
/// percentile interval.
#[test]
fn bootstrap_interval_covers_the_truth_95_percent_of_the_time() {
    for (n, least, most) in [(8, 0.925, 0.975), (24, 0.925, 0.975)] {
        let mut generator = ChaCha8Rng::seed_from_u64(17);
        let resamples = Resamples::new(n, 999, 6);
        let trials = 600;
        let mut covered = 0;
        for _ in 0..trials {
            let (weights, sums) = chunks(n, &mut generator);
            let interval = Bootstrap::ratio(&weights, &sums, &resamples).unwrap().interval().unwrap();
            covered += usize::from(interval.low <= 3.0 && 3.0 <= interval.high);
        }
        let coverage = covered as f64 / f64::from(trials);
        assert!((least..=most).contains(&coverage), "coverage {coverage} with {n} chunks");
    }
}

#[test]
fn bootstrap_false_alarms_stay_at_5_percent() {
    let mut generator = ChaCha8Rng::seed_from_u64(23);
    let resamples = Resamples::new(10, 999, 8);
    let trials = 800;
    let mut alarms = 0;
    for _ in 0..trials {
        let sums: Vec<f64> = (0..10).map(|_| normal(&mut generator)).collect();
        alarms += usize::from(Bootstrap::ratio(&[1.0; 10], &sums, &resamples).unwrap().p_value() <= 0.05);
    }
    let rate = f64::from(alarms as u32) / f64::from(trials);
    assert!((0.02..=0.07).contains(&rate), "{rate}");
}

#[test]
fn bootstrap_of_a_scaled_quantity_is_scaled() {
    let (weights, sums) = chunks(20, &mut ChaCha8Rng::seed_from_u64(29));
    let resamples = Resamples::new(20, 999, 3);
    let one = Bootstrap::ratio(&weights, &sums, &resamples).unwrap().interval().unwrap();
    let tenfold: Vec<f64> = sums.iter().map(|s| 10.0 * s).collect();
    let ten = Bootstrap::ratio(&weights, &tenfold, &resamples).unwrap().interval().unwrap();
    close(ten.low, 10.0 * one.low, 1e-9);
    close(ten.high, 10.0 * one.high, 1e-9);
}

#[test]
fn bootstrap_refuses_what_it_cannot_judge() {
    let resamples = Resamples::new(MIN_ITEMS - 1, 99, 1);
    assert!(Bootstrap::ratio(&[1.0; MIN_ITEMS - 1], &[1.0; MIN_ITEMS - 1], &resamples).is_none());
    let resamples = Resamples::new(6, 999, 1);
    assert!(Bootstrap::ratio(&[1.0; 6], &[1.0, 2.0, f64::NAN, 0.0, 0.0, 0.0], &resamples).is_none());
    assert!(Bootstrap::ratio(&[1.0, 0.0, 1.0, 1.0, 1.0, 1.0], &[1.0; 6], &resamples).is_none());
    assert!(Bootstrap::ratio(&[1.0; 7], &[1.0; 7], &resamples).is_none());
}

#[test]
fn bootstrap_of_equal_items_has_no_spread() {
    let resamples = Resamples::new(6, 999, 1);
    let none = Bootstrap::ratio(&[3.0; 6], &[0.0; 6], &resamples).unwrap();
    assert_eq!((none.estimate, none.p_value()), (0.0, 1.0));
    assert_eq!(none.interval().unwrap().half_width(), 0.0);
    // 0.1 is no binary fraction: its rounding must not be studentized.
    let equal = Bootstrap::ratio(&[3.0; 6], &[0.1; 6], &resamples).unwrap();
    assert_eq!(equal.standard_error, 0.0);
    assert_eq!(equal.p_value(), 0.001);
    // Two of forty items differ: most resamples say too little for an interval, and the test says so.
    let mut sums = [0.0; 40];
    (sums[0], sums[1]) = (1.0, 1.0);
    let rare = Bootstrap::ratio(&[1.0; 40], &sums, &Resamples::new(40, 999, 1)).unwrap();
    assert!(rare.interval().is_none() && rare.p_value() > 0.05);
}

#[test]
fn replicates_resolve_the_family() {
    for (items, family) in [(8, 5), (100, 10), (1_000, 3), (1_000, 120), (5, 0), (0, 0)] {
        let replicates = Resamples::replicates_for(items, family);
        assert_eq!((replicates + 1) % 1_000, 0);
        assert!((1_999..=20_000).contains(&replicates));
        assert!(family as f64 / (replicates + 1) as f64 <= 0.01);
    }
}

/// Against SciPy's `t.ppf`.
#[test]
fn students_t_is_scipys() {
    let known = [
        (0.05, 1, 12.706_204_736),
        (0.05, 2, 4.302_652_730),
        (0.05, 3, 3.182_446_305),
        (0.05, 4, 2.776_445_105),
        (0.05, 9, 2.262_157_163),
        (0.05, 10, 2.228_138_852),
        (0.05, 100, 1.983_971_519),
        (0.01, 2, 9.924_843_201),
        (0.01, 5, 4.032_142_984),
        (0.4, 2, 1.060_660_172),
        (0.4, 4, 0.940_964_577),
    ];
    for (p, degrees, expected) in known {
        close(seeds::critical(p, degrees), expected, 1e-8 * expected);
        close(1.0 - seeds::within(expected, degrees), p, 1e-9);
    }
    assert_eq!(seeds::critical(1.0, 3), 0.0);
    assert!(SeedSpread::of(&[1.0]).is_none() && SeedSpread::of(&[]).is_none());
}

/// What three seeds differ by decides, however many items agree.
#[test]
fn a_difference_over_three_seeds_is_judged_by_them() {
    let differences = [-0.032, -0.014, -0.009];
    let mean = differences.iter().sum::<f64>() / 3.0;
    let resamples = Resamples::new(400, 9_999, 1);
    let items: Vec<f64> = (0..400).map(|i| mean + 1e-5 * f64::from(i % 7 - 3)).collect();
    let alone = Bootstrap::ratio(&[1.0; 400], &items, &resamples).unwrap();
    assert!(alone.p_value() < 0.001);
    let over_seeds = alone.over_seeds(SeedSpread::of(&differences));
    // t = -2.625 with two degrees of freedom.
    close(over_seeds.p_value(), 0.1197, 0.001);
    let interval = over_seeds.interval().unwrap();
    close(interval.half_width(), 4.302_652_730 * 0.006_984_1, 1e-5);
    // Two rows that have nothing to do with each other: variances add.
    let (a, b) = (SeedSpread::of(&[1.0, 2.0, 3.0]), SeedSpread::of(&[5.0, 5.5, 6.0, 4.5, 4.0]));
    let error = (1.0_f64 / 3.0 + 0.625 / 5.0).sqrt();
    close(SeedSpread::beside(a, b).unwrap().arm(0.05), 4.302_652_730 * error, 1e-8);
    assert_eq!(SeedSpread::beside(a, None), a);
}

#[test]
fn interval_and_test_over_seeds_are_one_statement() {
    let mut generator = ChaCha8Rng::seed_from_u64(31);
    let resamples = Resamples::new(40, 999, 4);
    let mut significant = 0;
    for _ in 0..200 {
        let sums: Vec<f64> = (0..40).map(|_| 0.5 + normal(&mut generator)).collect();
        let seeds: Vec<f64> = (0..3).map(|_| 0.1 * normal(&mut generator)).collect();
        let bootstrap = Bootstrap::ratio(&[1.0; 40], &sums, &resamples).unwrap().over_seeds(SeedSpread::of(&seeds));
        let interval = bootstrap.interval().unwrap();
        let excludes_zero = interval.low > 0.0 || interval.high < 0.0;
        assert_eq!(excludes_zero, bootstrap.p_value() <= 0.05, "{interval:?} {}", bootstrap.p_value());
        significant += usize::from(excludes_zero);
    }
    assert!((30..190).contains(&significant), "both outcomes must occur: {significant}");
    // Seeds that agree add nothing.
    let sums: Vec<f64> = (0..40).map(|_| 0.2 + normal(&mut generator)).collect();
    let plain = Bootstrap::ratio(&[1.0; 40], &sums, &resamples).unwrap();
    let agreed = plain.clone().over_seeds(SeedSpread::of(&[0.2; 4]));
    assert_eq!((plain.interval(), plain.p_value()), (agreed.interval(), agreed.p_value()));
}

/// Share of intervals that cover the truth where items and seeds are drawn together, `y = item + seed + noise`; `spread` is that of the
/// seeds in units of what the items leave of the mean.
fn coverage((n, trials, replicates): (usize, usize, usize), seeds: usize, spread: f64) -> f64 {
    let resamples = Resamples::new(n, replicates, 6);
    let mut generator = ChaCha8Rng::seed_from_u64(37);
    let mut covered = 0;
    for _ in 0..trials {
        let of_items: Vec<f64> = (0..n).map(|_| normal(&mut generator)).collect();
        let (mut sums, mut means) = (vec![0.0; n], Vec::new());
        for _ in 0..seeds {
            let seed = spread / (n as f64).sqrt() * normal(&mut generator);
            let one: Vec<f64> = of_items.iter().map(|item| item + seed + 0.5 * normal(&mut generator)).collect();
            sums.iter_mut().zip(&one).for_each(|(sum, y)| *sum += y / seeds as f64);
            means.push(one.iter().sum::<f64>() / n as f64);
        }
        let bootstrap = Bootstrap::ratio(&vec![1.0; n], &sums, &resamples).unwrap();
        let interval = bootstrap.over_seeds(SeedSpread::of(&means)).interval().unwrap();
        covered += usize::from(interval.low <= 0.0 && 0.0 <= interval.high);
    }
    covered as f64 / trials as f64
}

/// At least as often as they say, and where the seeds decide not much more often.
#[test]
fn intervals_over_seeds_cover_the_truth() {
    let mut cases = Vec::new();
    for size in [(50, 600, 499), (200, 400, 499), (1_000, 200, 199)] {
        for seeds in [3, 5] {
            cases.extend([0.0, 1.0, 6.0].map(|spread| (size, seeds, spread)));
        }
    }
    cases.into_par_iter().for_each(|(size, seeds, spread)| {
        let found = coverage(size, seeds, spread);
        let title = format!("{found} with {} items, {seeds} seeds that differ by {spread}", size.0);
        assert!(found >= 0.93, "{title}");
        assert!(spread < 6.0 || found <= 0.98, "{title}");
    });
}
