//! Memory of nodes that make models.

use serde_json::Value;
use workbench_model::ModelConfig;
use workbench_quant::Dynamic;

use super::{super::training::VALIDATION, text};
use crate::{
    eval::{PROGRAM, TOKEN},
    graph::{
        MemoryNeed,
        node::DataSource,
        params::{CalibrationDtype, Params, Quantize, TokenOptions, Train},
    },
    script::Signature,
};

/// Bytes of a parameter that is trained, at any time: weight, AdamW's two moments, and the file that it began with.
const TRAINED: u64 = 16;

/// The same of its gradient, and of a checkpoint that is written: weight and moments once more, and the file made of them.
const GRADIENT: u64 = 4;
/// Of the best weights so far, where they are kept.
const BEST: u64 = 12;
/// Of a weight on a grid: the rounded one, beside the one that is trained.
const ROUNDED: u64 = 4;
/// The same of the block that is visited, where blocks are rounded one at a time: what is rounded, and the gradients by it.
const VISITED: u64 = 12;
const CHECKPOINT: u64 = 24;

/// What a trainer's own threads and their allocator take.
pub(super) const TRAINER: u64 = 32 << 20;

/// What a node that makes a model is expected to need; a trainer holds its teacher in f32.
pub(in crate::script::api) fn making<'a>(
    model: &Signature,
    teacher: Option<&Signature>,
    params: &Params,
    data: impl IntoIterator<Item = (&'a String, &'a DataSource)>,
    by_block: bool,
) -> MemoryNeed {
    let config = &model.config;
    let texts: u64 = data.into_iter().map(|(role, source)| text_of(source, tokens(params, role))).sum();
    let tokenizer = tokens(params, "").map_or(0, |_| config.vocab_size as u64 * TOKEN);
    let rest = PROGRAM + tokenizer + texts;
    match params {
        Params::Train(train) => {
            let batch = Batch::of_training(config, train);
            // Who distils without a teacher learns from the model as it is given.
            let itself = (train.parameters["loss"] == "distillation").then_some(model);
            let taught = teacher.or(itself).map_or(0, |teacher| taught(teacher, &batch, config));
            let rounded = match (train.codes || !train.groups.is_empty(), batch.checkpointed) {
                (false, _) => 0,
                // Who writes holds the whole model, rounded.
                (true, true) if train.rewards.is_empty() => VISITED * largest_block(config),
                (true, _) => ROUNDED * model.parameters,
            };
            let data = sequences_of(train);
            let own = training(config, model.parameters, &batch, writes_checkpoints(train));
            // The best weights, and once more while better ones are copied or all of it is written.
            let best = if train.parameters["keep_best"] == true { BEST * model.parameters } else { 0 };
            let policy =
                if train.rewards.is_empty() { 0 } else { writing(config, model.parameters, train, batch.length) };
            MemoryNeed::from((rest + data + taught + rounded + best + policy).saturating_add(own))
        }
        // Every weight in f32, and what a backward pass over them needs.
        Params::Transform(transform) if !transform.parameters["learn"].is_null() => {
            let length = transform.calibration.as_ref().map_or(0, |tokens| tokens.max_seq_length);
            let batch = Batch::of(&transform.parameters["learn"], length);
            MemoryNeed::from(rest + model.memory_estimate() + batch.activations(config) + batch.logits(config))
        }
        // Two copies of a block, of which one is compared with the other.
        Params::Transform(transform) => MemoryNeed {
            held: rest + table(config) + 2 * block(config),
            spilled: transform.calibration.as_ref().map_or(0, |tokens| activations(config, tokens, 4)),
        },
        Params::Quantize(quantize) => {
            let size = if quantize.hidden_states == Some(CalibrationDtype::Bfloat16) { 2 } else { 4 };
            let streams = if by_block { 2 } else { 1 };
            // A plugin that takes blocks in batches trains them.
            let trained = match &quantize.calibration {
                Some(tokens) if trains_blocks(quantize, by_block) => {
                    let copies = (2 * 4 * hidden(config, tokens)).min(2 * BLOCK_DATA);
                    training_of_block(config, &Batch::of(&quantize.parameters, tokens.max_seq_length)) + copies
                }
                _ => 0,
            };
            MemoryNeed {
                held: (rest + table(config) + streams * block(config)).saturating_add(trained),
                spilled: quantize.calibration.as_ref().map_or(0, |tokens| {
                    let cached = if has_static_cache(quantize) { keys_values(config, tokens) } else { 0 };
                    streams * (activations(config, tokens, size) + cached)
                }),
            }
        }
        Params::Evaluate(_) | Params::Generate(_) => MemoryNeed::from(rest),
    }
}

/// What a trainer's teacher takes, with what it says about a batch.
pub(super) fn taught(teacher: &Signature, batch: &Batch, config: &ModelConfig) -> u64 {
    4 * teacher.parameters + batch.chunk_of_logits(config)
}

/// Memory of what every node has that reads tokens.
pub(super) fn reading<'a>(
    config: &ModelConfig,
    params: &Train,
    data: impl IntoIterator<Item = (&'a String, &'a DataSource)>,
) -> u64 {
    let options = |role: &str| if role == VALIDATION { params.validation.as_ref() } else { Some(&params.data) };
    let texts: u64 = data.into_iter().map(|(role, source)| text_of(source, options(role))).sum();
    PROGRAM + config.vocab_size as u64 * TOKEN + texts
}

/// The tokens of all data of a training.
pub(super) fn sequences_of(train: &Train) -> u64 {
    sequences(&train.data) + train.validation.as_ref().map_or(0, sequences)
}

/// A number among a plugin's parameters.
fn number(parameters: &Value, name: &str) -> usize {
    parameters[name].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
}

/// What a policy takes that writes: keys and values of the completions of a prompt, which grow by doubling, and their logits; and the
/// model that it stays close to.
fn writing(config: &ModelConfig, parameters: u64, train: &Train, length: u64) -> u64 {
    let group = number(&train.parameters, "num_generations") as u64;
    let cached = 3 * 2 * 4 * (config.num_layers * config.num_kv_heads * config.head_dim) as u64 * length;
    let reference = if train.parameters["beta"].as_f64().unwrap_or(0.0) > 0.0 { 4 * parameters } else { 0 };
    group.saturating_mul(cached + 2 * 4 * config.vocab_size as u64) + reference
}

/// What a training of all weights takes at its peak, beside what every node takes. A step has two: with all activations and the
/// logits at hand, and on the way back through a block. Then a checkpoint is written where nothing of the step is needed any more;
/// but its memory is kept for the next one, and is in pieces of which a third or more is of no use for large copies.
fn training(config: &ModelConfig, parameters: u64, batch: &Batch, saves: bool) -> u64 {
    // All gradients; that of the head and that of the embeddings, where they are the same, with their sum and what both are added to.
    let gradients = GRADIENT * parameters + 5 * 4 * (config.vocab_size * config.hidden_size) as u64;
    let step = batch.step(config).saturating_add(gradients);
    let peak = if saves { step.max(CHECKPOINT * parameters + step / 3) } else { step };
    (TRAINER + TRAINED * parameters).saturating_add(peak)
}

/// Bytes of inputs, and of targets, that a plugin which trains blocks keeps in memory; more lie in its scratch folder.
const BLOCK_DATA: u64 = 256 << 20;

/// Whether a quantizer trains blocks: it takes them, and in batches.
fn trains_blocks(quantize: &Quantize, by_block: bool) -> bool {
    by_block && quantize.parameters["batch_size"].is_u64()
}

/// What the files of inputs and targets of a block in training take.
pub(super) fn block_files(config: &ModelConfig, quantize: &Quantize, by_block: bool) -> u64 {
    let bytes = quantize.calibration.as_ref().map_or(0, |tokens| 4 * hidden(config, tokens));
    if trains_blocks(quantize, by_block) && bytes > BLOCK_DATA { 2 * bytes } else { 0 }
}

/// Numbers of the hidden states of a calibration set.
fn hidden(config: &ModelConfig, tokens: &TokenOptions) -> u64 {
    (tokens.num_calibration_samples.unwrap_or(0) * tokens.max_seq_length * config.hidden_size) as u64
}

/// What a training of the largest block takes: its weights and all that there is one of for each, and a batch on the way back.
fn training_of_block(config: &ModelConfig, batch: &Batch) -> u64 {
    let each = TRAINED + GRADIENT + 2 * ROUNDED;
    TRAINER + each * largest_block(config) + batch.block(config).saturating_mul(5) / 2
}

/// The tokens of a training with their marks, here and once more at the trainer. Those of a text of which all is read are counted
/// with it.
fn sequences(tokens: &TokenOptions) -> u64 {
    2 * 5 * (tokens.num_calibration_samples.unwrap_or(0) * tokens.max_seq_length) as u64
}

/// Whether a training that nobody interrupts writes a checkpoint: there is none behind the last step. A trainer that does not say
/// how many steps it takes may.
fn writes_checkpoints(train: &Train) -> bool {
    let number = |name: &str| train.parameters[name].as_u64();
    let Some(every) = number("checkpoint_every") else { return true };
    let of_step = match train.rewards.is_empty() {
        true => number("batch_size").unwrap_or(1).saturating_mul(number("gradient_accumulation").unwrap_or(1)),
        false => number("prompts_per_step").unwrap_or(1),
    };
    let steps = match (number("max_steps").filter(|steps| *steps > 0), train.data.num_calibration_samples) {
        (Some(steps), _) => steps,
        (None, None) => u64::MAX,
        (None, Some(sequences)) => {
            let again = number("num_iterations").filter(|_| !train.rewards.is_empty()).unwrap_or(1);
            let steps = (sequences as u64).div_ceil(of_step.max(1)).saturating_mul(again);
            (train.parameters["epochs"].as_f64().unwrap_or(1.0) * steps as f64).ceil() as u64
        }
    };
    every > 0 && every < steps
}

/// Memory of what is read of a text that becomes tokens.
fn text_of(source: &DataSource, options: Option<&TokenOptions>) -> u64 {
    let whole = options.is_some_and(|options| options.num_calibration_samples.is_none() || options.shuffle);
    let characters = options.and_then(|options| options.characters);
    text(source, whole, characters, options.map(|options| options.text_column.as_str()))
}

/// How the data of a node become tokens, by their role.
fn tokens<'a>(params: &'a Params, role: &str) -> Option<&'a TokenOptions> {
    match params {
        Params::Train(train) if role == VALIDATION => train.validation.as_ref(),
        Params::Transform(transform) => transform.calibration.as_ref(),
        Params::Quantize(quantize) => quantize.calibration.as_ref(),
        Params::Train(train) => Some(&train.data),
        Params::Evaluate(_) | Params::Generate(_) => None,
    }
}

/// The table of embeddings or the head, in f32 with what it is widened from and written as.
fn table(config: &ModelConfig) -> u64 {
    8 * (config.vocab_size * config.hidden_size) as u64
}

/// The largest block in f32, unpacked and packed, with the statistics of its widest sites: a Gram matrix, and what factorising it takes.
/// Experts are counted with their block.
fn block(config: &ModelConfig) -> u64 {
    let largest = largest_block(config);
    let widest = (config.num_heads * config.head_dim).max(config.intermediate_size).max(config.hidden_size) as u64;
    8 * largest + 4 * 4 * widest * widest
}

/// Weights of the linears of the largest block.
fn largest_block(config: &ModelConfig) -> u64 {
    let linears = |index| -> u64 {
        config.block(index).linears.iter().map(|linear| (linear.in_features * linear.out_features) as u64).sum()
    };
    (0..config.num_layers).map(linears).max().unwrap_or(0)
}

/// Hidden states of a calibration set, and the inputs of its widest site.
fn activations(config: &ModelConfig, tokens: &TokenOptions, size: u64) -> u64 {
    let count = tokens.num_calibration_samples.unwrap_or(0) * tokens.max_seq_length;
    let widest = (config.num_heads * config.head_dim).max(config.intermediate_size);
    size * (count * (config.hidden_size + widest)) as u64
}

/// Whether keys and values of a calibration set are kept, because a cache's static scales come from them.
fn has_static_cache(quantize: &Quantize) -> bool {
    quantize.kv_cache.as_ref().is_some_and(|cache| cache.args.dynamic == Dynamic::No)
}

/// Keys and values of a calibration set, in f32.
fn keys_values(config: &ModelConfig, tokens: &TokenOptions) -> u64 {
    let count = tokens.num_calibration_samples.unwrap_or(0) * tokens.max_seq_length;
    2 * 4 * (count * config.num_kv_heads * config.head_dim) as u64
}

/// A batch on its way forward and back.
pub(super) struct Batch {
    tokens: u64,
    /// Of a sequence.
    length: u64,
    /// Whether only the inputs of blocks are kept.
    checkpointed: bool,
    /// Positions whose logits exist at one time.
    positions: u64,
}

impl Batch {
    /// That of a training.
    pub(super) fn of_training(config: &ModelConfig, train: &Train) -> Self {
        // Where the model is trained on what it writes, that stands behind the data.
        let written = if train.rewards.is_empty() { 0 } else { number(&train.parameters, "max_completion_length") };
        let of_data = (train.data.max_seq_length + written).min(config.max_positions);
        let length = of_data.max(train.validation.as_ref().map_or(0, |data| data.max_seq_length));
        Self::of(&train.parameters, length)
    }

    /// What a step holds beside weights and gradients at its peak: with all activations and the logits at hand, or on the way back.
    pub(super) fn step(&self, config: &ModelConfig) -> u64 {
        let forward = self.kept(config).saturating_add(self.chunk_of_logits(config));
        forward.max(self.on_the_way_back(config))
    }

    /// As a plugin's parameters say it, with their usual names; one that says nothing has a batch of one.
    fn of(parameters: &Value, length: usize) -> Self {
        let number = |name: &str| parameters[name].as_u64();
        let length = length as u64;
        let tokens = number("batch_size").unwrap_or(1).saturating_mul(length);
        let checkpointed = parameters["gradient_checkpointing"].as_bool().unwrap_or(false);
        Self { tokens, length, checkpointed, positions: number("loss_chunk").unwrap_or(tokens).min(tokens) }
    }

    /// What autograd keeps: of each block about nine tensors of the hidden size, three of the intermediate size, and the attention
    /// probabilities of every head.
    fn activations(&self, config: &ModelConfig) -> u64 {
        let (layers, hidden) = (config.num_layers as u64, config.hidden_size as u64);
        let of_block = 4 * (9 * hidden + 3 * config.intermediate_size as u64 + config.num_heads as u64 * self.length);
        let of_token = match self.checkpointed {
            true => 4 * layers * hidden + 2 * of_block,
            false => layers * of_block,
        };
        self.tokens.saturating_mul(of_token)
    }

    /// What the forward pass of a training keeps: of each block, or with checkpoints the inputs of the blocks.
    fn kept(&self, config: &ModelConfig) -> u64 {
        let layers = config.num_layers as u64;
        match self.checkpointed {
            true => self.inputs(config),
            false => layers.saturating_mul(self.block(config)),
        }
    }

    /// The same on the way back through the block with the most memory: its gradients are half of what it keeps. With checkpoints
    /// one block at a time is computed again.
    fn on_the_way_back(&self, config: &ModelConfig) -> u64 {
        let block = self.block(config);
        match self.checkpointed {
            true => self.inputs(config).saturating_add(block.saturating_mul(5) / 2),
            false => self.kept(config).saturating_add(block.saturating_mul(3) / 2),
        }
    }

    /// The inputs of all blocks, and of the head.
    fn inputs(&self, config: &ModelConfig) -> u64 {
        self.tokens.saturating_mul(4 * (config.num_layers as u64 + 1) * config.hidden_size as u64)
    }

    /// What autograd keeps of a block: six tensors of the hidden size (norms, what attention and the MLP add, the sums), queries and
    /// keys each as they are made, normed and turned, values, what attention mixes, and three of the intermediate size. Attention
    /// computes its probabilities again.
    fn block(&self, config: &ModelConfig) -> u64 {
        let of_heads = (config.num_heads + config.num_kv_heads) * config.head_dim;
        let floats = 6 * config.hidden_size + 4 * of_heads + 3 * config.intermediate_size;
        self.tokens.saturating_mul(4 * floats as u64)
    }

    /// Logits, which become their gradient in place, and the copy that a product takes.
    fn chunk_of_logits(&self, config: &ModelConfig) -> u64 {
        2 * 4 * self.positions.saturating_mul(config.vocab_size as u64)
    }

    /// Logits, probabilities, their gradient and what it is made from.
    fn logits(&self, config: &ModelConfig) -> u64 {
        4 * 4 * self.positions.saturating_mul(config.vocab_size as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use serde_json::json;

    use super::*;
    use crate::graph::params::{Reward, read};

    fn model(hidden: usize, intermediate: usize, layers: usize, heads: usize, vocabulary: usize) -> Signature {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "vocab_size": vocabulary, "max_position_embeddings": 2048, "tie_word_embeddings": true,
        });
        signature(&config)
    }

    fn signature(config: &Value) -> Signature {
        let config = ModelConfig::from_json(config, Path::new("config.json")).unwrap();
        let parameters = config.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
        let name = "m".to_owned();
        Signature {
            name,
            config,
            linears: Vec::new(),
            quantized: false,
            schemes: Default::default(),
            coded_experts: false,
            weights: true,
            parameters,
            bytes: 0,
            knows_demo: false,
            rounds_activations: false,
            has_template: false,
            tokenizer: None,
        }
    }

    fn tokens(samples: usize, length: usize) -> Value {
        json!({
            "num_calibration_samples": samples, "max_seq_length": length, "shuffle": false, "seed": null, "concatenate": true,
            "text_column": "text", "add_bos": "auto", "chat_template": "auto", "characters": null,
        })
    }

    fn need(model: &Signature, params: &Params, by_block: bool) -> MemoryNeed {
        making(model, None, params, &BTreeMap::new(), by_block)
    }

    /// The demo's model.
    fn demo() -> Signature {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo/model/config.json");
        signature(&serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap())
    }

    fn train(parameters: Value, samples: Option<usize>, length: usize) -> Params {
        let mut data = tokens(0, length);
        data["num_calibration_samples"] = json!(samples);
        Params::Train(
            read(&json!({ "dtype": null, "from_scratch": false, "data": data, "parameters": parameters })).unwrap(),
        )
    }

    /// Peaks in MiB of three steps of `sft`, with a checkpoint behind the second and without any, as the records of the results say.
    #[test]
    fn trainings_take_at_most_what_is_expected_and_little_less() {
        let stories = [
            (2, 2, 128, [705, 705]),
            (2, 2, 256, [739, 744]),
            (2, 8, 256, [924, 724]),
            (2, 16, 128, [923, 786]),
            (0, 2, 128, [641, 643]),
            (0, 2, 256, [671, 704]),
            (0, 8, 256, [926, 741]),
        ];
        let of_the_demo = [
            (2, 2, 256, [294, 257]),
            (2, 8, 256, [433, 292]),
            (2, 16, 512, [1200, 538]),
            (0, 2, 256, [245, 207]),
            (0, 8, 256, [433, 270]),
            (0, 16, 512, [1196, 542]),
        ];
        let mut found = Vec::new();
        for (model, rows) in [(model(288, 768, 6, 6, 32_000), &stories[..]), (demo(), &of_the_demo)] {
            for (every, batch, length, peaks) in rows {
                for (checkpointed, peak) in [false, true].into_iter().zip(peaks) {
                    let parameters = json!({
                        "max_steps": 3, "checkpoint_every": every, "batch_size": batch,
                        "gradient_checkpointing": checkpointed, "loss_chunk": 1024,
                    });
                    let need = need(&model, &train(parameters, Some(48), *length), false);
                    assert_eq!(need.spilled, 0);
                    found.push((need.held >> 20, *peak));
                }
            }
        }
        // The tokens of the demo's own training.
        let parameters = json!({ "max_steps": 3, "checkpoint_every": 0, "batch_size": 8, "loss_chunk": 1024 });
        found.push((need(&demo(), &train(parameters, Some(48_000), 256), false).held >> 20, 549));
        assert!(found.iter().all(|(found, peak)| found >= peak && 4 * found <= 5 * peak), "{found:?}");
    }

    #[test]
    fn checkpoints_count_where_one_is_written() {
        let every = |every: u64, steps: Value, samples: Option<usize>| {
            let mut parameters = json!({ "checkpoint_every": every, "batch_size": 2, "epochs": 2.0 });
            parameters["max_steps"] = steps;
            let Params::Train(train) = train(parameters, samples, 64) else { unreachable!() };
            writes_checkpoints(&train)
        };
        // Behind the last step there is none.
        assert_eq!([9, 10, 11].map(|e| every(e, json!(10), None)), [true, false, false]);
        assert_eq!([0, 1].map(|e| every(e, json!(10), None)), [false, true]);
        // Two epochs of five steps.
        assert_eq!([9, 10].map(|e| every(e, json!(0), Some(9))), [true, false]);
        assert!(every(1000, json!(0), None), "nobody knows how many steps there are");
        // Who writes for prompts takes so many a step, as often as it learns of them.
        let parameters = json!({ "checkpoint_every": 6, "batch_size": 8, "prompts_per_step": 2, "num_iterations": 2 });
        let Params::Train(mut policy) = train(parameters, Some(6), 64) else { unreachable!() };
        assert!(!writes_checkpoints(&policy), "one step of eight sequences");
        let source = "fn f(p, c, r) { 1 }".to_owned();
        policy.rewards = vec![Reward::Function { name: "f".to_owned(), source, function: "f".to_owned() }];
        assert!(!writes_checkpoints(&policy), "six steps");
        policy.parameters["checkpoint_every"] = json!(5);
        assert!(writes_checkpoints(&policy));
        let Params::Train(other) = train(json!({}), Some(8), 64) else { unreachable!() };
        assert!(writes_checkpoints(&other));
    }

    #[test]
    fn a_teacher_is_held_too() {
        let small = model(288, 768, 6, 6, 32_000);
        let params = json!({ "dtype": null, "from_scratch": false, "data": tokens(32, 256), "parameters": {} });
        let params = Params::Train(read(&params).unwrap());
        let with = |teacher| making(&small, teacher, &params, &BTreeMap::new(), false).held;
        let large = model(576, 1536, 30, 9, 32_000);
        assert!(with(Some(&large)) - with(None) >= 4 * large.parameters);
        assert!(with(Some(&small)) - with(None) < 4 * large.parameters);
    }

    #[test]
    fn quantizers_hold_a_block_and_spill_a_calibration_set() {
        let quantize = |tokens: Option<Value>| {
            let mut params = json!({ "groups": [], "parameters": {} });
            if let Some(tokens) = tokens {
                params["calibration"] = tokens;
            }
            Params::Quantize(read(&params).unwrap())
        };
        // SmolLM2-135M: 337 MiB were measured, from a GGUF file whose table of embeddings is decoded.
        let small = need(&model(576, 1536, 30, 9, 49_152), &quantize(None), false);
        assert!((337..674).contains(&(small.held >> 20)) && small.spilled == 0, "{small:?}");
        // A model of twice the depth needs no more.
        assert_eq!(need(&model(576, 1536, 60, 9, 49_152), &quantize(None), false), small);
        let calibrated = need(&model(576, 1536, 30, 9, 49_152), &quantize(Some(tokens(128, 512))), false);
        assert_eq!(calibrated.spilled, 4 * 128 * 512 * (576 + 1536));
        let by_block = need(&model(576, 1536, 30, 9, 49_152), &quantize(Some(tokens(128, 512))), true);
        assert_eq!(by_block.spilled, 2 * calibrated.spilled);
        assert_eq!(calibrated.within(1 << 20), calibrated.held + (1 << 19));
    }
}
