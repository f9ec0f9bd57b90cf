//! `lm_head` and the embeddings as targets of a quantization.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use workbench::eval::Loaded;
use workbench_model::{Checkpoint, Context, Decoder, ModelError, Site, WeightSource};
use workbench_quant::{Conventions, Grid, Matrix, QuantParams, Scheme, StorageDtype};

use super::project::{LAYERS, Project};
use super::rotate::write_model;

const HEAD: &str = "lm_head";
const TABLE: &str = "model.embed_tokens";

/// Both ends in groups of their own.
const APART: &str = r#"config_groups: #{
    head: #{ targets: ["lm_head"], scheme: "W4A16", group_size: 16 },
    table: #{ targets: ["re:.*embed_tokens"], scheme: "W8A16", strategy: "channel" },
}"#;

/// A project with the model `untied` beside the tied `tiny`.
fn project() -> Project {
    let project = Project::new();
    write_model(&project, "untied", &json!({ "tie_word_embeddings": false }));
    project
}

fn script(model: &str, method: &str, options: &str) -> String {
    format!(
        r#"let calib = dataset("text.txt").tokens(#{{ num_calibration_samples: 6, max_seq_length: 48, add_bos: false }});
let made = model("{model}").quantize("{method}", #{{ {options} }});
let table = report("ends");
table.row(made.evaluate(perplexity(#{{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 }})), #{{ model: "made" }});
table.write();
"#
    )
}

/// Quantizes a model, and returns the folder of the result, its record, and what was printed.
fn quantize(project: &Project, model: &str, method: &str, options: &str) -> (PathBuf, Value, String) {
    project.write("ends.rhai", &script(model, method, options));
    let outcome = project.run(&["run", "ends.rhai", "--threads", "1"]).exits(0);
    let stored = project.stored("results", "quantize", method);
    let [(folder, record)] = &stored[..] else { panic!("{} results", stored.len()) };
    (folder.join("model"), record.clone(), outcome.out + outcome.err.as_str())
}

fn open(project: &Project, model: &str) -> Checkpoint {
    Checkpoint::open(&project.path().join(model)).unwrap()
}

/// A weight rounded to nearest: codes, parameters, values.
fn rounded(model: &Checkpoint, tensor: &str, scheme: Value) -> (Vec<i8>, QuantParams, Vec<f32>) {
    let args = Scheme::from_value(&scheme).unwrap().weights.unwrap();
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap();
    let (weight, shape) = (model.values(tensor).unwrap(), model.shape(tensor).unwrap());
    let (codes, parameters) = grid.round_to_nearest(Matrix::new(&weight, shape[0], shape[1]).unwrap()).unwrap();
    let mut values = vec![0.0; weight.len()];
    grid.dequantize(&codes, shape[0], shape[1], &parameters, &mut values).unwrap();
    (codes, parameters, values)
}

/// A model with some of its weights replaced.
struct Replaced(Checkpoint, BTreeMap<String, Vec<f32>>);

impl WeightSource for Replaced {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.1.get(name).cloned().map_or_else(|| self.0.values(name), Ok)
    }
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let ids: Vec<u32> = (0..60).map(|i| 3 + i * 29 % 2000).collect();
    let ids = Tensor::from_vec(ids, (3, 20), &Device::Cpu).unwrap();
    decoder.forward(&ids, &Context::full(3, 20, None)).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn ends_have_the_codes_of_their_schemes_and_the_logits_of_those_codes() {
    let project = project();
    let (folder, record, _) = quantize(&project, "untied", "rtn", APART);
    let (source, made) = (open(&project, "untied"), Checkpoint::open(&folder).unwrap());
    let head = rounded(&source, "lm_head.weight", json!({"scheme": "W4A16", "group_size": 16}));
    let table = rounded(&source, "model.embed_tokens.weight", json!({"scheme": "W8A16", "strategy": "channel"}));
    for (module, expected) in [(HEAD, &head), (TABLE, &table)] {
        let found = made.quantized_linear(module).unwrap().unwrap();
        assert!(found.codes == expected.0 && found.parameters == expected.1, "{module}");
        assert_eq!(made.values(&format!("{module}.weight")).unwrap(), expected.2, "{module}");
    }
    assert_eq!(made.rows("model.embed_tokens.weight", &[7, 2, 7]).unwrap()[..32], table.2[7 * 32..8 * 32]);
    let values = [(HEAD, head.2), (TABLE, table.2)].map(|(module, values)| (format!("{module}.weight"), values));
    let reference = Replaced(source, values.into());
    let reference = Decoder::load(reference.0.config(), &reference, &Device::Cpu).unwrap();
    let loaded = Loaded::open(&folder).unwrap();
    assert!(logits(&loaded.decoder().unwrap()) == logits(&reference), "logits are those of the codes, bit for bit");

    let quantization = &config(&folder)["quantization_config"];
    let groups: Vec<&Value> = quantization["config_groups"].as_object().unwrap().values().collect();
    assert_eq!(groups.iter().map(|g| &g["targets"]).collect::<Vec<_>>(), [&json!([HEAD]), &json!([TABLE])]);
    assert_eq!((&groups[0]["format"], &groups[1]["format"]), (&json!("pack-quantized"), &json!("int-quantized")));
    let ignore = quantization["ignore"].as_array().unwrap();
    assert!(ignore.len() == 7 * LAYERS && !ignore.contains(&json!(HEAD)), "{ignore:?}");
    let facts = &record["facts"];
    assert_eq!(facts["embeddings_and_head"], json!({"quantized": [HEAD, TABLE], "untied": false}));
    assert_eq!(facts["layers"], json!({"quantized": 0, "of": 7 * LAYERS}));
    assert!(facts.get("warnings").is_none(), "{facts}");
}

#[test]
fn ends_are_left_alone_unless_they_are_named() {
    for options in [
        r#"scheme: "INT8""#,
        r#"scheme: "INT8", targets: ["*"]"#,
        r#"scheme: "INT8", targets: ["Linear"], ignore: ["lm_head"]"#,
    ] {
        let project = project();
        let (folder, record, _) = quantize(&project, "untied", "rtn", options);
        let (source, made) = (open(&project, "untied"), Checkpoint::open(&folder).unwrap());
        for module in [HEAD, TABLE] {
            let name = format!("{module}.weight");
            assert!(made.raw(&name).unwrap().bytes == source.raw(&name).unwrap().bytes, "{options}: {module}");
        }
        assert!(record["facts"].get("embeddings_and_head").is_none());
        assert_eq!(record["facts"]["layers"]["quantized"], 7 * LAYERS);
    }
    // One scheme for all linears names their class, and the head is among them.
    let project = project();
    let (folder, ..) = quantize(&project, "untied", "rtn", r#"scheme: "INT8", targets: ["Linear", "lm_head"]"#);
    let config = &config(&folder)["quantization_config"];
    assert_eq!((&config["config_groups"]["group_0"]["targets"], &config["ignore"]), (&json!(["Linear"]), &json!([])));
    assert!(Checkpoint::open(&folder).unwrap().input_quantizer(HEAD).unwrap().is_some());
}

#[test]
fn tied_ends_share_their_codes_or_are_untied() {
    let both = r#"scheme: "W8A16", strategy: "channel", targets: ["lm_head", "Embedding"]"#;
    let expected = |project: &Project| {
        rounded(&open(project, "tiny"), "model.embed_tokens.weight", json!({"scheme": "W8A16", "strategy": "channel"}))
    };
    for (method, data, lines) in [("rtn", "", 1), ("gptq", ", calibration: calib", 2)] {
        let project = project();
        let (folder, record, shown) = quantize(&project, "tiny", method, &format!("{both}{data}"));
        let made = Checkpoint::open(&folder).unwrap();
        assert!(!made.config().tie_word_embeddings);
        for module in [HEAD, TABLE] {
            let found = made.quantized_linear(module).unwrap().unwrap();
            assert!(found.codes == expected(&project).0, "{method}: {module}");
        }
        let warnings = record["facts"]["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), lines, "{warnings:?}");
        assert!(warnings[0].as_str().unwrap().contains("have the same codes, stored once for each"));
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.contains("lm_head and the embeddings have the same codes"), "{shown}");
        assert_eq!(record["facts"]["embeddings_and_head"]["untied"], true);
    }
    // Untied, each end is what its own scheme says, and the other one stays as it was.
    for (target, coded, dense) in [("lm_head", HEAD, TABLE), ("Embedding", TABLE, HEAD)] {
        let project = project();
        let options =
            format!(r#"scheme: "W8A16", strategy: "channel", targets: ["{target}"], untie_word_embeddings: true"#);
        let (folder, ..) = quantize(&project, "tiny", "rtn", &options);
        let made = Checkpoint::open(&folder).unwrap();
        assert!(!made.config().tie_word_embeddings);
        assert!(made.quantized_linear(coded).unwrap().unwrap().codes == expected(&project).0);
        let source = open(&project, "tiny");
        let original = source.raw("model.embed_tokens.weight").unwrap();
        assert!(made.raw(&format!("{dense}.weight")).unwrap().bytes == original.bytes);
    }
}

/// `tr(E H Eᵀ)` of the head's error, with `H = XᵀX` of what the head is given.
fn harm(source: &Checkpoint, made: &Checkpoint, inputs: &[f32]) -> f64 {
    let n = source.config().hidden_size;
    let [a, b] = [source, made].map(|model| model.values("lm_head.weight").unwrap());
    let error: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from(a - b)).collect();
    let product = |row: &[f64], x: &[f32]| row.iter().zip(x).map(|(e, x)| e * f64::from(*x)).sum::<f64>().powi(2);
    error.chunks(n).map(|row| inputs.chunks(n).map(|x| product(row, x)).sum::<f64>()).sum()
}

/// What the dampening of GPTQ adds to the harm: `λ |E|²` with λ a hundredth of the mean of H's diagonal.
fn dampening(source: &Checkpoint, made: &Path, inputs: &[f32]) -> f64 {
    let made = Checkpoint::open(made).unwrap();
    let [a, b] = [source, &made].map(|model| model.values("lm_head.weight").unwrap());
    let energy: f64 = inputs.iter().map(|x| f64::from(*x).powi(2)).sum();
    let error: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    0.01 * energy / source.config().hidden_size as f64 * error
}

/// What the head is given of the calibration set, `[tokens, hidden]`, and the range of it.
fn head_inputs(project: &Project, loaded: &Loaded) -> (Vec<f32>, [f32; 2]) {
    let ids = loaded.tokenizer.encode(&project.read("text.txt"), false).unwrap();
    let (decoder, mut found) = (loaded.decoder().unwrap(), Vec::new());
    for ids in ids.chunks_exact(48).take(6) {
        let ids = Tensor::from_vec(ids.to_vec(), (1, 48), &Device::Cpu).unwrap();
        let hidden = decoder.hidden(&ids, &Context::full(1, 48, None), &mut ()).unwrap();
        let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
            assert_eq!(site, Site::head());
            found.extend(x.flatten_all()?.to_vec1::<f32>()?);
            Ok(())
        };
        decoder.head_layer().forward(&hidden, &mut tap).unwrap();
    }
    let range = found.iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], v| [low.min(*v), high.max(*v)]);
    (found, range)
}

#[test]
fn gptq_of_the_head_does_less_harm_than_rounding() {
    let scheme = r#"scheme: "W3A16", group_size: 16, targets: ["lm_head"], calibration: calib"#;
    for order in ["sequential", "block", "full_precision"] {
        let project = project();
        let (folder, record, _) = quantize(&project, "untied", "gptq", &format!("{scheme}, observe: \"{order}\""));
        let (plain, ..) = quantize(&project, "untied", "rtn", scheme);
        let (inputs, _) = head_inputs(&project, &Loaded::open(&project.path().join("untied")).unwrap());
        let source = open(&project, "untied");
        let [gptq, rtn] = [&folder, &plain].map(|folder| harm(&source, &Checkpoint::open(folder).unwrap(), &inputs));
        assert!(gptq < 0.9 * rtn, "{order}: {gptq} against {rtn}");
        // The loss that the method reports is this harm per token, with 1 % of the mean of H's diagonal added to the diagonal.
        let report = &record["facts"]["plugin"]["lm_head"];
        let tokens = inputs.len() as f64 / source.config().hidden_size as f64;
        assert_eq!(report["tokens"].as_f64().unwrap(), tokens);
        let loss = report["loss"].as_f64().unwrap();
        let expected = (gptq + dampening(&source, &folder, &inputs)) / tokens;
        assert!((loss / expected - 1.0).abs() < 2e-3, "{order}: {loss} against {expected}");
    }
}

/// Inputs of 8 bits with static scales, and embeddings of 4 bits in front of them.
const STATIC: &str = r#"scheme: #{
    weights: #{ num_bits: 4, type: "int", symmetric: true, strategy: "channel" },
    input_activations: #{
        num_bits: 8, type: "int", symmetric: true, strategy: "tensor", dynamic: false, observer: "static_minmax",
    },
}, targets: ["Linear", "lm_head"], calibration: calib, config_groups: #{
    table: #{ targets: ["model.embed_tokens"], scheme: "W4A16", group_size: 16 },
}"#;

/// The model that was made is the reference: its head receives what the scale was made for, embeddings rounded.
#[test]
fn the_head_s_scale_is_that_of_deployment() {
    for method in ["rtn", "gptq", "sign_block"] {
        let project = project();
        project.add_plugins(&["sign_block"]);
        let (folder, record, _) = quantize(&project, "untied", method, STATIC);
        let made = Loaded::open(&folder).unwrap();
        let (_, expected) = head_inputs(&project, &made);
        let found = record["facts"]["input_scales"]["observed"]["ranges"]["lm_head.input"].as_array().unwrap();
        for (found, expected) in found.iter().zip(expected) {
            let (found, expected) = (found.as_f64().unwrap(), f64::from(expected));
            assert!((found - expected).abs() < 1e-4 * expected.abs(), "{method}: {found} against {expected}");
        }
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let scale = checkpoint.input_quantizer(HEAD).unwrap().unwrap().parameters.unwrap().scales[0];
        let largest = found.iter().map(|v| v.as_f64().unwrap().abs()).fold(0.0, f64::max);
        assert!((f64::from(scale) / (largest / 127.5) - 1.0).abs() < 1e-3, "{scale} for {largest}");
        let expected = rounded(
            &open(&project, "untied"),
            "model.embed_tokens.weight",
            json!({"scheme": "W4A16", "group_size": 16}),
        );
        assert!(checkpoint.quantized_linear(TABLE).unwrap().unwrap().codes == expected.0, "{method}");
        let warnings = record["facts"]["warnings"].to_string();
        assert!(warnings.contains("packed"), "{warnings}");
        assert_eq!(warnings.contains("the embeddings are rounded to nearest"), method != "rtn", "{warnings}");
        assert_eq!(warnings.contains("lm_head is rounded to nearest"), method == "sign_block", "{warnings}");
    }
}

/// A site before the first block receives rounded embeddings, unless the original model is to be observed.
#[test]
fn calibration_begins_with_the_rounded_embeddings() {
    let mut first = Vec::new();
    for order in ["sequential", "block", "full_precision"] {
        let project = project();
        let (folder, record, _) = quantize(&project, "untied", "rtn", &format!("{STATIC}, observe: \"{order}\""));
        let seen = if order == "full_precision" { project.path().join("untied") } else { folder };
        let loaded = Loaded::open(&seen).unwrap();
        let ids = loaded.tokenizer.encode(&project.read("text.txt"), false).unwrap();
        let mut range = [f32::INFINITY, f32::NEG_INFINITY];
        let decoder = loaded.decoder().unwrap();
        for ids in ids.chunks_exact(48).take(6) {
            let ids = Tensor::from_vec(ids.to_vec(), (1, 48), &Device::Cpu).unwrap();
            let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
                if site.to_string() == "model.layers.0.self_attn.input" {
                    x.flatten_all()?
                        .to_vec1::<f32>()?
                        .iter()
                        .for_each(|v| range = [range[0].min(*v), range[1].max(*v)]);
                }
                Ok(())
            };
            decoder.hidden(&ids, &Context::full(1, 48, None), &mut tap).unwrap();
        }
        let found = &record["facts"]["input_scales"]["observed"]["ranges"]["model.layers.0.self_attn.input"];
        let found = found.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect::<Vec<_>>();
        assert_eq!(found, range, "{order}");
        first.push(range);
    }
    assert!(first[0] == first[1] && first[1] != first[2], "{first:?}");
}

#[test]
fn tables_count_what_the_ends_take() {
    let project = project();
    let (folder, _, shown) =
        quantize(&project, "untied", "rtn", &format!(r#"scheme: "W8A16", strategy: "channel", {APART}"#));
    let made = Checkpoint::open(&folder).unwrap();
    assert!(shown.contains("bits/parameter"), "{shown}");
    let (mut bits, mut parameters) = (0, 0);
    for spec in made.config().tensors() {
        let (rows, columns) = (spec.shape[0], spec.shape.get(1).copied().unwrap_or(1));
        parameters += rows * columns;
        bits += match spec.name.as_str() {
            "lm_head.weight" => rows * columns * 4 + rows * (columns / 16) * 32,
            _ if spec.shape.len() == 2 => rows * columns * 8 + rows * 32,
            _ => rows * 32,
        };
    }
    assert_eq!(made.bits_per_parameter(), bits as f64 / parameters as f64);
    assert_eq!(made.quantized_embeddings(), [HEAD, TABLE]);
    // A table in which no end is quantized does not speak of them.
    let plain = self::project();
    assert!(!quantize(&plain, "untied", "rtn", r#"scheme: "INT8""#).2.contains("bits/parameter"));
}

#[test]
fn a_transform_may_have_untied_the_model() {
    let project = project();
    project.add_plugins(&["untie"]);
    let run = |transform: &str| {
        project.write(
            "after.rhai",
            &format!(r#"model("tiny"){transform}.quantize("rtn", #{{ scheme: "W8A16", strategy: "channel", targets: "lm_head" }}).save_as("out");"#),
        );
        project.run(&["run", "after.rhai"])
    };
    run(r#".transform("untie")"#).exits(0);
    assert_eq!(open(&project, "out").quantized_embeddings(), [HEAD]);
    // What is sure to be tied is an error of the script, what may be is one of the node.
    let early = run("").exits(2);
    assert!(early.err.contains("only `lm_head` is a target"), "{}", early.err);
    let late = run(r#".transform("outliers")"#).exits(4);
    assert!(late.err.contains("only `lm_head` is a target"), "{}", late.err);
}
