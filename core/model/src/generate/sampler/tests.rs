use super::*;

const LOGITS: [f32; 6] = [0.5, 2.0, -1.0, 2.0, 1.0, -30.0];

const ALL: Sampling = Sampling { temperature: 1.0, top_k: None, top_p: 1.0 };

/// Tokens with their unnormalised probabilities, most probable first, equals by id: by sorting all of them.
fn candidates(logits: &[f32], sampling: Sampling) -> Vec<(u32, f64)> {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let weight = |logit: f32| ((f64::from(logit) - most) / sampling.temperature).exp();
    let mut all: Vec<(u32, f64)> =
        logits.iter().enumerate().map(|(token, logit)| (token as u32, weight(*logit))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(sampling.top_k.unwrap_or(all.len()));
    if sampling.top_p < 1.0 {
        let total: f64 = all.iter().map(|(_, weight)| weight).sum();
        let mut reached = 0.0;
        let enough = all.iter().position(|(_, weight)| {
            reached += weight;
            reached >= sampling.top_p * total
        });
        all.truncate(enough.map_or(all.len(), |last| last + 1));
    }
    all
}

/// Logits of a vocabulary: with equals, zeros of both signs, and tokens that cannot be said.
fn logits(rng: &mut ChaCha8Rng, vocabulary: usize) -> Vec<f32> {
    let draw = |_| match rng.random_range(0..20) {
        0 => 0.0,
        1 => -0.0,
        2 => f32::NEG_INFINITY,
        3 => 3.0,
        _ => rng.random_range(-12.0..6.0),
    };
    (0..vocabulary).map(draw).collect()
}

fn truncations() -> Vec<Sampling> {
    let mut all = Vec::new();
    for temperature in [0.6, 1.0, 3.0] {
        for top_k in [None, Some(1), Some(2), Some(40), Some(700), Some(5000)] {
            for top_p in [0.0, 0.3, 0.95, 0.9999, 1.0 - f64::EPSILON / 2.0, 1.0] {
                all.push(Sampling { temperature, top_k, top_p });
            }
        }
    }
    all
}

#[test]
fn candidates_follow_top_k_and_top_p() {
    let tokens = |sampling| candidates(&LOGITS, sampling).into_iter().map(|(token, _)| token).collect::<Vec<_>>();
    assert_eq!(tokens(ALL), [1, 3, 4, 0, 2, 5]);
    assert_eq!(tokens(Sampling { top_k: Some(3), ..ALL }), [1, 3, 4]);
    // e^2 = 7.39 twice, e = 2.72, e^.5 = 1.65, e^-1 = .37: the first two hold 75.7 %, with the third 89.7 %.
    for (top_p, expected) in [(0.3, vec![1]), (0.75, vec![1, 3]), (0.76, vec![1, 3, 4]), (0.0, vec![1])] {
        assert_eq!(tokens(Sampling { top_p, ..ALL }), expected);
        let found = most_probable(&LOGITS, 2.0, 1.0, top_p);
        assert_eq!(found.into_iter().map(|(token, _)| token).collect::<Vec<_>>(), expected);
    }
    assert_eq!(top(&LOGITS, 3), [(1, 2.0), (3, 2.0), (4, 1.0)]);
}

#[test]
fn what_is_picked_without_sorting_is_what_sorting_would_pick() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for vocabulary in [1, 3, 600, 4000] {
        for sampling in truncations() {
            let (mut sampler, mut same) = (Sampler::new(sampling, 9, 2), ChaCha8Rng::seed_from_u64(9));
            same.set_stream(2);
            for _ in 0..3 {
                let mut logits = logits(&mut rng, vocabulary);
                logits[vocabulary / 2] = 2.0;
                let picked = sampler.pick(&logits).unwrap();
                let all = candidates(&logits, sampling);
                let total: f64 = all.iter().map(|(_, weight)| weight).sum();
                let draw = same.random::<f64>();
                let case = format!("{vocabulary} {sampling:?}: {picked:?}");
                let weight = all.iter().find(|(token, _)| *token == picked.token).expect(&case).1;
                assert!((picked.log_probability - (weight / total).ln()).abs() < 1e-6, "{case} {}", weight / total);
                let truncated = sampling.top_p < 1.0 || sampling.top_k.is_some_and(|k| k < vocabulary);
                if truncated {
                    let mut left = draw * total;
                    let expected = all.iter().find(|(_, weight)| {
                        left -= weight;
                        left < 0.0
                    });
                    assert_eq!(Some(picked.token), expected.or(all.last()).map(|(token, _)| *token), "{case}");
                }
            }
        }
    }
}

#[test]
fn frequencies_are_the_softmax_of_the_logits() {
    // Of several blocks, with tokens that cannot be said.
    let long: Vec<f32> =
        (0..3 * BLOCK + 7).map(|i| if i % 211 == 3 { (i % 5) as f32 } else { f32::NEG_INFINITY }).collect();
    for logits in [LOGITS.as_slice(), long.as_slice()] {
        let mut sampler = Sampler::new(Sampling { temperature: 0.7, ..ALL }, 5, 0);
        let mut counts = vec![0f64; logits.len()];
        let draws = 40_000;
        for _ in 0..draws {
            counts[sampler.pick(logits).unwrap().token as usize] += 1.0;
        }
        let weights: Vec<f64> = logits.iter().map(|x| (f64::from(*x) / 0.7).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let p = weight / total;
            let deviation = (f64::from(draws) * p * (1.0 - p)).sqrt();
            assert!((count - f64::from(draws) * p).abs() < 4.5 * deviation + 1e-3);
        }
    }
}

#[test]
fn greedy_takes_the_first_of_equals_and_tells_what_the_model_thinks_of_it() {
    let mut greedy = Sampler::new(Sampling::GREEDY, 0, 0);
    let picked = greedy.pick(&LOGITS).unwrap();
    assert_eq!(picked.token, 1);
    let total: f64 = LOGITS.iter().map(|x| f64::from(*x).exp()).sum();
    assert!((picked.log_probability - (2.0 - total.ln())).abs() < 1e-6);
}

#[test]
fn logits_that_are_no_numbers_and_settings_that_make_no_sense_are_errors() {
    for sampling in [Sampling::GREEDY, ALL] {
        for wrong in [f32::NAN, f32::INFINITY] {
            assert!(Sampler::new(sampling, 0, 0).pick(&[1.0, wrong]).is_err());
        }
        assert!(Sampler::new(sampling, 0, 0).pick(&[f32::NEG_INFINITY; 2]).is_err());
        sampling.check().unwrap();
    }
    for (wrong, name) in [
        (Sampling { temperature: -1.0, ..ALL }, "`temperature`"),
        (Sampling { temperature: f64::NAN, ..ALL }, "`temperature`"),
        (Sampling { top_p: -0.1, ..ALL }, "`top_p`"),
        (Sampling { top_p: f64::NAN, ..ALL }, "`top_p`"),
    ] {
        assert!(wrong.check().unwrap_err().to_string().contains(name));
    }
}
