//! An example small enough to be worked out by hand.

use std::collections::BTreeMap;
use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use serde_json::json;
use workbench_api::sdk::*;

/// One block of hidden size 2 with one head, every rotation, all of them R = [[1, 1], [1, -1]] / √2.
///
/// The embedding and the head, tied, are the identity: the embedding becomes R, the head diag(γ) R with γ = (1, 2). The input
/// norm's gain is (2, 1): q = I becomes diag(2, 1) R. v = I becomes Rᵀ diag(2, 1) R, o = I becomes Rᵀ R = I. gate = up = I
/// become R. down = I becomes Rᵀ R = I.
pub(crate) fn by_hand() -> Example {
    let matrix = |values: [f32; 4]| ExampleTensor::f32(&[2, 2], &values);
    let row = |values: [f32; 2]| ExampleTensor::f32(&[2], &values);
    let block = |name: &str| format!("model.layers.0.{name}.weight");
    let identity = [1.0, 0.0, 0.0, 1.0];
    let mut tensors = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), matrix(identity)),
        ("model.norm.weight".to_owned(), row([1.0, 2.0])),
        (block("input_layernorm"), row([2.0, 1.0])),
        (block("post_attention_layernorm"), row([1.0, 1.0])),
    ]);
    for name in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"] {
        tensors.insert(block(name), matrix(identity));
    }
    for name in ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"] {
        tensors.insert(block(name), matrix(identity));
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2, "hidden_size": 2,
        "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "max_position_embeddings": 8, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "hidden_act": "silu", "torch_dtype": "float32",
    });
    let mut example =
        Example::new("all rotations by hand", Job::Transform(Model::default()), ExampleModel { config, tensors })
            .parameter("rotations", json!(["R1", "R2", "R3", "R4"]))
            .parameter("kind", "hadamard");
    let (r, root) = (FRAC_1_SQRT_2, SQRT_2);
    example.expected = Expected {
        tensors: BTreeMap::from([
            ("model.embed_tokens.weight".to_owned(), matrix([r, r, r, -r])),
            ("lm_head.weight".to_owned(), matrix([r, r, root, -root])),
            ("model.norm.weight".to_owned(), row([1.0, 1.0])),
            (block("input_layernorm"), row([1.0, 1.0])),
            (block("self_attn.q_proj"), matrix([root, root, r, -r])),
            (block("self_attn.v_proj"), matrix([1.5, 0.5, 0.5, 1.5])),
            (block("self_attn.o_proj"), matrix(identity)),
            (block("mlp.up_proj"), matrix([r, r, r, -r])),
            (block("mlp.down_proj"), matrix(identity)),
        ]),
        config: json!({ "tie_word_embeddings": false }).as_object().cloned().unwrap_or_default(),
        tolerance: 1e-6,
        ..Expected::default()
    };
    example
}
