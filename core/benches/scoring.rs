//! What scoring takes: peak memory and tokens per second of perplexity and divergence, on a random model of the shape of
//! Qwen2-0.5B with its vocabulary of 151,936 tokens, beside the size of its file and what the plan expects.
//!
//!     cargo bench --bench scoring [-- PROGRAM [TOKENS]]
//!
//! measures this build, or another one's PROGRAM. A node is a process of its own, whose peak the record's provenance holds.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Map, Value, json};
use workbench_model::{
    ModelConfig,
    checkpoint::{CheckpointWriter, Dtype},
};

const VOCABULARY: usize = 151_936;

fn config() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true,
        "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 151_643, "eos_token_id": 151_643,
    })
}

/// Values around zero by a multiplicative hash, of the usual spread, in bfloat16; norms are ones.
fn weights(seed: usize, shape: &[usize]) -> Vec<u8> {
    let value = |i: usize| match shape.len() {
        1 => 1.0,
        _ => {
            let hash = (i + seed * 0x9e37_79b9).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            (hash as f32 / (1 << 24) as f32 - 0.5) * 0.07
        }
    };
    (0..shape.iter().product()).flat_map(|i| half::bf16::from_f32(value(i)).to_le_bytes()).collect()
}

/// A byte-level BPE of as many tokens: all bytes, all pairs of bytes, and as many triples as there is room for.
fn tokenizer() -> Value {
    let alphabet: Vec<char> = {
        let printable = |b: &u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let others = (0..256).filter(|b| !printable(b)).enumerate().map(|(i, _)| 256 + i as u32);
        (0..256).filter(printable).chain(others).filter_map(char::from_u32).collect()
    };
    let mut vocabulary: Map<String, Value> = Map::new();
    let mut merges = Vec::new();
    let mut add = |token: String| {
        let id = vocabulary.len();
        vocabulary.insert(token, id.into());
        id + 1 < VOCABULARY - 1
    };
    alphabet.iter().for_each(|a| _ = add(a.to_string()));
    let pairs: Vec<(char, char)> = alphabet.iter().flat_map(|a| alphabet.iter().map(move |b| (*a, *b))).collect();
    for (a, b) in &pairs {
        add(format!("{a}{b}"));
        merges.push(json!([a.to_string(), b.to_string()]));
    }
    'all: for third in &alphabet {
        for (a, b) in &pairs {
            merges.push(json!([format!("{a}{b}"), third.to_string()]));
            if !add(format!("{a}{b}{third}")) {
                break 'all;
            }
        }
    }
    let end = json!({"id": VOCABULARY - 1, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges}})
}

/// Writes the model, and returns the bytes of its weights.
fn write_model(folder: &Path) -> u64 {
    let parsed = ModelConfig::from_json(&config(), &folder.join("config.json")).unwrap();
    let mut writer = CheckpointWriter::create(folder, &config()).unwrap();
    for (seed, tensor) in parsed.tensors().iter().enumerate() {
        writer.put_dense(&tensor.name, Dtype::BF16, &tensor.shape, &weights(seed, &tensor.shape)).unwrap();
    }
    writer.finish().unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    fs::write(folder.join("tokenizer_config.json"), r#"{"eos_token": "<|endoftext|>"}"#).unwrap();
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).map(|p| p.metadata().unwrap().len()).sum()
}

fn program(program: &Path, project: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(project).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every JSON file of a name under a folder.
fn found(folder: &Path, name: &str, all: &mut Vec<(PathBuf, Value)>) {
    for path in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found(&path, name, all);
        } else if path.ends_with(name) {
            let json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            all.push((path.with_file_name("record.json"), json));
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let binary = arguments.next().map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_workbench")), PathBuf::from);
    let binary = binary.canonicalize().unwrap();
    let tokens: usize = arguments.next().map_or(4096, |n| n.parse().unwrap());
    let project = tempfile::tempdir().unwrap();
    fs::write(project.path().join("workbench.toml"), "").unwrap();
    let size = write_model(&project.path().join("model"));
    let script = format!(
        r#"let text = #{{ text: dataset("demo:stories/test"), max_seq_length: 1024, blocks: {} }};
        let tasks = [perplexity(text), kl(model("model"), text)];
        let table = report("scoring");
        table.row(model("model").evaluate(tasks), #{{ model: "random" }});
        table.write();"#,
        tokens / 1024
    );
    fs::write(project.path().join("scoring.rhai"), script).unwrap();
    let plan: Value =
        serde_json::from_str(&program(&binary, project.path(), &["plan", "scoring.rhai", "--json"])).unwrap();
    program(&binary, project.path(), &["run", "scoring.rhai", "--jobs", "1"]);
    let mut runs = Vec::new();
    found(&project.path().join("results"), "provenance.json", &mut runs);
    let mib = |bytes: u64| bytes >> 20;
    println!("model {} MiB of weights in bfloat16", mib(size));
    for (record, provenance) in runs {
        let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        let method = record["identity"]["method"].as_str().unwrap();
        let nodes = plan["nodes"].as_array().unwrap();
        let planned = nodes.iter().find(|node| node["method"] == method).map_or(0, |n| n["memory"].as_u64().unwrap());
        let (seconds, peak) = (provenance["seconds"].as_f64().unwrap(), provenance["peak_memory"].as_u64().unwrap());
        println!(
            "{method}: {:.1} tokens/s, peak memory {} MiB (planned {} MiB), {tokens} tokens, {} threads, {}",
            tokens as f64 / seconds,
            mib(peak),
            mib(planned),
            provenance["threads"],
            record["values"]
        );
    }
}
