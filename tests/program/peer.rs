//! Models as transformers, compressed-tensors and llm-compressor see them.
//!
//! Needs a Python environment of `scripts/peer/install.sh`, named by the variable `WORKBENCH_PEER_PYTHON`. Without it these
//! tests say that they are skipped.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;
use workbench::eval::Loaded;
use workbench_model::{
    Checkpoint, WeightSource,
    decoder::{ActivationQuantizer, Context, GridQuantizer},
};

use super::project::{PROGRAM, Random, sources};

/// Sequences of random tokens of the demo's vocabulary: many and short ones, see [`SHARE`].
const SEQUENCES: usize = 32;
const TOKENS: usize = 4;

/// Bound of the largest difference between two logits of a sequence, relative to the largest.
const TOLERANCE: f32 = 1e-3;

/// Where activations are rounded, the share of sequences that has to keep that bound. Sums in another order may fall on the
/// other side of a step, and every later layer turns one code more or less into many: what is left of such a sequence
/// differs by the size of the quantization noise. With integer scales per token it is the rule: the scale puts an extreme
/// negative value on the tie at -127.5. The rounding itself is compared bit for bit, on the same inputs.
const SHARE: f64 = 0.1;

/// The same where only keys and values are rounded, of which there are few.
const SHARE_OF_CACHES: f64 = 0.9;

/// Schemes of the demo model; its calibration data are `calib`.
const CASES: [(&str, &str); 25] = [
    ("w4a16", r#"scheme: "W4A16""#),
    ("w4a16_asym", r#"scheme: "W4A16_ASYM", group_size: 64"#),
    ("w3a16", r#"scheme: "W3A16""#),
    ("w8a16_channel", r#"scheme: "W8A16", strategy: "channel""#),
    ("int8", r#"scheme: "W8A8""#),
    ("int8_static", r#"scheme: "W8A8_STATIC", calibration: calib"#),
    ("w4a8", r#"scheme: "W4A8""#),
    ("fp8", r#"scheme: "FP8", calibration: calib"#),
    ("fp8_dynamic", r#"scheme: "FP8_DYNAMIC""#),
    ("fp8_block", r#"scheme: "FP8_BLOCK""#),
    ("mxfp4", r#"scheme: "MXFP4""#),
    ("mxfp4_mlp", r#"scheme: "MXFP4_MLP_WEIGHT_ONLY""#),
    ("mxfp8", r#"scheme: "MXFP8""#),
    ("nvfp4", r#"scheme: "NVFP4", calibration: calib"#),
    ("nvfp4a16", r#"scheme: "NVFP4A16""#),
    ("mixed", r#"scheme: "W4A16", config_groups: #{ INT8: ["*.down_proj"], FP8_DYNAMIC: ["*.self_attn.*"] }"#),
    ("kv_fp8", r#"kv_cache_scheme: #{ num_bits: 8, type: "float", strategy: "tensor" }, calibration: calib"#),
    (
        "kv_int4_heads",
        r#"scheme: "W4A16", kv_cache_scheme: #{ num_bits: 4, strategy: "attn_head" }, calibration: calib"#,
    ),
    ("kv_dynamic", r#"kv_cache_scheme: #{ num_bits: 8, symmetric: false, group_size: 32, dynamic: true }"#),
    ("head_w4a16", r#"scheme: "W4A16", targets: ["lm_head"], untie_word_embeddings: true"#),
    ("head_int8", r#"scheme: "W8A8", targets: ["Linear", "lm_head"], untie_word_embeddings: true"#),
    (
        "head_static",
        r#"scheme: "W8A8_STATIC", targets: ["Linear", "lm_head"], untie_word_embeddings: true, calibration: calib"#,
    ),
    ("ends_int8", r#"scheme: "W4A16", config_groups: #{ W8A16: ["lm_head", "Embedding"] }"#),
    (
        "ends_fp8",
        r#"config_groups: #{ ends: #{ targets: ["lm_head", "model.embed_tokens"], scheme: "FP8_DYNAMIC", input_activations: () } }"#,
    ),
    (
        "ends_mxfp8",
        r#"config_groups: #{ ends: #{ targets: ["lm_head", "model.embed_tokens"], scheme: "MXFP8", input_activations: () } }"#,
    ),
];

/// What llm-compressor is asked for.
fn recipes() -> Vec<(&'static str, Value)> {
    let kv = |bits: u8, kind: &str, strategy: &str| json!({"num_bits": bits, "type": kind, "strategy": strategy, "dynamic": false, "symmetric": true});
    let preset = |name: &str| json!({"scheme": name, "targets": ["Linear"], "ignore": ["lm_head"]});
    let int = |bits: u8, group: u8| json!({"num_bits": bits, "type": "int", "symmetric": true, "strategy": "group", "group_size": group});
    let bytes =
        |bits: u8| json!({"targets": ["re:.*embed_tokens"], "format": "int-quantized", "weights": int(bits, 128)});
    let mut with_kv = preset("W4A16");
    with_kv["kv_cache_scheme"] = kv(4, "int", "attn_head");
    vec![
        ("w4a16", preset("W4A16")),
        ("w4a16_asym", preset("W4A16_ASYM")),
        ("int8", preset("W8A8")),
        ("fp8", preset("FP8")),
        ("fp8_block", preset("FP8_BLOCK")),
        ("mxfp4a16", preset("MXFP4A16")),
        ("mxfp8", preset("MXFP8")),
        ("nvfp4", preset("NVFP4")),
        ("kv_fp8", json!({"kv_cache_scheme": kv(8, "float", "tensor")})),
        ("w4a16_kv", with_kv),
        // There `Linear` means the head too.
        ("head_w4a16", json!({"scheme": "W4A16", "targets": ["Linear"]})),
        ("head_int8", json!({"scheme": "W8A8", "targets": ["Linear"]})),
        ("head_fp8", json!({"scheme": "FP8", "targets": ["Linear"]})),
        (
            "ends_apart",
            json!({"config_groups": {"linears": {"targets": ["Linear"], "weights": int(4, 32)}, "table": bytes(8)}}),
        ),
        ("embeddings_in_bytes", json!({"config_groups": {"table": bytes(4)}})),
    ]
}

/// The Python to use, if one is named and has the package; otherwise the reason stands on standard error.
pub(crate) fn python(test: &str, package: &str) -> Option<PathBuf> {
    let Some(python) = std::env::var_os("WORKBENCH_PEER_PYTHON").map(PathBuf::from) else {
        eprintln!("skipped: {test}: WORKBENCH_PEER_PYTHON names no Python (scripts/peer/install.sh makes one)");
        return None;
    };
    let code = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{package}') is None)");
    match Command::new(&python).args(["-c", &code]).status() {
        Ok(status) if status.success() => Some(python),
        Ok(_) => {
            eprintln!("skipped: {test}: {} has no {package} (scripts/peer/install.sh installs it)", python.display());
            None
        }
        Err(error) => panic!("WORKBENCH_PEER_PYTHON is {}, which cannot be run: {error}", python.display()),
    }
}

/// Runs a script of `scripts/peer` and shows what it printed if it fails.
fn run(python: &Path, script: &str, arguments: &[PathBuf]) {
    let mut command = Command::new(python);
    command.arg(sources().join("scripts/peer").join(script)).args(arguments);
    let output = command.env("OMP_NUM_THREADS", "2").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}:\n{}", &told[told.len().saturating_sub(4000)..]);
}

/// Token ids, as JSON and as they are.
fn ids(folder: &Path) -> (PathBuf, Vec<Vec<u32>>) {
    let mut random = Random(11);
    let mut sequence = || (0..TOKENS).map(|_| 3 + random.below(2000) as u32).collect::<Vec<_>>();
    let sequences: Vec<Vec<u32>> = (0..SEQUENCES).map(|_| sequence()).collect();
    let path = folder.join("ids.json");
    fs::write(&path, json!(sequences).to_string()).unwrap();
    (path, sequences)
}

/// Our logits `[sequences * tokens * vocabulary]` of a folder.
fn logits(folder: &Path, sequences: &[Vec<u32>]) -> Vec<f32> {
    let loaded = Loaded::open(folder).unwrap();
    let ids = Tensor::from_vec(sequences.concat(), (SEQUENCES, TOKENS), &Device::Cpu).unwrap();
    let logits = loaded.decoder().unwrap().forward(&ids, &Context::full(SEQUENCES, TOKENS, None)).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// Every dequantized weight bit for bit.
fn compare_weights(name: &str, folder: &Path, theirs: &HashMap<String, Tensor>) -> usize {
    let model = Checkpoint::open(folder).unwrap();
    let mut count = 0;
    for (module, weight) in theirs.iter().filter_map(|(key, w)| Some((key.strip_prefix("weight.")?, w))) {
        let ours = model.values(&format!("{module}.weight")).unwrap();
        let rounded: Vec<f32> = match weight.dtype() {
            DType::BF16 => ours.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect(),
            _ => ours,
        };
        let theirs: Vec<f32> = weight.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let differing = rounded.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        assert_eq!((differing, rounded.len()), (0, theirs.len()), "{name}: {module}");
        count += 1;
    }
    count
}

/// Every input that the package rounds, rounded here: bit for bit. Returns how many linears have quantized inputs.
fn compare_inputs(name: &str, folder: &Path, theirs: &HashMap<String, Tensor>) -> usize {
    let model = Checkpoint::open(folder).unwrap();
    let mut count = 0;
    for (module, x) in theirs.iter().filter_map(|(key, x)| Some((key.strip_prefix("input.")?, x))) {
        let found =
            model.input_quantizer(module).unwrap().unwrap_or_else(|| panic!("{name}: {module} is not rounded here"));
        let features = *x.dims().last().unwrap();
        let rounded = GridQuantizer::new(found.grid, found.parameters, features).unwrap().apply(x).unwrap();
        let [ours, theirs]: [Vec<f32>; 2] =
            [&rounded, &theirs[&format!("rounded.{module}")]].map(|x| x.flatten_all().unwrap().to_vec1().unwrap());
        let differing = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        assert_eq!((differing, ours.len()), (0, theirs.len()), "{name}: inputs of {module}");
        count += 1;
    }
    count
}

/// Opens folders on both sides and compares weights, rounded inputs and logits; returns how many weights were dequantized, by
/// folder.
fn compare(python: &Path, ids: &Path, sequences: &[Vec<u32>], folders: &[(String, PathBuf)]) -> Vec<usize> {
    let out = tempfile::tempdir().unwrap();
    let target = |name: &str| out.path().join(format!("{name}.safetensors"));
    let pairs = folders.iter().flat_map(|(name, folder)| [folder.clone(), target(name)]);
    let arguments: Vec<PathBuf> = [ids.to_owned()].into_iter().chain(pairs).collect();
    run(python, "load.py", &arguments);
    let (mut counts, mut problems) = (Vec::new(), Vec::new());
    for (name, folder) in folders {
        let theirs = candle_core::safetensors::load(target(name), &Device::Cpu).unwrap();
        counts.push(compare_weights(name, folder, &theirs));
        let expected: Vec<f32> = theirs["logits"].flatten_all().unwrap().to_vec1().unwrap();
        let found = logits(folder, sequences);
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
        let sequence = expected.len() / SEQUENCES;
        let worst =
            |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0_f32, f32::max) / largest;
        let mut differences: Vec<f32> = found.chunks(sequence).zip(expected.chunks(sequence)).map(worst).collect();
        differences.sort_by(f32::total_cmp);
        let kept = differences.iter().filter(|difference| **difference <= TOLERANCE).count();
        let rounded = compare_inputs(name, folder, &theirs);
        eprintln!(
            "{name}: {} weights and the inputs of {rounded} linears equal; logits of {kept} of {SEQUENCES} sequences within \
             {TOLERANCE}, half of them within {:.1e}, all within {:.1e}",
            counts[counts.len() - 1],
            differences[SEQUENCES / 2],
            differences[SEQUENCES - 1],
        );
        let config = fs::read_to_string(folder.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let share = match (rounded, &config["quantization_config"]["kv_cache_scheme"]) {
            (0, Value::Null) => 1.0,
            (0, _) => SHARE_OF_CACHES,
            _ => SHARE,
        };
        if (kept as f64) < share * SEQUENCES as f64 {
            problems.push(name.as_str());
        }
    }
    assert!(problems.is_empty(), "logits differ by more than {TOLERANCE}: {problems:?}");
    counts
}

#[test]
fn what_is_written_opens_in_transformers_with_the_same_logits() {
    let test = "what_is_written_opens_in_transformers_with_the_same_logits";
    let Some(python) = python(test, "compressed_tensors") else { return };
    let project = TempDir::new().unwrap();
    fs::write(project.path().join("workbench.toml"), "").unwrap();
    let mut script = format!(
        "let base = model({:?});\nlet calib = dataset(\"demo:stories/train\").tokens(#{{ num_calibration_samples: 8, \
         max_seq_length: 128 }});\n",
        sources().join("experiments/demo/model")
    );
    for (name, options) in CASES {
        script += &format!("base.quantize(\"rtn\", #{{ {options} }}).save_as(\"{name}\");\n");
    }
    fs::write(project.path().join("save.rhai"), script).unwrap();
    let saved = Command::new(PROGRAM).args(["run", "save.rhai"]).current_dir(project.path()).output().unwrap();
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    let (ids, sequences) = ids(project.path());
    let folders: Vec<(String, PathBuf)> =
        CASES.iter().map(|(name, _)| ((*name).to_owned(), project.path().join(name))).collect();
    let counts = compare(&python, &ids, &sequences, &folders);
    for ((name, _), count) in CASES.iter().zip(counts) {
        let expected = match *name {
            "kv_fp8" | "kv_dynamic" => 0,
            "mxfp4_mlp" => 3 * 6,
            "head_w4a16" => 1,
            "head_int8" | "head_static" => 7 * 6 + 1,
            "ends_int8" => 7 * 6 + 2,
            "ends_fp8" | "ends_mxfp8" => 2,
            _ => 7 * 6,
        };
        assert_eq!(count, expected, "{name}: weights that the package dequantized");
    }
}

#[test]
fn what_llm_compressor_writes_opens_here_with_the_same_logits() {
    let test = "what_llm_compressor_writes_opens_here_with_the_same_logits";
    let Some(python) = python(test, "llmcompressor") else { return };
    let work = TempDir::new().unwrap();
    let (ids, sequences) = ids(work.path());
    let mut arguments = vec![sources().join("experiments/demo/model"), ids.clone()];
    let mut folders = Vec::new();
    for (name, recipe) in recipes() {
        let file = work.path().join(format!("{name}.json"));
        fs::write(&file, recipe.to_string()).unwrap();
        folders.push((name.to_owned(), work.path().join(name)));
        arguments.extend([file, work.path().join(name)]);
    }
    run(&python, "quantize.py", &arguments);
    let counts = compare(&python, &ids, &sequences, &folders);
    for ((name, _), count) in folders.iter().zip(counts) {
        let expected = match name.as_str() {
            "kv_fp8" => 0,
            "embeddings_in_bytes" => 1,
            "head_w4a16" | "head_int8" | "head_fp8" => 7 * 6 + 1,
            "ends_apart" => 7 * 6 + 2,
            _ => 7 * 6,
        };
        assert_eq!(count, expected, "{name}: weights that the package dequantized");
    }
}

/// Packed embeddings, and one table of codes for embeddings and head, which llm-compressor writes and transformers does not open.
/// In bytes it opens the same codes: those were compared above.
#[test]
fn packed_and_tied_tables_of_llm_compressor_hold_the_codes_that_bytes_hold() {
    let test = "packed_and_tied_tables_of_llm_compressor_hold_the_codes_that_bytes_hold";
    let Some(python) = python(test, "llmcompressor") else { return };
    let work = TempDir::new().unwrap();
    let (ids, sequences) = ids(work.path());
    let preset = |targets: &[&str]| json!({"scheme": "W4A16", "targets": targets});
    let (_, bytes) = recipes().pop().unwrap();
    let recipes = [
        ("tied", preset(&["Linear", "Embedding"])),
        ("packed", preset(&["Embedding"])),
        ("head", preset(&["Linear"])),
        ("bytes", bytes),
    ];
    let mut arguments = vec![sources().join("experiments/demo/model"), ids];
    for (name, recipe) in &recipes {
        let file = work.path().join(format!("{name}.json"));
        fs::write(&file, recipe.to_string()).unwrap();
        arguments.extend([file, work.path().join(name)]);
    }
    run(&python, "quantize.py", &arguments);
    let open = |name: &str| Checkpoint::open(&work.path().join(name)).unwrap();
    let (tied, table) = (open("tied"), open("bytes").values("model.embed_tokens.weight").unwrap());
    assert!(tied.config().tie_word_embeddings);
    assert_eq!(tied.quantized_embeddings(), ["lm_head", "model.embed_tokens"]);
    for model in [&tied, &open("packed")] {
        assert!(model.values("model.embed_tokens.weight").unwrap() == table);
    }
    assert!(open("head").values("lm_head.weight").unwrap() == table, "the head has the scheme of the table");
    assert!(logits(&work.path().join("tied"), &sequences).iter().all(|value| value.is_finite()));
}
