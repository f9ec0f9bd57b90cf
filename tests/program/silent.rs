//! Inputs that calibration never excites: what is made of their weights, and who is told.

use std::fs;

use safetensors::SafeTensors;
use workbench_model::{Checkpoint, WeightSource};

use super::project::{HIDDEN, Project};

/// Sets values of a tensor of the model `tiny`.
fn overwrite(project: &Project, name: &str, change: impl Fn(usize, &mut f32)) {
    let path = project.path().join("tiny/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let (start, end) = metadata.info(name).unwrap().data_offsets;
    let body = 8 + header;
    for (index, word) in bytes[body + start..body + end].chunks_exact_mut(4).enumerate() {
        let mut value = f32::from_le_bytes(word.try_into().unwrap());
        change(index, &mut value);
        word.copy_from_slice(&value.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

/// Two channels of the first attention's input are always zero, and so is all of the last MLP's.
fn project() -> Project {
    let project = Project::new();
    overwrite(&project, "model.layers.0.input_layernorm.weight", |index, value| {
        if [3, 20].contains(&index) {
            *value = 0.0;
        }
    });
    overwrite(&project, "model.layers.1.post_attention_layernorm.weight", |_, value| *value = 0.0);
    project
}

fn run(project: &Project, method: &str, scheme: &str, more: &str) -> super::project::Outcome {
    let script = format!(
        "let data = dataset(\"text.txt\").tokens(#{{ num_calibration_samples: 4, max_seq_length: 32 }});
let made = model(\"tiny\").quantize(\"{method}\", #{{ scheme: {scheme}, calibration: data{more} }});
let table = report(\"silent\");
table.row(made.evaluate(perplexity(#{{ text: dataset(\"text.txt\"), max_seq_length: 32, blocks: 2 }})), #{{ model: \"made\" }});
table.write();"
    );
    project.write("silent.rhai", &script);
    project.run(&["run", "silent.rhai"]).exits(0)
}

const W8: &str = r#"#{ name: "W8", weights: #{ num_bits: 8, strategy: "channel" } }"#;

/// At 8 bits no weight may lie further from what it was than half a step, whatever the inputs: those of silent channels were
/// stored as 0 once.
#[test]
fn gptq_rounds_what_it_knows_nothing_about_to_nearest() {
    let project = project();
    let outcome = run(&project, "gptq", W8, "");
    let stored = project.stored("results", "quantize", "gptq");
    let [(folder, record)] = &stored[..] else { panic!("{} results", stored.len()) };
    let (tiny, made) =
        (Checkpoint::open(&project.path().join("tiny")).unwrap(), Checkpoint::open(&folder.join("model")).unwrap());
    let steps = |module: &str, channel: usize| -> f32 {
        let name = format!("{module}.weight");
        let (before, after) = (tiny.values(&name).unwrap(), made.values(&name).unwrap());
        let scales = made.quantized_linear(module).unwrap().unwrap().parameters.scales;
        let columns = before.len() / scales.len();
        let moved = |row: usize| (before[row * columns + channel] - after[row * columns + channel]).abs() / scales[row];
        (0..scales.len()).map(moved).fold(0.0, f32::max)
    };
    let plugin = &record["facts"]["plugin"];
    for linear in ["q_proj", "k_proj", "v_proj"] {
        let module = format!("model.layers.0.self_attn.{linear}");
        assert!(steps(&module, 3) <= 0.51 && steps(&module, 20) <= 0.51, "{module}");
        let silent = &plugin[&module]["silent_channels"];
        assert_eq!((silent["count"].as_u64(), silent["first"].to_string().as_str()), (Some(2), "[3,20]"));
    }
    for linear in ["gate_proj", "up_proj"] {
        let module = format!("model.layers.1.mlp.{linear}");
        assert!((0..HIDDEN).all(|channel| steps(&module, channel) <= 0.51), "{module}");
        assert_eq!(plugin[&module]["rounded_to_nearest"], "the input is zero for every calibration token");
    }
    // down_proj reads nothing but zeros then: silu(0) · 0.
    assert_eq!(
        plugin["model.layers.1.mlp.down_proj"]["rounded_to_nearest"],
        plugin["model.layers.1.mlp.up_proj"]["rounded_to_nearest"]
    );
    for part in [
        "3 of 14 layers were rounded to nearest, because the input is zero for every calibration token",
        "6 input channels that were zero for every calibration token had their weights rounded to nearest",
        "model.layers.0.self_attn.q_proj (3, 20)",
    ] {
        assert!(outcome.out.contains(part), "`{part}` is not under the table:\n{}", outcome.out);
    }
    for part in [
        "model.layers.0.self_attn.input: 2 of 32 channels (the first is 3)",
        "model.layers.1.mlp.input: the input is zero",
    ] {
        assert!(outcome.err.contains(part), "`{part}` is not said while it runs:\n{}", outcome.err);
    }
}

/// The scale is the least one; an input that is not zero would be clipped by it.
#[test]
fn static_scales_of_silent_sites_are_named() {
    let project = project();
    let scheme = r#"#{ name: "W8A8 static", weights: #{ num_bits: 8, strategy: "channel" },
        input_activations: #{ num_bits: 8, strategy: "tensor", observer: "minmax" } }"#;
    let outcome = run(&project, "rtn", scheme, "");
    let stored = project.stored("results", "quantize", "rtn");
    let [(folder, record)] = &stored[..] else { panic!("{} results", stored.len()) };
    let silent = serde_json::json!(["model.layers.1.mlp.input", "model.layers.1.mlp.down_proj.input"]);
    assert_eq!(record["facts"]["input_scales"]["silent_sites"], silent);
    let made = Checkpoint::open(&folder.join("model")).unwrap();
    assert_eq!(made.values("model.norm.weight").unwrap().len(), HIDDEN, "it can be read back");
    assert!(outcome.out.contains("static input scales of 2 sites are the least there are"), "{}", outcome.out);
    assert!(outcome.err.contains("model.layers.1.mlp.input is zero for every calibration token"), "{}", outcome.err);
}

/// Every method that observes, and every format that has a scale of its own for zeros: no abort, and a finite loss.
#[test]
fn no_method_stumbles_over_silence() {
    let project = project();
    for (method, scheme) in [
        ("awq_clip", r#"#{ name: "W4", weights: #{ num_bits: 4, strategy: "group", group_size: 16 } }"#),
        ("gptq", r#""NVFP4""#),
        (
            "gptq",
            r#"#{ name: "MXFP4", weights: #{ num_bits: 4, type: "float", strategy: "group", group_size: 32, scale_dtype: "torch.uint8" } }"#,
        ),
        (
            "rtn",
            r#"#{ name: "static", weights: #{ num_bits: 4, symmetric: false, strategy: "channel" },
            input_activations: #{ num_bits: 8, symmetric: false, strategy: "tensor", observer: "mse" } }"#,
        ),
    ] {
        run(&project, method, scheme, "");
    }
}
