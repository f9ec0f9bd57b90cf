use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use serde_json::json;
use workbench_model::config::Architecture;
use workbench_model::decoder::{ActivationQuantizer, GridQuantizer};
use workbench_model::{Context, Decoder, ModelError, Site, SiteKind};
use workbench_quant::{Conventions, Grid, Matrix, QuantizationArgs, StorageDtype};

use crate::support::{Weights, flat, random_ids, row, tiny};

fn grid(args: serde_json::Value) -> Grid {
    let args: QuantizationArgs = serde_json::from_value(args).unwrap();
    Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap()
}

fn dynamic() -> Grid {
    grid(json!({ "num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true }))
}

fn fixed() -> Grid {
    grid(json!({ "num_bits": 8, "type": "int", "symmetric": true, "strategy": "tensor", "dynamic": false }))
}

#[test]
fn a_linear_sees_its_quantized_input_and_the_tap_the_plain_one() {
    let config = tiny(Architecture::Llama);
    let mut weights = Weights::random(&config, 50);
    // With down_proj the identity on the first channels, the block's output shows what went in.
    let (shape, values) = weights.0.get_mut("model.layers.0.mlp.down_proj.weight").unwrap();
    let columns = shape[1];
    values.iter_mut().enumerate().for_each(|(i, x)| *x = if i % columns == i / columns { 1.0 } else { 0.0 });
    let hidden =
        Decoder::load(&config, &weights, &Device::Cpu).unwrap().embed(&row(&random_ids(&config, 9, 1))).unwrap();
    let context = Context::full(1, 9, None);
    let run = |quantizer: Option<GridQuantizer>| {
        let mut decoder = Decoder::load(&config, &weights, &Device::Cpu).unwrap();
        if let Some(quantizer) = quantizer {
            decoder.set_input_quantizer("model.layers.0.mlp.down_proj", Some(Arc::new(quantizer))).unwrap();
        }
        let mut input = Vec::new();
        let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
            if site.kind == SiteKind::DownInput {
                input = flat(x);
            }
            Ok(())
        };
        let output = decoder.block(0, &hidden, &context, &mut tap).unwrap();
        (input, flat(&output))
    };
    let (input, plain) = run(None);
    let mut by_token = input.clone();
    dynamic().fake_quantize_dynamic(&mut by_token, 9, columns).unwrap();
    let parameters = fixed().parameters(Matrix::new(&input, 9, columns).unwrap()).unwrap();
    let mut by_tensor = input.clone();
    fixed().fake_quantize(&mut by_tensor, 9, columns, &parameters).unwrap();
    let cases = [
        (GridQuantizer::new(dynamic(), None, columns).unwrap(), by_token),
        (GridQuantizer::new(fixed(), Some(parameters), columns).unwrap(), by_tensor),
    ];
    for (quantizer, rounded) in cases {
        let (tapped, output) = run(Some(quantizer));
        assert_eq!(tapped, input);
        assert_ne!(rounded, input);
        for i in 0..plain.len() {
            let place = i / 24 * columns + i % 24;
            let change = rounded[place] - input[place];
            assert!((output[i] - plain[i] - change).abs() < 1e-5, "{i}: {} {} {change}", output[i], plain[i]);
        }
    }
}

#[test]
fn linears_of_one_site_share_the_work() {
    struct Counting(std::sync::atomic::AtomicUsize);
    impl ActivationQuantizer for Counting {
        fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(x.clone())
        }
    }
    let config = tiny(Architecture::Llama);
    let mut decoder = Decoder::load(&config, &Weights::random(&config, 51), &Device::Cpu).unwrap();
    let quantizer = Arc::new(Counting(Default::default()));
    for linear in config.linears() {
        decoder.set_input_quantizer(&linear.name, Some(quantizer.clone())).unwrap();
    }
    decoder.set_input_quantizer("lm_head", Some(quantizer.clone())).unwrap();
    decoder.forward(&row(&[1, 2]), &Context::full(1, 2, None)).unwrap();
    assert_eq!(quantizer.0.load(std::sync::atomic::Ordering::Relaxed), 4 * config.num_layers + 1);
    assert!(decoder.set_input_quantizer("model.layers.9.mlp.up_proj", None).is_err());
    assert!(decoder.set_input_quantizer("model.layers.0.mlp.up", None).is_err());
}

#[test]
fn gradients_pass_straight_through_where_nothing_is_clipped() {
    let x = Var::from_tensor(&Tensor::new(&[[0.3f32, -0.9, 5.0, -7.0]], &Device::Cpu).unwrap()).unwrap();
    let sample = [1.0f32, -1.0];
    let parameters = fixed().parameters(Matrix::new(&sample, 1, 2).unwrap()).unwrap();
    let fixed = GridQuantizer::new(fixed(), Some(parameters), 4).unwrap();
    let dynamic = GridQuantizer::new(dynamic(), None, 4).unwrap();
    for (quantizer, expected) in [(fixed, [2.0, 2.0, 0.0, 0.0]), (dynamic, [2.0; 4])] {
        let loss = (quantizer.apply(&x).unwrap() * 2.0).unwrap().sum_all().unwrap();
        assert_eq!(flat(loss.backward().unwrap().get(&x).unwrap()), expected);
    }
}

#[test]
fn contradictions_are_errors() {
    let parameters = fixed().parameters(Matrix::new(&[1.0], 1, 1).unwrap()).unwrap();
    assert!(GridQuantizer::new(fixed(), None, 4).unwrap_err().to_string().contains("needs calibrated scales"));
    assert!(GridQuantizer::new(dynamic(), Some(parameters), 4).is_err());
    let grouped = grid(json!({ "num_bits": 8, "strategy": "group", "group_size": 32, "dynamic": true }));
    assert!(GridQuantizer::new(grouped, None, 44).unwrap_err().to_string().contains("32"));
}

/// Remembers what it was given and gives out zeros, or the input.
struct Recorder {
    zeros: bool,
    seen: std::sync::Mutex<Vec<(Vec<usize>, Vec<f32>)>>,
}

impl Recorder {
    fn new(zeros: bool) -> Arc<Self> {
        Arc::new(Self { zeros, seen: Default::default() })
    }
}

impl ActivationQuantizer for Recorder {
    fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        self.seen.lock().unwrap().push((x.dims().to_vec(), flat(x)));
        Ok(if self.zeros { x.zeros_like()? } else { x.clone() })
    }
}

#[test]
fn keys_and_values_are_quantized_where_a_cache_would_hold_them() {
    let config = tiny(Architecture::Qwen3);
    let (len, heads, kv_heads, dim) = (7, config.num_heads, config.num_kv_heads, config.head_dim);
    let weights = Weights::random(&config, 52);
    let ids = row(&random_ids(&config, len, 3));
    let run = |key: &Arc<Recorder>, value: &Arc<Recorder>| {
        let mut decoder = Decoder::load(&config, &weights, &Device::Cpu).unwrap();
        decoder.set_kv_quantizers(0, Some(key.clone()), Some(value.clone())).unwrap();
        let mut taps = std::collections::BTreeMap::new();
        let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
            taps.insert(site, flat(x));
            Ok(())
        };
        let hidden = decoder.embed(&ids).unwrap();
        let output = decoder.block(0, &hidden, &Context::full(1, len, None), &mut tap).unwrap();
        (flat(&output), taps)
    };
    let site = |kind| Site::in_block(0, kind);
    let (key, value) = (Recorder::new(false), Recorder::new(false));
    let (output, taps) = run(&key, &value);
    let plain = Decoder::load(&config, &weights, &Device::Cpu).unwrap();
    let hidden = plain.embed(&ids).unwrap();
    assert_eq!(output, flat(&plain.block(0, &hidden, &Context::full(1, len, None), &mut ()).unwrap()));
    for (recorder, kind) in [(key, SiteKind::Key), (value, SiteKind::Value)] {
        // All heads of a token make a row, keys after their rotation.
        let expected = (vec![1, len, kv_heads * dim], taps[&site(kind)].clone());
        assert_eq!(*recorder.seen.lock().unwrap(), [expected]);
    }
    // Keys of zero weigh all tokens so far alike: every head gives the mean of its values.
    let (_, taps) = run(&Recorder::new(true), &Recorder::new(false));
    let (values, mixed) = (&taps[&site(SiteKind::Value)], &taps[&site(SiteKind::OutputInput)]);
    for token in 0..len {
        for head in 0..heads {
            for i in 0..dim {
                let of = |t: usize| f64::from(values[(t * kv_heads + head * kv_heads / heads) * dim + i]);
                let mean = (0..=token).map(of).sum::<f64>() / (token + 1) as f64;
                assert!((f64::from(mixed[(token * heads + head) * dim + i]) - mean).abs() < 1e-5);
            }
        }
    }
    // Values of zero leave nothing to mix.
    let (_, taps) = run(&Recorder::new(false), &Recorder::new(true));
    assert!(taps[&site(SiteKind::OutputInput)].iter().all(|x| *x == 0.0));
    let mut decoder = Decoder::load(&config, &weights, &Device::Cpu).unwrap();
    assert!(decoder.set_kv_quantizers(config.num_layers, None, None).is_err());
}

#[test]
fn a_quantized_cache_continues_as_the_whole_text_does() {
    let config = tiny(Architecture::Qwen3);
    let (kv_heads, dim) = (config.num_kv_heads, config.head_dim);
    let mut decoder = Decoder::load(&config, &Weights::random(&config, 53), &Device::Cpu).unwrap();
    let ids = random_ids(&config, 9, 4);
    let whole = |decoder: &Decoder| flat(&decoder.forward(&row(&ids), &Context::full(1, 9, None)).unwrap());
    let plain = whole(&decoder);
    let heads = grid(json!({ "num_bits": 4, "strategy": "attn_head" })).of_heads(dim);
    let static_scales = heads.parameters_from_range(&vec![-2.0; kv_heads], &vec![2.0; kv_heads]).unwrap();
    let grouped = grid(json!({ "num_bits": 4, "symmetric": false, "group_size": dim, "dynamic": true }));
    for (grid, parameters) in [(heads, Some(static_scales)), (grouped, None)] {
        let quantizer = Arc::new(GridQuantizer::new(grid, parameters, kv_heads * dim).unwrap());
        for block in 0..config.num_layers {
            decoder.set_kv_quantizers(block, Some(quantizer.clone()), Some(quantizer.clone())).unwrap();
        }
        let expected = whole(&decoder);
        assert_ne!(expected, plain);
        let mut cache = decoder.cache(1);
        let mut last = Vec::new();
        for piece in [&ids[..4], &ids[4..5], &ids[5..]] {
            last = flat(&decoder.forward_cached(&row(piece), &[piece.len()], &mut cache).unwrap());
        }
        let expected = &expected[expected.len() - config.vocab_size..];
        let difference = last.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0_f32, f32::max);
        assert!(difference < 1e-4, "{difference}");
    }
}
