//! `transform_config`: what it says is carried out or refused, and stays in what is written.

use serde_json::{Value, json};
use workbench_model::checkpoint::{CheckpointWriter, transform_config};
use workbench_model::config::OnlineRotations;
use workbench_model::{Checkpoint, ModelConfig};

use crate::common::{parse, tiny_config, tiny_tensors, write_model};

const ONLINE: OnlineRotations = OnlineRotations { heads: Some(8), down: Some(24) };

fn with(transforms: Value) -> Value {
    let mut config = tiny_config();
    config["quantization_config"] = json!({"quant_method": "compressed-tensors", "transform_config": transforms});
    config
}

/// The entries that llm-compressor writes for R1 to R4, of which the last two act while the model runs.
fn of_llm_compressor() -> Value {
    let group = |head_dim: Value, apply: Value| json!({"type": "hadamard", "apply": apply, "randomize": false, "requires_grad": false, "head_dim": head_dim, "precision": "torch.float64"});
    let apply = |targets: &[&str], location: &str, inverse: bool| json!({"targets": targets, "location": location, "inverse": inverse, "ignore": []});
    let down = ["re:.*down_proj$"];
    json!({"config_groups": {
        "R1": group(json!(null), json!([apply(&["re:.*embed_tokens$", "re:.*o_proj$", "re:.*down_proj$"], "weight_output", false),
            apply(&["re:.*q_proj$", "re:.*up_proj$", "lm_head"], "weight_input", true)])),
        "R3": group(json!(8), json!([apply(&["re:.*self_attn$"], "q_attn", false), apply(&["re:.*self_attn$"], "k_cache", false)])),
        "R4": group(json!(null), json!([apply(&down, "input", false), apply(&down, "weight_input", true)])),
    }})
}

#[test]
fn online_rotations_are_read_as_they_are_written() {
    assert_eq!(parse(&tiny_config()).unwrap().online, OnlineRotations::default());
    let blocks = OnlineRotations { heads: None, down: Some(4) };
    for online in [ONLINE, blocks, OnlineRotations { heads: Some(2), down: None }, OnlineRotations::default()] {
        assert_eq!(parse(&with(transform_config(online))).unwrap().online, online);
    }
    assert_eq!(parse(&with(of_llm_compressor())).unwrap().online, ONLINE);
}

/// Dense blocks and experts need not be equally wide: one size has to divide both.
#[test]
fn a_rotation_of_experts_divides_every_row() {
    let mixture = |intermediate: usize, online: OnlineRotations| {
        let mut config = with(transform_config(online));
        let more = json!({ "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": intermediate, "mlp_only_layers": [0], "decoder_sparse_step": 1, "intermediate_size": 24 });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse(&config)
    };
    let down = |size| OnlineRotations { heads: None, down: Some(size) };
    for (intermediate, size) in [(24, 24), (12, 12), (16, 8), (12, 4)] {
        assert_eq!(mixture(intermediate, down(size)).unwrap().online, down(size));
    }
    let error = mixture(16, down(12)).unwrap_err().to_string();
    assert!(error.contains("`head_dim` 12") && error.contains("does not divide 16"), "{error}");
}

#[test]
fn the_writer_keeps_them() {
    let config = with(transform_config(ONLINE));
    let folder = write_model(&config, &tiny_tensors(&config));
    let model = Checkpoint::open(folder.path()).unwrap();
    assert!(model.quantization().is_none(), "a dense model");
    let target = tempfile::tempdir().unwrap();
    let mut writer = CheckpointWriter::create(target.path(), model.config_json()).unwrap();
    for name in model.names() {
        let raw = model.raw(&name).unwrap();
        writer.put_dense(&name, raw.dtype, raw.shape, &raw.bytes).unwrap();
    }
    writer.finish().unwrap();
    let written = Checkpoint::open(target.path()).unwrap();
    assert_eq!(written.config().online, ONLINE);
    assert!(written.quantization().is_none());
    assert_eq!(written.config_json()["quantization_config"]["transform_config"], transform_config(ONLINE));
}

#[test]
fn what_is_not_carried_out_is_refused_by_name() {
    let error = |change: &dyn Fn(&mut Value)| {
        let mut transforms = of_llm_compressor();
        change(&mut transforms["config_groups"]);
        let error = ModelConfig::from_json(&with(transforms), "config.json".as_ref()).unwrap_err();
        format!("{error} | {}", error.hint().unwrap_or_default())
    };
    type Case<'a> = (&'a dyn Fn(&mut Value), &'a [&'a str]);
    let cases: [Case<'_>; 12] = [
        (&|g| g["R4"]["type"] = json!("random-hadamard"), &["config_groups.R4`", "random-hadamard", "supported"]),
        (&|g| g["R4"]["randomize"] = json!(true), &["config_groups.R4`", "randomized"]),
        (&|g| g["R4"]["apply"][0]["inverse"] = json!(true), &["R4.apply[0]", "inverse"]),
        (&|g| g["R4"]["head_dim"] = json!(7), &["config_groups.R4`", "7", "24"]),
        (&|g| g["R4"]["head_dim"] = json!(6), &["R4.apply[0]", "size 6", "block_size: 2"]),
        (&|g| g["R4"]["apply"][0]["location"] = json!("output"), &["R4.apply[0]", "\"output\""]),
        (
            &|g| g["R4"]["apply"][0]["targets"] = json!(["re:.*layers.1.*down_proj$"]),
            &["R4.apply[0]", "leaves out", "layers.0"],
        ),
        (&|g| g["R4"]["apply"][0]["targets"] = json!(["Linear"]), &["R4.apply[0]", "rotates", "q_proj"]),
        (&|g| g["R4"]["apply"][0]["ignore"] = json!("re:.*layers.1"), &["R4.apply[0]", "leaves out", "layers.1"]),
        (&|g| drop(g["R3"]["apply"].as_array_mut().unwrap().pop()), &["config_groups.R3`", "alike"]),
        (&|g| g["R5"] = g["R4"].clone(), &["R5.apply[0]", "already"]),
        (&|g| g["R4"] = json!({}), &["config_groups.R4`", "apply"]),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        let message = error(change);
        assert!(expected.iter().all(|part| message.contains(part)), "case {index}: {message}");
    }
}
