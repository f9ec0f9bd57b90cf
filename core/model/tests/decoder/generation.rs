use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use candle_transformers::generation::{LogitsProcessor, Sampling as Oracle};
use workbench_model::config::Architecture;
use workbench_model::decoder::{ActivationQuantizer, Detached, TrainableParams};
use workbench_model::generate::{Finish, Generation, GenerationConfig, Sampler, Sampling, generate, generate_by};
use workbench_model::{Context, Decoder, ModelError};

use crate::support::{Weights, random_ids, row, tiny};

fn decoder() -> Decoder {
    let config = tiny(Architecture::Qwen3);
    Decoder::load(&config, &Weights::random(&config, 40), &Device::Cpu).unwrap()
}

fn prompts(decoder: &Decoder) -> Vec<Vec<u32>> {
    [3, 11, 1, 7].map(|len| random_ids(decoder.config(), len, len as u64)).to_vec()
}

fn run(decoder: &Decoder, prompts: &[Vec<u32>], config: &GenerationConfig) -> Vec<Generation> {
    generate(decoder, prompts, config, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// The same tokens, with the same probabilities but for the last bits of logits, which depend on the batch.
#[track_caller]
fn assert_same(a: &Generation, b: &Generation) {
    assert_eq!((&a.tokens, a.finish), (&b.tokens, b.finish));
    assert_eq!(a.drawn().count(), b.drawn().count());
    for (a, b) in a.drawn().zip(b.drawn()) {
        assert_eq!(a.token, b.token);
        assert!((a.log_probability - b.log_probability).abs() < 1e-4, "{a:?} {b:?}");
    }
}

fn sampled() -> GenerationConfig {
    let sampling = Sampling { temperature: 0.9, top_k: Some(30), top_p: 0.95 };
    GenerationConfig { max_new_tokens: 12, sampling, seed: 3, ..GenerationConfig::default() }
}

#[test]
fn greedy_equals_whole_forward_passes_with_the_argmax_of_candle_transformers() {
    let decoder = decoder();
    let prompts = prompts(&decoder);
    let config = GenerationConfig { max_new_tokens: 10, ..GenerationConfig::default() };
    let mut oracle = LogitsProcessor::from_sampling(0, Oracle::ArgMax);
    for (prompt, generation) in prompts.iter().zip(run(&decoder, &prompts, &config)) {
        let mut ids = prompt.clone();
        for _ in 0..10 {
            let logits = decoder.forward(&row(&ids), &Context::full(1, ids.len(), None)).unwrap();
            let last = logits.narrow(1, ids.len() - 1, 1).unwrap().flatten_all().unwrap();
            ids.push(oracle.sample(&last).unwrap());
        }
        assert_eq!(generation.tokens, ids[prompt.len()..]);
        assert_eq!(generation.finish, Finish::Length);
    }
}

#[test]
fn draws_depend_on_the_seed_and_the_number_of_the_prompt_alone() {
    let decoder = decoder();
    let prompts = prompts(&decoder);
    let together = run(&decoder, &prompts, &sampled());
    assert_eq!(together, run(&decoder, &prompts, &sampled()));
    for (number, prompt) in prompts.iter().enumerate() {
        let config = GenerationConfig { first_sequence: number as u64, ..sampled() };
        assert_same(&run(&decoder, std::slice::from_ref(prompt), &config)[0], &together[number]);
    }
    assert_ne!(together, run(&decoder, &prompts, &GenerationConfig { seed: 4, ..sampled() }));
    // The same prompt under two numbers draws differently.
    let twice = run(&decoder, &[prompts[0].clone(), prompts[0].clone()], &sampled());
    assert_ne!(twice[0].tokens, twice[1].tokens);
}

/// Products of packed operands add in an order that the batch has no part in.
#[test]
fn with_packed_weights_the_batch_decides_the_last_bits_alone() {
    let config = tiny(Architecture::Qwen3);
    let decoder = Decoder::load_for_scoring(&config, &Weights::random(&config, 40), &Device::Cpu).unwrap();
    let prompts: Vec<Vec<u32>> = (0..9).map(|i| random_ids(&config, 1 + 7 * i, i as u64)).collect();
    let together = run(&decoder, &prompts, &sampled());
    for size in [1, 2, 5] {
        let mut apart = Vec::new();
        for (batch, prompts) in prompts.chunks(size).enumerate() {
            let config = GenerationConfig { first_sequence: (batch * size) as u64, ..sampled() };
            apart.extend(run(&decoder, prompts, &config));
        }
        assert_eq!(apart.len(), together.len());
        for (apart, together) in apart.iter().zip(&together) {
            assert_eq!(apart.tokens, together.tokens, "batches of {size}");
            let pairs = apart.log_probabilities.iter().zip(&together.log_probabilities);
            pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "batches of {size}: {a} {b}"));
        }
    }
}

#[test]
fn a_sampler_can_be_greedy_at_first() {
    let decoder = decoder();
    let prompts = prompts(&decoder);
    let greedy = run(&decoder, &prompts, &GenerationConfig { max_new_tokens: 12, ..GenerationConfig::default() });
    let sampled = sampled();
    let by = |first: usize| {
        let sampler = |number| Sampler::new(sampled.sampling, sampled.seed, number).greedy_at_first(first);
        let samplers = (0..prompts.len() as u64).map(sampler).collect();
        generate_by(&decoder, &prompts, samplers, (12, &[]), &mut |_, _| ControlFlow::Continue(())).unwrap()
    };
    assert_eq!(by(0), run(&decoder, &prompts, &sampled));
    for (mixed, greedy) in by(4).iter().zip(&greedy) {
        assert_eq!(mixed.tokens[..4], greedy.tokens[..4]);
    }
    assert!(by(4).iter().zip(&greedy).any(|(mixed, greedy)| mixed.tokens != greedy.tokens), "nothing was drawn");
    // Behind them the same numbers are drawn as by a sampler that goes on from there.
    let longer: Vec<Vec<u32>> = prompts.iter().zip(&greedy).map(|(p, g)| [p, &g.tokens[..4]].concat()).collect();
    let rest = run(&decoder, &longer, &GenerationConfig { max_new_tokens: 8, ..sampled.clone() });
    for (mixed, rest) in by(4).iter().zip(&rest) {
        assert_eq!(mixed.tokens[4..], rest.tokens);
    }
    let none = generate_by(&decoder, &prompts, Vec::new(), (1, &[]), &mut |_, _| ControlFlow::Continue(()));
    assert!(none.unwrap_err().to_string().contains("0 samplers for 4 prompts"));
}

#[test]
fn sequences_end_at_stop_tokens_and_at_the_callbacks_word() {
    let decoder = decoder();
    let prompts = prompts(&decoder);
    let free = run(&decoder, &prompts, &sampled());
    let stop = free[1].tokens[4];
    assert!(free.iter().all(|free| free.stop.is_none() && free.log_probabilities.len() == free.tokens.len()));
    let stopped = run(&decoder, &prompts, &GenerationConfig { stop_ids: vec![stop], ..sampled() });
    for (free, stopped) in free.iter().zip(&stopped) {
        match free.tokens.iter().position(|token| *token == stop) {
            Some(end) => {
                assert_eq!((stopped.finish, stopped.tokens.as_slice()), (Finish::Stop, &free.tokens[..end]));
                // The stop token is drawn too, and stands for itself.
                let drawn: Vec<_> = stopped.drawn().collect();
                assert_eq!((drawn.len(), stopped.log_probabilities.len(), drawn[end].token), (end + 1, end, stop));
                assert!((drawn[end].log_probability - free.log_probabilities[end]).abs() < 1e-4);
            }
            None => assert_same(stopped, free),
        }
    }
    assert!(stopped[1].stop.is_some());
    let mut seen = vec![Vec::new(); prompts.len()];
    let ended = generate(&decoder, &prompts, &sampled(), &mut |prompt, token| {
        seen[prompt].push(token);
        if prompt == 2 && seen[2].len() == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let ended = ended.unwrap();
    assert_eq!((ended[2].finish, ended[2].tokens.as_slice()), (Finish::Ended, &free[2].tokens[..5]));
    assert_eq!(seen, ended.iter().map(|generation| generation.tokens.clone()).collect::<Vec<_>>());
    for other in [0, 1, 3] {
        assert_same(&ended[other], &free[other]);
    }
    let none = generate(&decoder, &[vec![]], &sampled(), &mut |_, _| ControlFlow::Continue(()));
    assert!(none.unwrap_err().to_string().contains("prompt 0 is empty"));
}

/// The log-probability of a token by a whole forward pass, in f64: `keep` says which tokens can be drawn.
fn log_probability(logits: &[f32], token: u32, temperature: f64, keep: impl Fn(&[f64], usize) -> bool) -> f64 {
    let weights: Vec<f64> = logits.iter().map(|x| (f64::from(*x) / temperature).exp()).collect();
    let total: f64 = (0..weights.len()).filter(|i| keep(&weights, *i)).map(|i| weights[i]).sum();
    (weights[token as usize] / total).ln()
}

#[test]
fn log_probabilities_are_those_of_the_distribution_that_was_drawn_from() {
    let decoder = decoder();
    let prompts = prompts(&decoder);
    let all = Sampling { temperature: 0.8, top_k: None, top_p: 1.0 };
    for sampling in [Sampling::GREEDY, all, Sampling { top_k: Some(7), ..all }, Sampling { top_p: 0.7, ..all }] {
        let config = GenerationConfig { max_new_tokens: 6, sampling, seed: 8, ..GenerationConfig::default() };
        for (prompt, generation) in prompts.iter().zip(run(&decoder, &prompts, &config)) {
            let mut ids = prompt.clone();
            ids.extend(&generation.tokens);
            let logits = decoder.forward(&row(&ids), &Context::full(1, ids.len(), None)).unwrap();
            let logits = logits.squeeze(0).unwrap().to_vec2::<f32>().unwrap();
            for (at, picked) in generation.drawn().enumerate() {
                let temperature = if sampling == Sampling::GREEDY { 1.0 } else { sampling.temperature };
                let keep = |weights: &[f64], token: usize| {
                    let more = weights.iter().filter(|weight| **weight > weights[token]);
                    let (count, mass) = more.fold((0, 0.0), |(count, mass), weight| (count + 1, mass + weight));
                    let total: f64 = weights.iter().sum();
                    count < sampling.top_k.unwrap_or(usize::MAX)
                        && (sampling.top_p == 1.0 || mass < sampling.top_p * total)
                };
                let expected = log_probability(&logits[prompt.len() + at - 1], picked.token, temperature, keep);
                let case = format!("{sampling:?} {picked:?}");
                assert!((picked.log_probability - expected).abs() < 1e-4, "{case}: {expected}");
            }
        }
    }
}

/// Rounds by a scale that is a variable: what it computes has a graph, whatever the weights are.
struct Scaled(Var);

impl ActivationQuantizer for Scaled {
    fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let rounded = x.broadcast_div(self.0.as_tensor())?.round()?;
        Ok(rounded.broadcast_mul(self.0.as_tensor())?)
    }
}

#[test]
fn variables_generate_without_a_graph() {
    let config = tiny(Architecture::Qwen3);
    let parameters = TrainableParams::load(&config, &Weights::random(&config, 40), &Device::Cpu).unwrap();
    let over_variables = Decoder::over(&config, &parameters).unwrap();
    let detached = Decoder::over(&config, &Detached(&parameters)).unwrap();
    let prompts = prompts(&over_variables);
    assert!(over_variables.embed(&row(&prompts[0])).unwrap().track_op());
    // Variables or not, the same bits come out.
    let expected = run(&decoder(), &prompts, &sampled());
    assert_eq!(run(&over_variables, &prompts, &sampled()), expected);
    assert_eq!(run(&detached, &prompts, &sampled()), expected);
    // The whole forward pass has none.
    let context = Context::full(1, prompts[1].len(), None);
    assert!(!detached.forward(&row(&prompts[1]), &context).unwrap().track_op());
    // It follows when variables change in place.
    for (name, values) in &Weights::random(&config, 41).0 {
        parameters.set(name, values.1.clone()).unwrap();
    }
    let other = Decoder::load(&config, &Weights::random(&config, 41), &Device::Cpu).unwrap();
    assert_eq!(run(&detached, &prompts, &sampled()), run(&other, &prompts, &sampled()));

    let scale = Var::new(&[0.05f32], &Device::Cpu).unwrap();
    let quantizer: Arc<dyn ActivationQuantizer> = Arc::new(Scaled(scale));
    for mut decoder in [over_variables, detached] {
        for linear in config.linears() {
            decoder.set_input_quantizer(&linear.name, Some(Arc::clone(&quantizer))).unwrap();
        }
        for block in 0..config.num_layers {
            decoder.set_kv_quantizers(block, Some(Arc::clone(&quantizer)), Some(Arc::clone(&quantizer))).unwrap();
        }
        assert!(decoder.forward(&row(&prompts[1]), &context).unwrap().track_op(), "training needs the graph");
        let mut cache = decoder.cache(1);
        for token in &prompts[1] {
            let logits = decoder.forward_cached(&row(&[*token]), &[1], &mut cache).unwrap();
            assert!(!logits.track_op() && cache.is_constant());
        }
    }
}
