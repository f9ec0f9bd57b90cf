//! A real model against figures that were measured with another implementation, in PyTorch.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::json;
use workbench_model::decoder::GridQuantizer;
use workbench_model::{Checkpoint, Context, Decoder, ModelError, Site, Tokenizer, WeightSource};
use workbench_quant::{Conventions, Grid, Matrix, QuantizationArgs, StorageDtype};

use crate::support::{Weights, fixture, flat};

const BOS: u32 = 1;

/// The known perplexity of the model as it is.
const BASE: f64 = 4.981;

struct Stories {
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    valid: String,
    train: String,
}

impl Stories {
    fn open(test: &str) -> Option<Self> {
        let checkpoint = Checkpoint::open(&fixture(test, "models/stories15M")?).unwrap();
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
        let read = |name: &str| Some(std::fs::read_to_string(fixture(test, name)?).unwrap());
        let valid = read("data/tinystories/valid_first.txt")?;
        let train = read("data/tinystories/train_first.txt")?;
        Some(Self { checkpoint, tokenizer, valid, train })
    }

    /// The first 4,096 tokens in blocks of 256, each behind a BOS.
    fn blocks(&self, text: &str) -> Tensor {
        let start: String = text.chars().take(32_768).collect();
        let ids = self.tokenizer.encode(&start, false).unwrap();
        let rows = ids[..4096].chunks(256).flat_map(|block| [&[BOS], block].concat()).collect();
        Tensor::from_vec(rows, (16, 257), &Device::Cpu).unwrap()
    }

    /// The perplexity of every token of a block but the BOS.
    fn perplexity(&self, decoder: &Decoder, blocks: &Tensor) -> f64 {
        let hidden = decoder.hidden(blocks, &Context::full(16, 257, None), &mut ()).unwrap();
        let ids = blocks.to_vec2::<u32>().unwrap();
        let (mut total, mut count) = (0.0, 0);
        for (row, ids) in ids.iter().enumerate() {
            let scores =
                decoder.head_layer().score(&hidden.get(row).unwrap().narrow(0, 0, 256).unwrap(), &ids[1..], 512);
            total -= scores.unwrap().iter().map(|score| score.log_probability).sum::<f64>();
            count += 256;
        }
        (total / f64::from(count)).exp()
    }
}

#[test]
fn stories15m_reaches_its_known_loss_on_whole_stories() {
    let Some(stories) = Stories::open("stories15m_reaches_its_known_loss_on_whole_stories") else { return };
    let config = stories.checkpoint.config();
    let decoder = Decoder::load(config, &stories.checkpoint, &Device::Cpu).unwrap();
    let (mut total, mut count) = (0.0, 0);
    // The file does not mark where a story ends. Most begin with these words, and most of what follows is that story.
    const OPENING: &str = "Once upon a time";
    for story in stories.valid.split(OPENING).skip(1).take(40) {
        let end = story.find("\n\nOne day").unwrap_or(story.len());
        let mut ids = vec![BOS];
        ids.extend(stories.tokenizer.encode(&format!("{OPENING}{}", story[..end].trim_end()), false).unwrap());
        ids.truncate(config.max_positions);
        let input = Tensor::from_slice(&ids, (1, ids.len()), &Device::Cpu).unwrap();
        let hidden = decoder.hidden(&input, &Context::full(1, ids.len(), None), &mut ()).unwrap();
        let hidden = hidden.narrow(1, 0, ids.len() - 1).unwrap();
        let scores = decoder.head_layer().score(&hidden, &ids[1..], 512).unwrap();
        total -= scores.iter().map(|score| score.log_probability).sum::<f64>();
        count += scores.len();
    }
    let loss = total / count as f64;
    eprintln!("stories15M: {loss:.4} nats per token over {count} tokens");
    // The known figure, 1.072, is over more stories than these forty.
    assert!((loss - 1.072).abs() < 0.1, "{loss}");
}

/// Perplexities of 8-bit weights and activations; facts measured in PyTorch with the same token ids.
#[test]
fn eight_bit_perplexities_of_stories15m_are_the_known_ones() {
    let Some(stories) = Stories::open("eight_bit_perplexities_of_stories15m_are_the_known_ones") else { return };
    let (evaluation, calibration) = (stories.blocks(&stories.valid), stories.blocks(&stories.train));
    let config = stories.checkpoint.config();
    let grid = |strategy: &str, dynamic: bool| {
        let args = json!({ "num_bits": 8, "type": "int", "symmetric": true, "strategy": strategy, "dynamic": dynamic });
        let args: QuantizationArgs = serde_json::from_value(args).unwrap();
        Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap()
    };
    let mut weights = Weights::default();
    for spec in config.tensors() {
        weights.0.insert(spec.name.clone(), (spec.shape, stories.checkpoint.values(&spec.name).unwrap()));
    }
    let plain = Decoder::load(config, &weights, &Device::Cpu).unwrap();
    let check = |what: &str, decoder: &Decoder, expected: f64| {
        let found = stories.perplexity(decoder, &evaluation);
        eprintln!("{what}: {found:.4} (known: {expected})");
        let (loss, known) = ((found / BASE).ln(), (expected / BASE).ln());
        assert!((loss - known).abs() < 0.05 * known + 0.005, "{what}: {found} instead of {expected}");
    };
    assert!((stories.perplexity(&plain, &evaluation) - BASE).abs() < 1e-3);

    let mut absmax: HashMap<Site, f32> = HashMap::new();
    let mut observe = |site: Site, x: &Tensor| -> Result<(), ModelError> {
        let most = absmax.entry(site).or_default();
        *most = flat(x).iter().fold(*most, |most, x| most.max(x.abs()));
        Ok(())
    };
    plain.hidden(&calibration, &Context::full(16, 257, None), &mut observe).unwrap();

    for linear in config.linears() {
        let values = &mut weights.0.get_mut(&format!("{}.weight", linear.name)).unwrap().1;
        let (rows, columns, grid) = (linear.out_features, linear.in_features, grid("channel", false));
        let parameters = grid.parameters(Matrix::new(values, rows, columns).unwrap()).unwrap();
        grid.fake_quantize(values, rows, columns, &parameters).unwrap();
    }
    let with_inputs = |wanted: &dyn Fn(&str) -> bool, dynamic: bool| {
        let mut decoder = Decoder::load(config, &weights, &Device::Cpu).unwrap();
        for linear in config.linears().into_iter().filter(|linear| wanted(&linear.name)) {
            let quantizer = if dynamic {
                GridQuantizer::new(grid("token", true), None, linear.in_features)
            } else {
                let (grid, most) = (grid("tensor", false), absmax[&linear.site]);
                let parameters = grid.parameters_from_range(&[-most], &[most]).unwrap();
                GridQuantizer::new(grid, Some(parameters), linear.in_features)
            };
            decoder.set_input_quantizer(&linear.name, Some(Arc::new(quantizer.unwrap()))).unwrap();
        }
        decoder
    };
    check("8-bit weights", &with_inputs(&|_| false, false), 5.000);
    check("dynamic", &with_inputs(&|_| true, true), 5.035);
    check("static", &with_inputs(&|_| true, false), 5.596);
    check("static but for down_proj", &with_inputs(&|name| !name.ends_with("down_proj"), false), 4.994);
    check("static but for o_proj", &with_inputs(&|name| !name.ends_with("o_proj"), false), 5.602);
}
