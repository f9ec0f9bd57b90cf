//! Scoring: that a model whose blocks are in memory one at a time scores as the whole does, and what that takes.

use std::{fs, os::unix::fs::FileExt, path::Path};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use workbench::{
    eval::{Loaded, Window, windows},
    graph::{
        node::DataSource,
        params::{Protocol, TextOptions, Toggle},
    },
};
use workbench_model::{Context, decoder::Decoder, statistics::divergences};

use super::{
    project::{Project, csv},
    rotate::write_model,
};

const LENGTH: usize = 24;
const BLOCKS: usize = 5;
/// Of windows: the last batch is a smaller one.
const BATCH: usize = 2;

fn cut(project: &Project, model: &Loaded) -> Vec<Window> {
    let options = TextOptions {
        protocol: Protocol::Blocks,
        max_seq_length: LENGTH,
        blocks: Some(BLOCKS),
        add_bos: Toggle::Off,
        text_column: "text".to_owned(),
        characters: None,
        batch_size: BATCH,
        task: String::new(),
    };
    windows(&DataSource::File(project.path().join("text.txt")), &options, &model.tokenizer).unwrap().windows
}

/// Hidden states and targets of a batch in a decoder that is in memory as a whole.
fn hidden(decoder: &Decoder, batch: &[Window]) -> (Tensor, Vec<u32>) {
    let inputs: Vec<u32> = batch.iter().flat_map(|w| w.ids[..LENGTH - 1].to_vec()).collect();
    let ids = Tensor::from_vec(inputs, (batch.len(), LENGTH - 1), &Device::Cpu).unwrap();
    let hidden = decoder.hidden(&ids, &Context::full(batch.len(), LENGTH - 1, None), &mut ()).unwrap();
    (hidden.flatten_to(1).unwrap(), batch.iter().flat_map(|w| w.ids[1..].to_vec()).collect())
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The items of a stored evaluation as they are written: to read a number back may change its last bit.
fn items(project: &Project, method: &str) -> Vec<String> {
    let [(folder, _)] = &project.stored("results", "evaluate", method)[..] else { panic!("one {method}") };
    fs::read_to_string(folder.join("items.jsonl")).unwrap().lines().map(str::to_owned).collect()
}

/// Quantized weights, inputs, keys, values and ends, tied and not: the same bits, for both measures.
#[test]
fn blocks_one_at_a_time_score_as_the_whole_model() {
    for (tied, options) in [
        (true, ""),
        (
            true,
            r#"scheme: "W4A8", group_size: 16, kv_cache_scheme: #{ num_bits: 8, strategy: "tensor" },
            calibration: dataset("text.txt").tokens(#{ num_calibration_samples: 4, max_seq_length: 32 })"#,
        ),
        (false, r#"scheme: "W8A8", targets: ["Linear", "lm_head"]"#),
        (false, r#"scheme: "W8A16", group_size: 16, targets: ["Linear", "lm_head", "re:.*embed_tokens"]"#),
    ] {
        let project = Project::new();
        write_model(&project, "model", &json!({ "tie_word_embeddings": tied }));
        let made = if options.is_empty() { String::new() } else { format!(".quantize(\"rtn\", #{{ {options} }})") };
        project.write(
            "scoring.rhai",
            &format!(
                r#"let text = #{{ text: dataset("text.txt"), max_seq_length: {LENGTH}, blocks: {BLOCKS}, batch_size: {BATCH}, add_bos: false }};
let made = model("model"){made};
let table = report("scoring");
table.row(made.evaluate([perplexity(text), kl(model("tiny"), text)]), #{{ model: "made" }});
table.write();
"#
            ),
        );
        project.run(&["run", "scoring.rhai"]).exits(0);
        let folder = match &project.stored("results", "quantize", "rtn")[..] {
            [(folder, _)] => folder.join("model"),
            _ => project.path().join("model"),
        };
        let [model, reference] = [folder, project.path().join("tiny")].map(|path| Loaded::open(&path).unwrap());
        let (whole, other) = (model.decoder().unwrap(), reference.decoder().unwrap());
        let (mut nll, mut kl) = (Vec::new(), Vec::new());
        for batch in cut(&project, &model).chunks(BATCH) {
            let ((ours, targets), (theirs, _)) = (hidden(&whole, batch), hidden(&other, batch));
            let scores = whole.head_layer().score(&ours, &targets, 512).unwrap();
            nll.extend(scores.chunks(LENGTH - 1).map(|some| some.iter().fold(0.0, |sum, s| sum - s.log_probability)));
            let (p, q) = (values(&other.head(&theirs).unwrap()), values(&whole.head(&ours).unwrap()));
            let found = divergences(&p, &q, model.config().vocab_size);
            kl.extend(found.chunks(LENGTH - 1).map(|some| some.iter().fold(0.0, |sum, d| sum + d.kl)));
        }
        assert_eq!(nll.len(), BLOCKS);
        for (method, key, expected) in [("perplexity", "nll", nll), ("kl", "kl", kl)] {
            let found = items(&project, method);
            assert_eq!(found.len(), expected.len());
            for (item, sum) in found.iter().zip(expected) {
                assert!(sum > 0.0 && item.contains(&format!("\"{key}\":{}", json!(sum))), "{options}: {sum} in {item}");
            }
        }
    }
}

/// A model of zeros in bfloat16, whose file takes no room on disk: what memory it takes is what counts here.
fn write_large(project: &Project, hidden: usize, layers: usize) -> u64 {
    project.write_model("large", 32, 1);
    let folder = project.path().join("large");
    let read = |name: &str| serde_json::from_str::<Value>(&fs::read_to_string(folder.join(name)).unwrap()).unwrap();
    let mut config = read("config.json");
    let sizes = json!({
        "hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": hidden / 16, "torch_dtype": "bfloat16",
    });
    config.as_object_mut().unwrap().extend(sizes.as_object().unwrap().clone());
    let parsed = workbench_model::ModelConfig::from_json(&config, Path::new("config.json")).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for tensor in parsed.tensors() {
        let begin = end;
        end += 2 * tensor.shape.iter().product::<usize>();
        header.insert(tensor.name, json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end] }));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0).unwrap();
    file.write_all_at(&header, 8).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    end as u64
}

/// Memory is that of a block, not of the model, and what the plan says holds: for one model and for two, and for the beginning
/// of a text that is much longer than that.
#[test]
fn scoring_takes_less_memory_than_the_weights() {
    let project = Project::new();
    let bytes = write_large(&project, 1024, 16);
    let text = project.read("text.txt");
    project.write("long.txt", &text.repeat((24 << 20) / text.len()));
    project.write(
        "scoring.rhai",
        r#"let text = #{ text: dataset("long.txt"), max_seq_length: 32, blocks: 2, add_bos: false };
let table = report("scoring");
table.row(model("large").evaluate([perplexity(text), kl(model("large"), text)]), #{ model: "large" });
table.write();
"#,
    );
    let plan = project.run(&["plan", "scoring.rhai", "--json"]).exits(0).json();
    project.run(&["run", "scoring.rhai", "--threads", "1"]).exits(0);
    for (method, models) in [("perplexity", 1), ("kl", 2)] {
        let [(folder, _)] = &project.stored("results", "evaluate", method)[..] else { panic!("one {method}") };
        let provenance: Value = serde_json::from_slice(&fs::read(folder.join("provenance.json")).unwrap()).unwrap();
        let peak = provenance["peak_memory"].as_u64().unwrap();
        let nodes = plan["nodes"].as_array().unwrap();
        let planned = nodes.iter().find(|node| node["method"] == method).unwrap()["memory"].as_u64().unwrap();
        let figures = format!("{method}: {} of {} MiB, planned {}", peak >> 20, (models * bytes) >> 20, planned >> 20);
        assert!(peak < models * bytes && peak <= planned && planned < 3 * peak, "{figures}");
    }
}

/// What an interrupted training continues from takes more room than what it makes.
#[test]
fn plans_count_what_trainings_and_calibrations_keep_on_disk() {
    let project = Project::new();
    let script = |every: u64| {
        format!(
            r#"let data = dataset("text.txt").tokens(#{{ num_calibration_samples: 8, max_seq_length: 32 }});
let table = report("disk");
let text = perplexity(#{{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 }});
table.row(model("tiny").train("sft", #{{ data: data, checkpoint_every: {every} }}).evaluate(text), #{{ made: "train" }});
table.row(model("tiny").quantize("gptq", #{{ scheme: "W4A16", group_size: 16, calibration: data }}).evaluate(text), #{{ made: "gptq" }});
table.write();
"#
        )
    };
    let parameters = workbench_model::Checkpoint::open(&project.path().join("tiny")).unwrap().bytes_on_disk() / 4;
    for (every, copies) in [(0, 0), (10, 2)] {
        project.write("disk.rhai", &script(every));
        let plan = project.run(&["plan", "disk.rhai", "--json"]).exits(0).json();
        let nodes = plan["nodes"].as_array().unwrap();
        let scratch = |kind: &str| nodes.iter().find(|node| node["kind"] == kind).unwrap()["scratch"].as_u64().unwrap();
        // Weights and two moments in f32; the file's header has a few kilobytes.
        let (found, expected) = (scratch("train"), copies * 3 * 4 * parameters);
        assert!(found <= expected && found >= expected / 100 * 95, "{found} of {expected}");
        // Sequences of hidden states in f32, before and after a block.
        assert_eq!(scratch("quantize"), 2 * 8 * 32 * 32 * 4);
    }
}

/// Two models of one size whose tokenizers number the tokens differently: blocks of the same name hold other tokens, so
/// nothing per token is compared, and a divergence is refused.
#[test]
fn other_tokenizers_are_not_compared_per_token() {
    let project = Project::new();
    project.write_model("other", 32, 2);
    let path = project.path().join("other/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (a, e) = (vocabulary["a"].clone(), vocabulary["e"].clone());
    vocabulary.insert("a".to_owned(), e);
    vocabulary.insert("e".to_owned(), a);
    fs::write(&path, tokenizer.to_string()).unwrap();
    let script = |tasks: &str| {
        format!(
            r#"let text = #{{ text: dataset("text.txt"), max_seq_length: {LENGTH}, blocks: {BLOCKS} }};
let table = report("tokens");
table.baseline(model("tiny").evaluate(perplexity(text)), #{{ model: "tiny" }});
table.row(model("other").evaluate([{tasks}]), #{{ model: "other" }});
table.write();
"#
        )
    };
    project.write("apart.rhai", &script("perplexity(text)"));
    let outcome = project.run(&["run", "apart.rhai"]).exits(0);
    assert!(outcome.out.contains("their tokenizers read the text differently"), "{}", outcome.out);
    let rows = csv(&project.read("results/reports/tokens/table.csv"));
    assert_eq!((rows[1]["perplexity.nll.delta"].as_str(), rows[1]["perplexity.nll.p"].as_str()), ("", ""));
    assert!(!rows[1]["perplexity.nll"].is_empty());
    project.write("divergence.rhai", &script("kl(model(\"tiny\"), text)"));
    let outcome = project.run(&["run", "divergence.rhai"]).exits(4);
    assert!(outcome.out.contains("the reference's tokenizer makes other tokens of the text"), "{}", outcome.out);
}
