//! Calibration as a run does it: what is observed, what it costs, and what an interruption leaves.

use std::{collections::BTreeMap, fs, process::Stdio, thread, time::Duration};

use candle_core::{Device, Tensor};
use rustix::process::Signal;
use serde_json::Value;
use workbench::{
    calib::{LayerwiseCalibration, Observation, SiteObserver, SiteVisitor},
    eval::Loaded,
};
use workbench_model::{
    ActivationStorage, Block, Checkpoint, Context, ModelError, Precision, Site, SiteKind, device::HOST,
    statistics::Wants,
};

use super::project::{LAYERS, Project, kill};

const STATIC: &str = r#"#{
    weights: #{ num_bits: 4, type: "int", symmetric: true, strategy: "channel" },
    input_activations: #{
        num_bits: 8, type: "int", symmetric: true, strategy: "tensor", dynamic: false, observer: "static_minmax",
    },
}"#;

/// Quantizes a model of a fresh project with `options`, and returns the result's folder and record.
fn quantize(project: &Project, model: &str, method: &str, options: &str) -> (std::path::PathBuf, Value) {
    project.write("calibrate.rhai", &script(model, method, options));
    project.run(&["run", "calibrate.rhai", "--threads", "1"]).exits(0);
    let stored = project.stored("results", "quantize", method);
    let [(folder, record)] = &stored[..] else { panic!("{} results", stored.len()) };
    (folder.clone(), record.clone())
}

fn script(model: &str, method: &str, options: &str) -> String {
    r#"
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 6, max_seq_length: 48, add_bos: false });
let made = model("MODEL").quantize("METHOD", #{ scheme: STATIC, calibration: data, OPTIONS });
let table = report("calibration");
table.row(made.evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })), #{ model: "made" });
table.write();
"#
    .replace("MODEL", model)
    .replace("METHOD", method)
    .replace("STATIC", STATIC)
    .replace("OPTIONS", options)
}

/// The token sequences of the calibration set: the text's first tokens, in one piece.
fn sequences(project: &Project, loaded: &Loaded) -> Vec<Vec<u32>> {
    let ids = loaded.tokenizer.encode(&project.read("text.txt"), false).unwrap();
    ids.chunks_exact(48).take(6).map(<[u32]>::to_vec).collect()
}

/// The ranges that the sites of a model see before their quantizers.
fn ranges(loaded: &Loaded, sequences: &[Vec<u32>]) -> BTreeMap<String, [f32; 2]> {
    let mut found: BTreeMap<String, [f32; 2]> = BTreeMap::new();
    let decoder = loaded.decoder().unwrap();
    for ids in sequences {
        let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
            let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
            let [low, high] = found.entry(site.to_string()).or_insert([f32::INFINITY, f32::NEG_INFINITY]);
            values.iter().for_each(|v| (*low, *high) = (low.min(*v), high.max(*v)));
            Ok(())
        };
        let ids = Tensor::from_vec(ids.clone(), (1, ids.len()), &Device::Cpu).unwrap();
        let context = Context::full(1, ids.dims()[1], None);
        decoder.hidden(&ids, &context, &mut tap).unwrap();
    }
    found
}

/// The quantized model itself is the reference: what a site receives in it must be what its scale was made for.
#[test]
fn sequential_scales_are_those_of_deployment() {
    let cache = r#"kv_cache_scheme: #{ num_bits: 4, strategy: "attn_head", observer: "static_minmax" }"#;
    for (method, options) in [("rtn", ""), ("gptq", ""), ("rtn", cache), ("sign_block", cache)] {
        let project = Project::new();
        project.add_plugins(&["sign_block"]);
        let (folder, record) = quantize(&project, "tiny", method, options);
        let made = Loaded::open(&folder.join("model")).unwrap();
        let expected = ranges(&made, &sequences(&project, &made));
        let facts = &record["facts"];
        let observed = &facts["input_scales"]["observed"];
        assert_eq!(observed["mode"], "sequential");
        let mut found = observed["ranges"].as_object().unwrap().clone();
        assert_eq!(found.len(), 2 * 4, "{found:?}");
        if !options.is_empty() {
            assert_eq!(facts["kv_cache"]["observed"]["mode"], "sequential");
            let keys_and_values = facts["kv_cache"]["observed"]["ranges"].as_object().unwrap();
            assert_eq!(keys_and_values.len(), 2 * 2, "{keys_and_values:?}");
            found.extend(keys_and_values.clone());
        }
        for (site, range) in &found {
            for (found, expected) in range.as_array().unwrap().iter().zip(expected[site]) {
                let (found, expected) = (found.as_f64().unwrap(), f64::from(expected));
                assert!(
                    (found - expected).abs() < 1e-4 * expected.abs(),
                    "{method} {site}: {found} against {expected}"
                );
            }
        }
    }
}

#[test]
fn full_precision_scales_are_those_of_the_original() {
    let project = Project::new();
    let (_, record) = quantize(&project, "tiny", "rtn", r#"observe: "full_precision""#);
    let original = Loaded::open(&project.path().join("tiny")).unwrap();
    let expected = ranges(&original, &sequences(&project, &original));
    let observed = &record["facts"]["input_scales"]["observed"];
    assert_eq!(observed["mode"], "full_precision");
    for (site, range) in observed["ranges"].as_object().unwrap() {
        for (found, expected) in range.as_array().unwrap().iter().zip(expected[site]) {
            let (found, expected) = (found.as_f64().unwrap(), f64::from(expected));
            assert!((found - expected).abs() < 1e-4 * expected.abs(), "{site}: {found} against {expected}");
        }
    }
}

#[test]
fn the_orders_observe_different_models() {
    let mut observation = Vec::new();
    for order in ["sequential", "block", "full_precision"] {
        let project = Project::new();
        let (_, record) = quantize(&project, "tiny", "gptq", &format!("observe: \"{order}\""));
        let ranges = record["facts"]["input_scales"]["observed"]["ranges"].clone();
        // The first site sees the embeddings in all of them.
        let first = ranges["model.layers.0.self_attn.input"].clone();
        observation.push((first, ranges["model.layers.1.mlp.down_proj.input"].clone()));
    }
    assert!(observation.iter().all(|(first, _)| *first == observation[0].0));
    assert!(
        observation[0].1 != observation[1].1
            && observation[1].1 != observation[2].1
            && observation[0].1 != observation[2].1,
        "{observation:?}"
    );
}

/// Killed as soon as it has left something to continue from, and continued: the same bytes, and not all work done twice.
#[test]
fn an_interrupted_quantization_continues_to_the_same_bytes() {
    let arguments = ["run", "calibrate.rhai", "--threads", "1"];
    let cache = r#"kv_cache_scheme: #{ num_bits: 8, strategy: "tensor" }"#;
    let full = r#"observe: "full_precision""#;
    // Behind the last block stands the head; in front of the first the embeddings.
    let ends = r#"targets: ["Linear", "lm_head"], untie_word_embeddings: true, config_groups: #{
        table: #{ targets: "Embedding", scheme: "W8A16", strategy: "channel" },
    }"#;
    for (method, options) in [("gptq", cache), ("sign_block", ""), ("rtn", full), ("gptq", ends), ("sign_block", ends)]
    {
        let start = || {
            let project = Project::new();
            project.add_plugins(&["sign_block"]);
            project.write_model("deep", 64, 12);
            project.write("calibrate.rhai", &script("deep", method, options));
            project
        };
        let undisturbed = start();
        let expected = undisturbed.run(&arguments).exits(0);
        let project = start();
        let mut continued = 0;
        for _ in 0..6 {
            let mut driver = project.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let before = blocks(&project).unwrap_or(0);
            while driver.try_wait().unwrap().is_none() && blocks(&project).is_none_or(|n| n <= before) {
                thread::sleep(Duration::from_micros(300));
            }
            let victims = project.processes();
            continued += usize::from(before > 0);
            victims.into_iter().for_each(|p| kill(p, Signal::KILL));
            driver.wait().unwrap();
        }
        assert!(continued > 1, "{method}: {continued} runs continued");
        let last = project.run(&arguments).exits(0);
        assert_eq!(last.out, expected.out, "{method}: the tables differ");
        assert_eq!(project.artifacts("results"), undisturbed.artifacts("results"), "{method}");
    }
}

/// Blocks that the unfinished quantization of a project has saved.
pub(super) fn blocks(project: &Project) -> Option<u64> {
    let scratch = project.path().join("results/store/v1/scratch");
    fs::read_dir(scratch).ok()?.flatten().find_map(|entry| {
        let state = fs::read_to_string(entry.path().join("work/quantize.json")).ok()?;
        // Behind the digest in its first line.
        let (_, state) = state.split_once('\n')?;
        serde_json::from_str::<Value>(state).ok()?["blocks"].as_u64()
    })
}

#[test]
fn memory_does_not_grow_with_depth() {
    let awq = r#"
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 6, max_seq_length: 48, add_bos: false });
let made = model("deep").transform("awq", #{ scheme: #{ num_bits: 4, group_size: 32 }, n_grid: 3, calibration: data });
made.save_as("made");
"#;
    let peak = |layers: usize, method: &str| {
        let project = Project::new();
        project.write_model("deep", 384, layers);
        let folder = match method {
            "awq" => {
                project.write("awq.rhai", awq);
                project.run(&["run", "awq.rhai", "--threads", "1"]).exits(0);
                project.stored("results", "transform", "awq").swap_remove(0).0
            }
            _ => quantize(&project, "deep", method, "").0,
        };
        let provenance: Value = serde_json::from_slice(&fs::read(folder.join("provenance.json")).unwrap()).unwrap();
        provenance["peak_memory"].as_f64().unwrap()
    };
    for method in ["gptq", "awq"] {
        // A layer of this model takes 6 MB.
        let (shallow, deep) = (peak(10, method), peak(20, method));
        assert!(deep < 1.1 * shallow, "{method}: {deep} bytes for 20 layers, {shallow} for 10");
    }
}

/// Looks at all sites, or at all but keys and values, and changes nothing.
struct Everything {
    cache: bool,
}

impl SiteVisitor for Everything {
    fn observe(&mut self, site: Site, features: usize) -> workbench::error::Result<Option<SiteObserver>> {
        if !self.cache && matches!(site.kind, SiteKind::Key | SiteKind::Value) {
            return Ok(None);
        }
        SiteObserver::new(site, features, Wants { channels: true, gram: true, ..Wants::default() }, &[]).map(Some)
    }

    fn visit(
        &mut self,
        site: Site,
        observation: Option<Observation>,
        _: Option<&mut Block>,
    ) -> workbench::error::Result<()> {
        let seen = observation.map(|observation| observation.statistics.count());
        let of_cache = matches!(site.kind, SiteKind::Key | SiteKind::Value);
        assert_eq!(seen, (self.cache || !of_cache).then_some(2 * 20), "{site}");
        Ok(())
    }
}

#[test]
fn activations_that_do_not_fit_into_memory_lie_in_files() {
    let project = Project::new();
    let checkpoint = Checkpoint::open(&project.path().join("tiny")).unwrap();
    let sequences = vec![(1..21).collect::<Vec<u32>>(), (50..70).collect()];
    let mut found = Vec::new();
    // Where keys and values are looked at they are kept, and attention takes what is kept: to the same bits.
    for (memory, compute_dtype, cache) in [
        (u64::MAX, Precision::F32, true),
        (0, Precision::F32, true),
        (0, Precision::Bf16, true),
        (0, Precision::F32, false),
        (u64::MAX, Precision::Bf16, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let storage = ActivationStorage {
            precision: Precision::Bf16,
            compute_dtype,
            device: HOST,
            memory,
            folder: folder.path().to_owned(),
        };
        let mut pass = LayerwiseCalibration::begin(&checkpoint, &sequences, storage).unwrap();
        for index in 0..LAYERS {
            let mut block = pass.load(&checkpoint, index).unwrap();
            pass.sequential(index, &mut block, &mut Everything { cache }).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), if memory == 0 { 2 + usize::from(cache) } else { 0 });
        let states =
            (0..pass.len()).map(|i| pass.hidden().get(i).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
        found.push(states.collect::<Vec<_>>());
    }
    assert!(found[0] == found[1] && found[0] == found[3] && found[2] == found[4]);
    // Products of bfloat16 factors are others, but by no more than factors of 8 bits explain.
    let [exact, rounded] = [&found[0], &found[2]].map(|states| states.concat());
    let norm = |values: &[f32]| values.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    let difference: Vec<f32> = exact.iter().zip(&rounded).map(|(a, b)| a - b).collect();
    let relative = norm(&difference) / norm(&exact);
    assert!(relative > 1e-5 && relative < 2e-2, "{relative}");
}
