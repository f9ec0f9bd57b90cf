use candle_core::{Device, IndexOp, Tensor};
use workbench_model::config::Architecture;
use workbench_model::decoder::{Embedding, Head};
use workbench_model::device::{HOST, OnHost};
use workbench_model::{Block, Context, Decoder, ModelError, Precision, Site, SiteKind};

use crate::brute_force;
use crate::support::{Weights, distance, flat, random_ids, row, tiny, variations};

fn forward(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    flat(&decoder.forward(&row(ids), &Context::full(1, ids.len(), None)).unwrap())
}

#[test]
fn logits_equal_the_scalar_decoder() {
    for (seed, config) in variations().into_iter().enumerate() {
        let weights = Weights::random(&config, seed as u64);
        let decoder = Decoder::load(&config, &weights, &Device::Cpu).unwrap();
        for len in [1, 2, 33, 100] {
            let ids = random_ids(&config, len, 7);
            let expected: Vec<f32> =
                brute_force::logits(&config, &weights, &ids).iter().flatten().map(|x| *x as f32).collect();
            let error = distance(&forward(&decoder, &ids), &expected);
            assert!(error < 1e-5, "variation {seed}, {len} tokens: {error:e}");
        }
    }
}

#[test]
fn padding_changes_nothing() {
    for config in variations() {
        let decoder = Decoder::load(&config, &Weights::random(&config, 3), &Device::Cpu).unwrap();
        let lens = [5, 70, 1, 33];
        let sequences: Vec<Vec<u32>> = lens.iter().map(|len| random_ids(&config, *len, *len as u64)).collect();
        let padded = sequences.iter().flat_map(|ids| ids.iter().copied().chain([1; 70]).take(70)).collect();
        let ids = Tensor::from_vec(padded, (4, 70), &Device::Cpu).unwrap();
        let together = decoder.forward(&ids, &Context::full(4, 70, Some(&lens))).unwrap();
        for (sequence, ids) in sequences.iter().enumerate() {
            let part = flat(&together.i((sequence, ..ids.len())).unwrap());
            assert!(distance(&part, &forward(&decoder, ids)) < 1e-5);
        }
    }
}

#[test]
fn a_cache_filled_in_any_steps_gives_the_same_logits() {
    for config in variations() {
        let decoder = Decoder::load(&config, &Weights::random(&config, 4), &Device::Cpu).unwrap();
        let (a, b) = (random_ids(&config, 20, 1), random_ids(&config, 15, 2));
        let mut cache = decoder.cache(2);
        // (tokens of a, tokens of b) per step; the shorter one is padded with zeros.
        let (mut at_a, mut at_b) = (0, 0);
        for (n, m) in [(3, 7), (1, 1), (10, 2), (1, 1), (1, 1), (4, 3)] {
            let len = n.max(m);
            let part = |ids: &[u32]| ids.iter().copied().chain([0; 20]).take(len).collect::<Vec<u32>>();
            let ids = [part(&a[at_a..at_a + n]), part(&b[at_b..at_b + m])].concat();
            let ids = Tensor::from_vec(ids, (2, len), &Device::Cpu).unwrap();
            let logits = decoder.forward_cached(&ids, &[n, m], &mut cache).unwrap();
            (at_a, at_b) = (at_a + n, at_b + m);
            for (row, ids) in [&a[..at_a], &b[..at_b]].into_iter().enumerate() {
                let whole = forward(&decoder, ids);
                let last = &whole[whole.len() - config.vocab_size..];
                assert!(distance(&flat(&logits.i(row).unwrap()), last) < 1e-5);
            }
        }
        assert_eq!(cache.past(), [20, 15]);
        cache.keep(&[1]).unwrap();
        let logits = decoder.forward_cached(&row(&[5]), &[1], &mut cache).unwrap();
        let whole = forward(&decoder, &[b.as_slice(), &[5]].concat());
        assert!(distance(&flat(&logits), &whole[whole.len() - config.vocab_size..]) < 1e-5);
    }
}

#[test]
fn parts_standing_alone_make_the_whole() {
    let config = tiny(Architecture::Qwen3);
    let weights = Weights::random(&config, 5);
    let decoder = Decoder::load(&config, &weights, &Device::Cpu).unwrap();
    let ids = random_ids(&config, 30, 5);
    let context = Context::full(1, 30, None);
    let mut hidden = Embedding::look_up(&config, &weights, &ids, 1).unwrap();
    for index in 0..config.num_layers {
        let block = Block::load(&config, &weights, index, &Device::Cpu).unwrap();
        hidden = block.forward(&hidden, &context, &mut ()).unwrap();
    }
    let head = Head::load(&config, &weights, &Device::Cpu).unwrap();
    let expected = forward(&decoder, &ids);
    assert_eq!(flat(&head.forward(&hidden, &mut ()).unwrap()), expected);

    let targets = random_ids(&config, 30, 6);
    for chunk in [1, 7, 100] {
        let scores = head.score(&hidden, &targets, chunk).unwrap();
        for ((score, logits), target) in scores.iter().zip(expected.chunks(config.vocab_size)).zip(&targets) {
            let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            let exact = f64::from(logits[*target as usize]) - total.ln();
            assert!((score.log_probability - exact).abs() < 1e-5);
            assert!(logits.iter().all(|x| *x <= logits[score.top as usize]));
        }
    }
    assert!(head.score(&hidden, &targets[1..], 10).is_err());
    assert!(head.score(&hidden, &[1000; 30], 10).is_err());
}

/// Products of packed operands are there for the memory of the program alone; any other device has their twins.
#[test]
fn packed_blocks_and_heads_equal_their_twins() {
    for (seed, config) in variations().into_iter().enumerate() {
        let weights = Weights::random(&config, seed as u64);
        let (ids, context) = (random_ids(&config, 40, 9), Context::full(1, 40, None));
        let hidden = Embedding::look_up(&config, &weights, &ids, 1).unwrap();
        let host = OnHost::of(&HOST).unwrap();
        let plain = Block::load(&config, &weights, 0, &HOST).unwrap().forward(&hidden, &context, &mut ()).unwrap();
        let packed = Block::load_packed(&config, &weights, 0, Precision::F32, host).unwrap();
        let packed = packed.forward(&hidden, &context, &mut ()).unwrap();
        assert!(distance(&flat(&packed), &flat(&plain)) < 1e-5, "variation {seed}");
        let head = Head::load(&config, &weights, &HOST).unwrap().forward(&plain, &mut ()).unwrap();
        let packed = Head::load_for_scoring(&config, &weights, Precision::F32, &HOST).unwrap();
        assert!(distance(&flat(&packed.forward(&plain, &mut ()).unwrap()), &flat(&head)) < 1e-5, "variation {seed}");
    }
}

#[test]
fn taps_see_every_site_once() {
    let config = tiny(Architecture::Qwen2);
    let decoder = Decoder::load(&config, &Weights::random(&config, 6), &Device::Cpu).unwrap();
    let mut seen = Vec::new();
    let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
        seen.push((site, x.dims().to_vec()));
        Ok(())
    };
    decoder.forward_tapped(&row(&[1, 2, 3]), &Context::full(1, 3, None), &mut tap).unwrap();
    let mut expected = Vec::new();
    for block in 0..2 {
        for (kind, shape) in [
            (SiteKind::AttentionInput, vec![1, 3, 24]),
            (SiteKind::Query, vec![1, 3, 4, 6]),
            (SiteKind::Key, vec![1, 3, 2, 6]),
            (SiteKind::Value, vec![1, 3, 2, 6]),
            (SiteKind::OutputInput, vec![1, 3, 24]),
            (SiteKind::MlpInput, vec![1, 3, 24]),
            (SiteKind::DownInput, vec![1, 3, 44]),
        ] {
            expected.push((Site::in_block(block, kind), shape));
        }
    }
    expected.push((Site::head(), vec![1, 3, 24]));
    assert_eq!(seen, expected);
}

#[test]
fn wrong_input_is_an_error() {
    let config = tiny(Architecture::Llama);
    let mut weights = Weights::random(&config, 6);
    let decoder = Decoder::load(&config, &weights, &Device::Cpu).unwrap();
    assert!(decoder.forward(&row(&[1, 40]), &Context::full(1, 2, None)).unwrap_err().to_string().contains("40"));
    assert!(decoder.forward(&row(&[1, 2]), &Context::full(1, 3, None)).is_err());
    assert!(decoder.forward(&row(&[1, 2]), &Context::full(1, 2, Some(&[3]))).is_err());
    weights.0.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().0 = vec![24, 44];
    let error = Decoder::load(&config, &weights, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("model.layers.1.mlp.up_proj.weight") && error.contains("[24, 44]"), "{error}");
    weights.0.remove("model.layers.0.mlp.up_proj.weight");
    let error = Decoder::load(&config, &weights, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("model.layers.0.mlp.up_proj.weight"), "{error}");
}
