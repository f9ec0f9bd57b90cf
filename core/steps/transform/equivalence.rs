//! The gate of transforms: the function must not change.
//!
//! Logits of the two models are compared in f32, with the transform's weights before they are rounded to the artifact's dtype (what the
//! artifact itself says is measured when it is there), on random tokens and on real ones. The yardstick is what f32 itself makes of the
//! order of a sum: the unchanged model is evaluated a second time with the channels of the hidden states in reverse order, which changes
//! nothing else but the order within pairs where weights are stored in bfloat16. (The channels of an MLP would not do: an online
//! rotation mixes them in their order.)
//!
//! A few tokens see a few rows of the embeddings, and few positions; all rows of the head they do see. The other rows are compared in
//! mixtures ([`rows`]), experts that no token is routed to with every token in every expert, and keys of config.json that few tokens do
//! not prove may not change ([`config`]).

mod config;
mod experts;
mod rows;

use std::collections::BTreeMap;

use candle_core::Tensor;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};
use workbench_model::{
    Block, Checkpoint, Context, HiddenStates, ModelConfig, ModelError, Precision, Tokenizer, WeightSource,
    decoder::{self, Embedding},
    device::HOST,
    statistics::divergences,
};

use self::{
    experts::{Unrouted, in_every_expert},
    rows::Mixtures,
};
use crate::{
    error::{Error, Result},
    exec::return_freed_memory,
};

/// Largest logit difference, relative to the logits' standard deviation, that a claim of equivalence may rest on even where
/// f32 itself is more exact.
const TOLERANCE: f64 = 1e-4;

/// Tokens of each kind that are compared.
const TOKENS: usize = 64;

/// Sequences of mixtures of rows: of 150,000 rows 1,200 are in one, and one that is zero changes it by 3 %.
const MIXED: usize = 2;

/// What a comparison found.
pub(super) struct Found {
    /// For the record: before the weights are rounded to the dtype in which they are written.
    pub exact: Value,
    texts: Vec<Vec<u32>>,
    /// Of the original on the texts.
    logits: Vec<f32>,
}

impl Found {
    /// The same texts through the model as it is stored, weights rounded to its dtype: mean KL(original ‖ artifact) in nats per token, and
    /// the share of equal first choices.
    ///
    /// # Errors
    /// The artifact cannot be read.
    pub(super) fn as_written(&self, artifact: &Checkpoint) -> Result<Value> {
        let config = artifact.config();
        let written = logits(config, artifact, vec![looked_up(config, artifact, &self.texts)?])?.concat();
        Ok(divergence(&self.logits, &written, config.vocab_size))
    }
}

/// What a transform made.
pub(super) struct TransformedModel<'a> {
    pub source: &'a dyn WeightSource,
    pub config: &'a ModelConfig,
    pub config_json: &'a Value,
    /// Whether its table of embeddings is another than the original's.
    pub rows_changed: bool,
    /// Whether a tensor of an expert is another than the original's.
    pub experts_changed: bool,
}

/// A model and how it is read.
type Side<'a> = (&'a ModelConfig, &'a dyn WeightSource);

/// Compares a transformed model with its original.
///
/// # Errors
/// A key of config.json changed that is none of a transform's. The difference is larger than the larger of [`TOLERANCE`] and
/// ten times that of two evaluation orders.
pub(super) fn check(
    original: &Checkpoint,
    made: &TransformedModel<'_>,
    real: Option<&[u32]>,
    method: &str,
) -> Result<Found> {
    config::check(original.config_json(), made.config_json, method)?;
    let texts = tokens(original, real)?;
    let on_texts = Inputs { place: "", embed: &|(config, source)| looked_up(config, source, &texts) };
    let mixtures = match made.rows_changed {
        true => Some(Mixtures::of(original, original.config(), TOKENS.min(original.config().max_positions), MIXED)?),
        false => None,
    };
    let on_mixtures = mixtures.as_ref().map(|mixtures| {
        let embed = |(config, source): Side<'_>| Ok(vec![mixtures.embed(source, config)?]);
        (mixtures.count(), embed)
    });
    let mut inputs = vec![on_texts];
    if let Some((_, embed)) = &on_mixtures {
        inputs.push(Inputs { place: " on mixtures of all rows of the embeddings", embed });
    }
    let sides: [Side<'_>; 2] = [(original.config(), original), (made.config, made.source)];
    let mut compared = compare(sides, method, &inputs)?.into_iter();
    let nothing = || Error::internal("a comparison without inputs");
    let Compared { before, found: mut exact } = compared.next().ok_or_else(nothing)?;
    exact["tokens"] = texts.iter().map(Vec::len).sum::<usize>().into();
    if let (Some(Compared { found: mut rows, .. }), Some((count, _))) = (compared.next(), &on_mixtures) {
        rows["mixtures"] = (*count).into();
        exact["all_rows"] = rows;
    }
    if original.config().experts.is_some() && made.experts_changed {
        let [a, b] = sides.map(|(config, _)| in_every_expert(config));
        let [from, to] = sides.map(Unrouted::new);
        let inputs = [Inputs { place: " with every token in every expert", ..inputs.swap_remove(0) }];
        exact["all_experts"] = compare([(&a, &from), (&b, &to)], method, &inputs)?.pop().ok_or_else(nothing)?.found;
    }
    Ok(Found { exact, texts, logits: before })
}

/// What both models are given, judged by itself: what a message says of it, and the hidden states `[batch, len, hidden]` that a model
/// begins with.
struct Inputs<'a> {
    place: &'static str,
    embed: &'a dyn Fn(Side<'_>) -> Result<Vec<Tensor>>,
}

/// Logits of the original on some inputs, and what is said about the other model's difference from them.
struct Compared {
    before: Vec<f32>,
    found: Value,
}

/// Compares two models on several inputs, which pass each of them together: to bring a weight into the order of its products costs more
/// than to multiply so few tokens.
fn compare([original, made]: [Side<'_>; 2], method: &str, inputs: &[Inputs<'_>]) -> Result<Vec<Compared>> {
    let of = |side: Side<'_>| {
        let embedded = inputs.iter().map(|inputs| (inputs.embed)(side)).collect::<Result<Vec<_>>>()?;
        logits(side.0, side.1, embedded)
    };
    let [before, after] = [of(original)?, of(made)?];
    let differences: Vec<f64> = before.iter().zip(&after).map(|(a, b)| difference(a, b)).collect();
    // The yardstick costs as much as the comparison, and matters only where the tolerance does not do.
    let noise: Option<Vec<f64>> = match differences.iter().any(|d| d.is_nan() || *d > TOLERANCE) {
        true => {
            let (config, source) = original;
            let other = of((config, &ReversedHidden::new(source, config)))?;
            Some(before.iter().zip(&other).map(|(a, b)| difference(a, b)).collect())
        }
        false => None,
    };
    let mut all = Vec::with_capacity(inputs.len());
    drop(after);
    for (index, before) in before.into_iter().enumerate() {
        let (difference, place) = (differences[index], inputs[index].place);
        let mut found = json!({ "logit_difference": difference });
        let mut limit = TOLERANCE;
        if let Some(noise) = noise.as_ref().filter(|_| difference.is_nan() || difference > TOLERANCE) {
            found["evaluation_order_difference"] = noise[index].into();
            limit = TOLERANCE.max(10.0 * noise[index]);
        }
        if difference.is_nan() || difference > limit {
            let message = format!(
                "`{method}` changed the model's function: logits{place} differ by {difference:.2e} of their standard deviation, and {limit:.2e} is allowed"
            );
            return Err(Error::refused(message)
                .hint("a transform must leave the function alone; check its algebra, or fold in f64"));
        }
        found["limit"] = limit.into();
        all.push(Compared { before, found });
    }
    Ok(all)
}

fn divergence(p: &[f32], q: &[f32], vocabulary: usize) -> Value {
    let rows = divergences(p, q, vocabulary);
    let n = rows.len().max(1) as f64;
    json!({ "kl": rows.iter().map(|r| r.kl).sum::<f64>() / n, "top1": rows.iter().filter(|r| r.same_top).count() as f64 / n })
}

/// Random tokens, and real ones: calibration data where there are any, else a sentence of the demo.
fn tokens(checkpoint: &Checkpoint, real: Option<&[u32]>) -> Result<Vec<Vec<u32>>> {
    let config = checkpoint.config();
    let length = TOKENS.min(config.max_positions);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let drawn = (0..length).map(|_| random.random_range(0..config.vocab_size as u32)).collect();
    let real = match real {
        Some(ids) => ids.to_vec(),
        None => {
            let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
            let text: String =
                crate::demo::documents(crate::demo::Split::Test).take(8).collect::<Vec<_>>().join("\n\n");
            tokenizer.encode(&text, true)?
        }
    };
    Ok(vec![drawn, real.into_iter().take(length).collect()])
}

/// The embeddings of texts. Texts of one length make a batch: a product brings its weight into its own order once for all of them,
/// which costs more than to multiply so few tokens.
fn looked_up(config: &ModelConfig, source: &dyn WeightSource, texts: &[Vec<u32>]) -> Result<Vec<Tensor>> {
    let batches = texts.chunk_by(|a, b| a.len() == b.len()).filter(|batch| !batch[0].is_empty());
    batches.map(|batch| Ok(Embedding::look_up(config, source, &batch.concat(), batch.len())?)).collect()
}

/// Logits at all positions of batches of hidden states, by the inputs to which they belong. One block is in memory at a time.
fn logits(config: &ModelConfig, source: &dyn WeightSource, embedded: Vec<Vec<Tensor>>) -> Result<Vec<Vec<f32>>> {
    let batches: Vec<&Tensor> = embedded.iter().flatten().collect();
    let contexts = batches.iter().map(|hidden| {
        let (batch, length, _) = hidden.dims3()?;
        Ok(Context::full(batch, length, None))
    });
    let contexts = contexts.collect::<candle_core::Result<_>>().map_err(ModelError::from)?;
    let mut states = HiddenStates::in_memory(contexts, config.hidden_size, &HOST);
    for (index, hidden) in batches.into_iter().enumerate() {
        states.set(index, hidden)?;
    }
    for index in 0..config.num_layers {
        states.forward(&Block::load_for_scoring(config, source, index, Precision::F32, &HOST)?)?;
        source.release_block(index);
        // Packed weights of many sizes leave gaps between them, which would grow from block to block.
        return_freed_memory();
    }
    let last =
        (0..states.len()).map(|index| Ok(states.get(index)?.flatten_to(1)?)).collect::<Result<Vec<_>, ModelError>>()?;
    let mut rest = decoder::logits(config, source, &Tensor::cat(&last, 0).map_err(ModelError::from)?)?;
    let mut all = Vec::with_capacity(embedded.len());
    for batches in embedded {
        let positions: usize = batches.iter().map(|hidden| hidden.elem_count() / config.hidden_size.max(1)).sum();
        let later = rest.split_off(positions * config.vocab_size);
        rest.shrink_to_fit();
        all.push(std::mem::replace(&mut rest, later));
    }
    Ok(all)
}

/// The largest difference relative to the standard deviation of `a`.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let n = a.len().max(1) as f64;
    let mean = a.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = a.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    let largest = a
        .iter()
        .zip(b)
        .map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs())
        .fold(0.0, |m: f64, d| if d.is_nan() || m.is_nan() { f64::NAN } else { m.max(d) });
    largest / variance.sqrt()
}

/// A model with the channels of its hidden states in reverse order: the same function, summed the other way round.
struct ReversedHidden<'a> {
    source: &'a dyn WeightSource,
    config: &'a ModelConfig,
    /// By tensor, the axis along which the channels lie.
    axes: BTreeMap<String, usize>,
}

impl<'a> ReversedHidden<'a> {
    fn new(source: &'a dyn WeightSource, config: &'a ModelConfig) -> Self {
        let axes = config.tensors().into_iter().filter_map(|spec| Some((spec.name, spec.hidden_axis?))).collect();
        Self { source, config, axes }
    }
}

impl WeightSource for ReversedHidden<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = self.source.values(name)?;
        let hidden = self.config.hidden_size;
        match self.axes.get(name) {
            Some(0) => {
                let width = values.len() / hidden;
                let rows: Vec<Vec<f32>> = values.chunks_exact(width).map(<[f32]>::to_vec).collect();
                values = rows.into_iter().rev().flatten().collect();
            }
            Some(_) => values.chunks_exact_mut(hidden).for_each(<[f32]>::reverse),
            // Channels of heads and of the MLP, which stay where they are.
            None => {}
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn differences_are_relative_and_see_nan() {
        let a = [1.0_f32, -1.0, 1.0, -1.0];
        assert!((difference(&a, &[1.5, -1.0, 1.0, -1.0]) - 0.5).abs() < 1e-12);
        assert!(difference(&a, &[f32::NAN, -1.0, 1.0, -1.0]).is_nan());
        assert_eq!(difference(&a, &a[..3]), f64::INFINITY);
    }

    /// The demo's model with some tensors in place of its own.
    struct Changed<'a> {
        original: &'a Checkpoint,
        tensors: BTreeMap<&'static str, Vec<f32>>,
    }

    impl WeightSource for Changed<'_> {
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.original.shape(name)
        }

        fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
            self.tensors.get(name).cloned().map_or_else(|| self.original.values(name), Ok)
        }
    }

    const TABLE: &str = "model.embed_tokens.weight";

    fn demo() -> Checkpoint {
        Checkpoint::open(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo/model")).unwrap()
    }

    fn verdict(original: &Checkpoint, tensors: BTreeMap<&'static str, Vec<f32>>) -> Result<Found> {
        let (config, config_json) = (original.config(), original.config_json());
        // With a head of its own the embeddings are embeddings alone.
        let mut untied = config_json.clone();
        untied["tie_word_embeddings"] = false.into();
        let untied_config = ModelConfig::from_json(&untied, std::path::Path::new("config.json")).unwrap();
        let mut tensors = tensors;
        if config.tie_word_embeddings {
            tensors.entry("lm_head.weight").or_insert_with(|| original.values(TABLE).unwrap());
        }
        let rows_changed = tensors.contains_key(TABLE);
        let source = Changed { original, tensors };
        let made = TransformedModel {
            source: &source,
            config: &untied_config,
            config_json: &untied,
            rows_changed,
            experts_changed: false,
        };
        check(original, &made, None, "m")
    }

    /// A gpt-oss of one block whose router sends no token to the last of its experts.
    fn with_an_idle_expert(folder: &std::path::Path) -> Checkpoint {
        let config = json!({
            "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 16, "intermediate_size": 8, "head_dim": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 40, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 128, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
            "layer_types": ["full_attention"], "tie_word_embeddings": false, "attention_bias": true,
            "rope_parameters": { "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64 },
        });
        let parsed = ModelConfig::from_json(&config, std::path::Path::new("config.json")).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = parsed
            .tensors()
            .into_iter()
            .map(|spec| {
                let mut values: Vec<f32> =
                    (0..spec.shape.iter().product()).map(|_| random.random_range(-0.6..0.6)).collect();
                if spec.name == "model.layers.0.mlp.router.bias" {
                    values[3] = -1e4;
                }
                (spec.name, spec.shape, values.into_iter().flat_map(f32::to_le_bytes).collect())
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
        });
        std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        Checkpoint::open(folder).unwrap()
    }

    /// No token of the comparison is routed to it, and the next text may be.
    #[test]
    fn an_expert_without_tokens_is_looked_at() {
        const IDLE: &str = "model.layers.0.mlp.experts.3.down_proj.weight";
        let folder = tempfile::tempdir().unwrap();
        let original = with_an_idle_expert(folder.path());
        let (config, config_json) = (original.config(), original.config_json());
        let found = |factor: f32, experts_changed: bool| {
            let values = original.values(IDLE).unwrap().into_iter().map(|v| v * factor).collect();
            let source = Changed { original: &original, tensors: BTreeMap::from([(IDLE, values)]) };
            let made = TransformedModel { source: &source, config, config_json, rows_changed: false, experts_changed };
            check(&original, &made, Some(&[1, 7, 30, 2, 9]), "m")
        };
        assert_eq!(found(1.0, true).unwrap().exact["all_experts"]["logit_difference"], 0.0);
        assert_eq!(found(1.5, false).unwrap().exact["logit_difference"], 0.0, "a token was routed there");
        let error = found(1.5, true).err().unwrap();
        assert!(error.message.contains("with every token in every expert"), "{}", error.message);
    }

    /// Rows that no token of the comparison draws: one zeroed, one by a few percent longer, two exchanged.
    #[test]
    fn every_row_of_the_embeddings_is_looked_at() {
        let original = demo();
        let (rows, hidden) = (original.config().vocab_size, original.config().hidden_size);
        let table = original.values(TABLE).unwrap();
        let drawn: BTreeSet<u32> = tokens(&original, None).unwrap().into_iter().flatten().collect();
        let unseen: Vec<usize> = (0..rows).rev().filter(|row| !drawn.contains(&(*row as u32))).take(40).collect();
        let row = |index: usize| index * hidden..(index + 1) * hidden;
        for at in [unseen[0], unseen[17], unseen[39]] {
            let mut zeroed = table.clone();
            zeroed[row(at)].fill(0.0);
            let mut longer = table.clone();
            longer[row(at)].iter_mut().for_each(|v| *v *= 1.03);
            let mut exchanged = table.clone();
            exchanged.copy_within(row(unseen[5]), at * hidden);
            for changed in [zeroed, longer, exchanged] {
                let error = verdict(&original, BTreeMap::from([(TABLE, changed)])).err().unwrap();
                assert!(error.message.contains("on mixtures of all rows of the embeddings"), "{}", error.message);
            }
        }
        let found = verdict(&original, BTreeMap::from([(TABLE, table)])).unwrap();
        // The original's head is multiplied as it is stored, in bfloat16, the other one in f32: the order of their sums differs.
        let difference = found.exact["all_rows"]["logit_difference"].as_f64();
        assert!(difference.is_some_and(|difference| difference < TOLERANCE / 10.0), "{}", found.exact);
        assert!(found.exact["all_rows"]["mixtures"].as_u64() >= Some(64), "{}", found.exact);
    }

    /// The head's rows all have their column in the logits, and other tensors all have their say.
    #[test]
    fn every_other_tensor_is_looked_at() {
        let original = demo();
        let hidden = original.config().hidden_size;
        let head = original.values(&format!("{}.weight", "model.embed_tokens")).unwrap();
        for at in [0, original.config().vocab_size - 1] {
            let mut zeroed = head.clone();
            zeroed[at * hidden..(at + 1) * hidden].fill(0.0);
            assert!(verdict(&original, BTreeMap::from([("lm_head.weight", zeroed)])).is_err(), "row {at} of the head");
        }
        for tensor in original.config().tensors() {
            if !tensor.name.starts_with("model.layers.0.") && tensor.name != "model.norm.weight" {
                continue;
            }
            let mut values = original.values(&tensor.name).unwrap();
            let last = values.len() - tensor.shape.last().copied().unwrap_or(1).min(values.len() / 2).max(1);
            values[last..].iter_mut().for_each(|v| *v *= 1.25);
            let name: &'static str = Box::leak(tensor.name.into_boxed_str());
            assert!(verdict(&original, BTreeMap::from([(name, values)])).is_err(), "{name}");
        }
    }
}
