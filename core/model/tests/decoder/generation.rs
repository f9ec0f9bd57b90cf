use std::ops::ControlFlow;

use candle_core::Device;
use candle_transformers::generation::{LogitsProcessor, Sampling as Oracle};
use workbench_model::config::Architecture;
use workbench_model::generate::{Finish, Generation, GenerationConfig, Sampling, generate};
use workbench_model::{Context, Decoder};

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
        assert_eq!(run(&decoder, std::slice::from_ref(prompt), &config)[0], together[number]);
    }
    assert_ne!(together, run(&decoder, &prompts, &GenerationConfig { seed: 4, ..sampled() }));
    // The same prompt under two numbers draws differently.
    let twice = run(&decoder, &[prompts[0].clone(), prompts[0].clone()], &sampled());
    assert_ne!(twice[0], twice[1]);
}

#[test]
fn sequences_end_at_stop_tokens_and_at_the_callbacks_word() {
    let decoder = decoder();
    let prompts = prompts(&decoder);
    let free = run(&decoder, &prompts, &sampled());
    let stop = free[1].tokens[4];
    let stopped = run(&decoder, &prompts, &GenerationConfig { stop_ids: vec![stop], ..sampled() });
    for (free, stopped) in free.iter().zip(&stopped) {
        match free.tokens.iter().position(|token| *token == stop) {
            Some(end) => assert_eq!((stopped.finish, stopped.tokens.as_slice()), (Finish::Stop, &free.tokens[..end])),
            None => assert_eq!(stopped, free),
        }
    }
    let mut seen = vec![Vec::new(); prompts.len()];
    let ended = generate(&decoder, &prompts, &sampled(), &mut |prompt, token| {
        seen[prompt].push(token);
        if prompt == 2 && seen[2].len() == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let ended = ended.unwrap();
    assert_eq!((ended[2].finish, ended[2].tokens.as_slice()), (Finish::Ended, &free[2].tokens[..5]));
    assert_eq!(seen, ended.iter().map(|generation| generation.tokens.clone()).collect::<Vec<_>>());
    assert_eq!((&ended[0], &ended[1], &ended[3]), (&free[0], &free[1], &free[3]));
    let none = generate(&decoder, &[vec![]], &sampled(), &mut |_, _| ControlFlow::Continue(()));
    assert!(none.unwrap_err().to_string().contains("prompt 0 is empty"));
}
