//! The gate of transforms: the function must not change.
//!
//! Logits of the two models are compared in f32, with the transform's weights before they are rounded to the artifact's
//! dtype, on random tokens and on real ones. The yardstick is what f32 itself makes of the order of a sum: the unchanged
//! model is evaluated a second time with the channels of the hidden states in reverse order, which changes nothing else. (The
//! channels of an MLP would not do: an online rotation mixes them in their order.)
//!
//! A few tokens see a few rows of the embeddings, and few positions; all rows of the head they do see. The other rows are compared in
//! mixtures ([`rows`]), experts that no token is routed to with every token in every expert, and keys of config.json that few tokens do
//! not prove may not change ([`config`]).

mod config;
mod rows;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};
use workbench_model::{
    Block, Checkpoint, Context, HiddenStates, ModelConfig, ModelError, Tokenizer, WeightSource,
    checkpoint::{Dtype, narrow, widened},
    config::Experts,
    decoder::{self, Embedding},
    device::HOST,
    statistics::divergences,
};

use self::rows::Mixtures;
use crate::error::{Error, Result};

/// Largest logit difference, relative to the logits' standard deviation, that a claim of equivalence may rest on even where
/// f32 itself is more exact.
const TOLERANCE: f64 = 1e-4;

/// Tokens of each kind that are compared.
const TOKENS: usize = 64;

/// Sequences of mixtures of rows: of 150,000 rows 1,200 are in one, and one that is zero changes it by 3 %.
const MIXED: usize = 2;

/// What a comparison found, for the record.
pub(super) struct Found {
    /// Before the weights are rounded to the dtype in which they are written.
    pub exact: Value,
    /// After: mean KL(original ‖ artifact) in nats per token, and the share of equal first choices.
    pub as_written: Value,
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

/// The same model with every token in every expert.
fn in_every_expert(config: &ModelConfig) -> ModelConfig {
    let experts = config.experts.clone().map(|experts| Experts { per_token: experts.count, ..experts });
    ModelConfig { experts, ..config.clone() }
}

/// A model whose routers say nothing, so that every expert counts alike.
struct Unrouted<'a> {
    source: &'a dyn WeightSource,
    routers: BTreeSet<String>,
}

impl<'a> Unrouted<'a> {
    fn new((config, source): Side<'a>) -> Self {
        let routers = config.blocks().filter_map(|block| block.router);
        Self {
            source,
            routers: routers.flat_map(|router| router.tensors().collect::<Vec<_>>()).map(|t| t.name).collect(),
        }
    }
}

impl WeightSource for Unrouted<'_> {
    fn release_block(&self, index: usize) {
        self.source.release_block(index);
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = self.source.values(name)?;
        if self.routers.contains(name) {
            values.fill(0.0);
        }
        Ok(values)
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.source.rows(name, rows)
    }

    fn has_rows(&self, name: &str) -> bool {
        self.source.has_rows(name)
    }
}

/// Compares a transformed model with its original, and what will be written of it in `dtype` as well.
///
/// # Errors
/// A key of config.json changed that is none of a transform's. The difference is larger than the larger of [`TOLERANCE`] and
/// ten times that of two evaluation orders.
pub(super) fn check(
    original: &Checkpoint,
    made: &TransformedModel<'_>,
    dtype: Dtype,
    real: Option<&[u32]>,
    method: &str,
) -> Result<Found> {
    config::check(original.config_json(), made.config_json, method)?;
    let texts = tokens(original, real)?;
    let embed = |config: &ModelConfig, source: &dyn WeightSource| looked_up(config, source, &texts);
    let sides: [Side<'_>; 2] = [(original.config(), original), (made.config, made.source)];
    let (before, after, mut exact) = compare(sides, method, "", &embed)?;
    exact["tokens"] = texts.iter().map(Vec::len).sum::<usize>().into();
    if made.rows_changed {
        let length = TOKENS.min(original.config().max_positions);
        let mixtures = Mixtures::of(original, original.config(), length, MIXED)?;
        let embed = |config: &ModelConfig, source: &dyn WeightSource| Ok(vec![mixtures.embed(source, config)?]);
        let place = " on mixtures of all rows of the embeddings";
        let (.., mut rows) = compare(sides, method, place, &embed)?;
        rows["mixtures"] = mixtures.count().into();
        exact["all_rows"] = rows;
    }
    if original.config().experts.is_some() && made.experts_changed {
        let [a, b] = sides.map(|(config, _)| in_every_expert(config));
        let [from, to] = sides.map(Unrouted::new);
        let sides: [Side<'_>; 2] = [(&a, &from), (&b, &to)];
        exact["all_experts"] = compare(sides, method, " with every token in every expert", &embed)?.2;
    }
    let written = match dtype {
        Dtype::F32 => after,
        _ => {
            let rounded = Rounded { source: made.source, dtype };
            logits(made.config, &rounded, looked_up(made.config, &rounded, &texts)?)?
        }
    };
    Ok(Found { exact, as_written: divergence(&before, &written, original.config().vocab_size) })
}

/// Hidden states `[batch, len, hidden]` that a model begins with.
type Embed<'a> = dyn Fn(&ModelConfig, &dyn WeightSource) -> Result<Vec<Tensor>> + 'a;

/// Logits of both models on the same inputs, and what is said about their difference.
fn compare(
    [original, made]: [Side<'_>; 2],
    method: &str,
    place: &str,
    embed: &Embed<'_>,
) -> Result<(Vec<f32>, Vec<f32>, Value)> {
    let of = |(config, source): Side<'_>| logits(config, source, embed(config, source)?);
    let (before, after) = (of(original)?, of(made)?);
    let difference = difference(&before, &after);
    let mut found = json!({ "logit_difference": difference });
    let mut limit = TOLERANCE;
    // The yardstick costs as much as the comparison, and matters only where the tolerance does not do.
    if difference.is_nan() || difference > TOLERANCE {
        let (config, source) = original;
        let noise = self::difference(&before, &of((config, &ReversedHidden::new(source, config)))?);
        found["evaluation_order_difference"] = noise.into();
        limit = TOLERANCE.max(10.0 * noise);
    }
    if difference.is_nan() || difference > limit {
        let message = format!(
            "`{method}` changed the model's function: logits{place} differ by {difference:.2e} of their standard deviation, and {limit:.2e} is allowed"
        );
        return Err(Error::refused(message)
            .hint("a transform must leave the function alone; check its algebra, or fold in f64"));
    }
    found["limit"] = limit.into();
    Ok((before, after, found))
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
            let split = crate::demo::Split::by_name("stories/test").map_err(|e| Error::internal(e.to_string()))?;
            let text: String = crate::demo::documents(split).take(8).collect::<Vec<_>>().join("\n\n");
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

/// Logits at all positions of all batches of hidden states. One block is in memory at a time.
fn logits(config: &ModelConfig, source: &dyn WeightSource, embedded: Vec<Tensor>) -> Result<Vec<f32>> {
    let contexts = embedded.iter().map(|hidden| {
        let (batch, length, _) = hidden.dims3()?;
        Ok(Context::full(batch, length, None))
    });
    let contexts = contexts.collect::<candle_core::Result<_>>().map_err(ModelError::from)?;
    let mut states = HiddenStates::in_memory(contexts, config.hidden_size, &HOST);
    for (index, hidden) in embedded.iter().enumerate() {
        states.set(index, hidden)?;
    }
    for index in 0..config.num_layers {
        states.forward(&Block::load(config, source, index, &HOST)?)?;
        source.release_block(index);
    }
    let mut all = Vec::new();
    for index in 0..states.len() {
        all.extend(decoder::logits(config, source, &states.get(index)?)?);
    }
    Ok(all)
}

/// A model in the dtype in which it is written.
struct Rounded<'a> {
    source: &'a dyn WeightSource,
    dtype: Dtype,
}

impl WeightSource for Rounded<'_> {
    fn release_block(&self, index: usize) {
        self.source.release_block(index);
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(widened(&narrow(&self.source.values(name)?, self.dtype), self.dtype))
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        Ok(widened(&narrow(&self.source.rows(name, rows)?, self.dtype), self.dtype))
    }

    fn has_rows(&self, name: &str) -> bool {
        self.source.has_rows(name)
    }
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
        check(original, &made, Dtype::F32, None, "m")
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
            check(&original, &made, Dtype::F32, Some(&[1, 7, 30, 2, 9]), "m")
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
        assert_eq!(found.exact["all_rows"]["logit_difference"], 0.0, "{}", found.exact);
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
