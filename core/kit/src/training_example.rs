//! Examples of training whose results can be worked out by hand.

use std::collections::BTreeMap;

use serde_json::json;
use workbench_api::job::{Block, Job, Linear, Model, Stream};
use workbench_api::sdk::{Dtype, Error, Example, ExampleModel, ExampleTensor, Expected};
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype, Strategy};

/// One step on a model of four tokens whose embedding is the identity and whose block adds nothing.
///
/// The final norm turns the hidden state of token i into 2 e_i, and the head, tied to the embedding, into the logits 2 e_i.
/// In the sequence 0, 1, 2, 3 the right token always has the logit 0: the loss is ln(e^2 + 3) = 2.3406...
/// AdamW's first step moves every weight that has a gradient by the learning rate: the final norm's weights of the channels
/// 0, 1 and 2 fall (each raises the logit of the wrong token), that of channel 3 is not used by any input; the block's
/// matrices have no gradient, since each stands before or behind another zero.
pub fn one_step_by_hand() -> Example {
    const RATE: f32 = 0.125;
    let hidden = 4;
    let square = |value: fn(usize, usize) -> f32| -> ExampleTensor {
        let values: Vec<f32> = (0..hidden * hidden).map(|i| value(i / hidden, i % hidden)).collect();
        ExampleTensor::f32(&[hidden, hidden], &values)
    };
    let zeros = || square(|_, _| 0.0);
    let ones = || ExampleTensor::f32(&[hidden], &[1.0; 4]);
    let mut tensors = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), square(|row, column| if row == column { 1.0 } else { 0.0 })),
        ("model.norm.weight".to_owned(), ones()),
    ]);
    let block = |name: &str| format!("model.layers.0.{name}.weight");
    for name in ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"] {
        tensors.insert(block(name), ones());
    }
    let linears = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
    for name in linears.into_iter().chain(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]) {
        tensors.insert(block(name), zeros());
    }
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": hidden, "hidden_size": hidden,
        "intermediate_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "head_dim": hidden, "max_position_embeddings": 8, "rms_norm_eps": 1e-12, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "hidden_act": "silu", "attention_bias": false, "torch_dtype": "float32",
    });
    let stream = Stream { name: "train".to_owned(), batches: Some(1) };
    let job = Job::Train(Model { inputs: vec!["model".to_owned()], streams: vec![stream], ..Model::default() });
    let batch = BTreeMap::from([
        ("input_ids".to_owned(), ExampleTensor::integers(Dtype::U32, &[4], &[0, 1, 2, 3])),
        ("learn".to_owned(), ExampleTensor::integers(Dtype::U8, &[4], &[0, 1, 1, 1])),
    ]);
    let loss = (2f64.exp() + 3.0).ln();
    let facts = json!({ "steps": 1, "first_loss": loss, "learned_tokens": 3 }).as_object().cloned().unwrap_or_default();
    let lowered = [1.0 - RATE, 1.0 - RATE, 1.0 - RATE, 1.0];
    let mut example = Example::new("one step by hand", job, ExampleModel { config, tensors })
        .parameter("learning_rate", f64::from(RATE))
        .parameter("max_steps", 1)
        .parameter("checkpoint_every", 0);
    example.streams.insert("train".to_owned(), vec![batch]);
    example.expected = Expected {
        tensors: BTreeMap::from([
            ("model.norm.weight".to_owned(), ExampleTensor::f32(&[hidden], &lowered)),
            (block("mlp.up_proj"), zeros()),
        ]),
        facts,
        tolerance: 1e-4,
        ..Expected::default()
    };
    example
}

/// A block of the same model, of which one linear has a grid: 2 bits with a zero-point a row, from `first_row`, the one row of `v_proj`
/// that is not zero.
///
/// `o_proj` is the identity, and the one sequence has one token, x: attention answers v = W RMSNorm(x), the block x + v, and nothing
/// else of it counts. Every error is one of the first row.
///
/// # Errors
/// The grid cannot be written.
pub fn one_block_by_hand(title: &str, first_row: [f32; 4], x: [f32; 4]) -> Result<Example, Error> {
    let mut example = one_step_by_hand();
    let (model, prefix) = ("model", "model.layers.0");
    let mut tensors = example.inputs.remove(model).unwrap_or_default();
    let square = |value: fn(usize) -> f32| ExampleTensor::f32(&[4, 4], &std::array::from_fn::<f32, 16, _>(value));
    let module = format!("{prefix}.self_attn.v_proj");
    let output = format!("{prefix}.self_attn.o_proj.weight");
    tensors.tensors.insert(output, square(|i| if i % 5 == 0 { 1.0 } else { 0.0 }));
    let row: Vec<f32> = first_row.into_iter().chain([0.0; 12]).collect();
    let weight = format!("{module}.weight");
    tensors.tensors.insert(weight.clone(), ExampleTensor::f32(&[4, 4], &row));
    let args =
        QuantizationArgs { num_bits: 2, symmetric: false, strategy: Strategy::Channel, ..QuantizationArgs::default() };
    let grid = serde_json::to_value(Grid::new(&args, StorageDtype::F32, Conventions::default())?)?;
    let names = tensors.tensors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    let job = Job::Block(Block {
        block: 0,
        prefix: prefix.to_owned(),
        linears: vec![Linear { module, weight, grid, ..Linear::default() }],
        tensors: names,
        batches: 1,
    });
    // A second token is padding: what it would answer must not count.
    let hidden = ExampleTensor::f32(&[1, 2, 4], &[x, [9.0; 4]].concat());
    let batch = BTreeMap::from([
        ("full_precision".to_owned(), hidden.clone()),
        ("quantized".to_owned(), hidden),
        ("mask".to_owned(), ExampleTensor::integers(Dtype::U8, &[1, 2], &[1, 0])),
        ("positions".to_owned(), ExampleTensor::integers(Dtype::U32, &[1, 2], &[0, 1])),
    ]);
    let mut made = Example::new(title, job, tensors);
    made.streams.insert("inputs".to_owned(), vec![batch]);
    made.expected.tolerance = 1e-4;
    Ok(made)
}
