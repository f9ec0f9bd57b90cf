//! Models written, opened again and compared: exactly.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use workbench_model::checkpoint::{CheckpointWriter, Dtype, Written};
use workbench_model::{Checkpoint, ModelError, WeightSource};
use workbench_quant::{
    Conventions, Grid, Matrix, QuantParams, QuantizationArgs, RangeConvention, Scheme, StorageDtype,
};

use crate::common::{assert_holds, f32_bytes, parse, values};
use crate::gguf_files::block_config;

fn config() -> Value {
    let mut config = block_config("Qwen3ForCausalLM");
    config["tie_word_embeddings"] = json!(false);
    config["torch_dtype"] = json!("bfloat16");
    config["quantization_config"] = json!({"quant_method": "of the source, to be replaced"});
    config
}

/// Codes of one linear.
struct Codes {
    grid: Grid,
    codes: Vec<i8>,
    parameters: QuantParams,
}

fn quantize(weight: &[f32], rows: usize, columns: usize, args: &QuantizationArgs, conventions: Conventions) -> Codes {
    let grid = Grid::new(args, StorageDtype::Bf16, conventions).unwrap();
    let (codes, parameters) = grid.round_to_nearest(Matrix::new(weight, rows, columns).unwrap()).unwrap();
    Codes { grid, codes, parameters }
}

/// Writes a model of `config()`, quantizing the linears that `scheme` names; returns the codes that went in.
fn write(folder: &Path, scheme: &dyn Fn(&str) -> Option<Scheme>) -> (Written, BTreeMap<String, Codes>) {
    let config = config();
    let parsed = parse(&config).unwrap();
    let mut writer = CheckpointWriter::create(folder, &config).unwrap();
    let mut all = BTreeMap::new();
    let static_scale = |grid: &Grid, seed: usize| grid.parameters_from_range(&[-1.0], &[seed as f32 + 0.7]).unwrap();
    for (seed, spec) in parsed.tensors().into_iter().enumerate() {
        let data = values(seed, spec.shape.iter().product());
        let module = spec.name.strip_suffix(".weight").filter(|module| module.contains("proj") || *module == "lm_head");
        let Some((module, scheme)) = module.and_then(|module| Some((module, scheme(module)?))) else {
            writer.put_dense(&spec.name, Dtype::F32, &spec.shape, &f32_bytes(&data)).unwrap();
            continue;
        };
        if let Some(inputs) = &scheme.input_activations {
            let grid = Grid::new(inputs, StorageDtype::F32, Conventions::default()).unwrap();
            writer.put_input_quantizer(module, &grid).unwrap();
            if grid.args().dynamic != workbench_quant::Dynamic::Yes {
                writer.put_input_scale(module, &static_scale(&grid, seed)).unwrap();
            }
        }
        let Some(weights) = &scheme.weights else {
            writer.put_dense(&spec.name, Dtype::F32, &spec.shape, &f32_bytes(&data)).unwrap();
            continue;
        };
        let conventions = Conventions { range: RangeConvention::Restricted, ..Conventions::default() };
        let codes = quantize(&data, spec.shape[0], spec.shape[1], weights, conventions);
        writer.put_quantized(module, &codes.grid, &codes.codes, &codes.parameters).unwrap();
        all.insert(module.to_owned(), codes);
    }
    (writer.finish().unwrap(), all)
}

#[test]
fn rows_are_those_of_the_whole_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let w4 = scheme(json!({"scheme": "W4A16", "group_size": 32}));
    write(folder.path(), &|module| module.ends_with("q_proj").then(|| w4.clone()));
    let model = Checkpoint::open(folder.path()).unwrap();
    for name in ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"] {
        let (whole, columns) = (model.values(name).unwrap(), model.shape(name).unwrap()[1]);
        let expected: Vec<f32> =
            [3, 0, 3].into_iter().flat_map(|row: usize| whole[row * columns..][..columns].to_vec()).collect();
        assert_eq!(model.rows(name, &[3, 0, 3]).unwrap(), expected);
        let beyond = (whole.len() / columns) as u32;
        assert!(model.rows(name, &[beyond]).unwrap_err().to_string().contains(&format!("no row {beyond}")));
    }
}

fn compare(folder: &Path, codes: &BTreeMap<String, Codes>) {
    let model = Checkpoint::open(folder).unwrap();
    for (seed, spec) in parse(&config()).unwrap().tensors().into_iter().enumerate() {
        let data = values(seed, spec.shape.iter().product());
        let found = model.values(&spec.name).unwrap();
        let module = spec.name.trim_end_matches(".weight");
        let Some(expected) = codes.get(module) else {
            assert_eq!(found, data, "{}", spec.name);
            continue;
        };
        let read = model.quantized_linear(module).unwrap().unwrap();
        assert_eq!(read.grid, expected.grid, "{module}");
        assert_eq!(read.codes, expected.codes, "{module}");
        assert_eq!(read.parameters, expected.parameters, "{module}");
        let mut dequantized = vec![0.0; data.len()];
        let [rows, columns] = spec.shape[..] else { panic!("a quantized vector") };
        expected.grid.dequantize(&expected.codes, rows, columns, &expected.parameters, &mut dequantized).unwrap();
        assert_eq!(found, dequantized, "{module}");
    }
}

fn scheme(value: Value) -> Scheme {
    Scheme::from_value(&value).unwrap()
}

#[test]
fn every_layout_comes_back_exactly() {
    let linears = |scheme: Scheme| move |module: &str| (module != "lm_head").then(|| scheme.clone());
    for value in [
        json!({"scheme": "W4A16", "group_size": 32}),
        json!({"scheme": "W4A16_ASYM", "group_size": 32}),
        json!({"scheme": "W4A16", "strategy": "channel"}),
        json!({"scheme": "W4A16_ASYM", "strategy": "tensor"}),
        json!({"scheme": "W3A16", "group_size": 32}),
        json!({"scheme": "W8A16", "strategy": "channel"}),
        json!("W8A8"),
        json!("W8A8_STATIC"),
        json!({"scheme": "W8A8", "symmetric": false}),
        json!("FP8"),
        json!("FP8_DYNAMIC"),
        json!({"scheme": "FP8_BLOCK", "input_activations": null}),
        json!({"input_activations": {"num_bits": 8, "strategy": "token", "dynamic": true}}),
        json!("MXFP4"),
        json!("MXFP4A16"),
        json!("MXFP8"),
        json!("NVFP4"),
        json!("NVFP4A16"),
        json!({"scheme": "NVFP4A16", "strategy": "channel", "scale_dtype": null}),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let scheme = scheme(value.clone());
        let (written, codes) = write(folder.path(), &linears(scheme.clone()));
        compare(folder.path(), &codes);
        let model = Checkpoint::open(folder.path()).unwrap();
        let (read, format) = model.quantization().unwrap().scheme("model.layers.1.mlp.down_proj").unwrap();
        assert_eq!((&read.weights, &read.input_activations), (&scheme.weights, &scheme.input_activations), "{value}");
        assert_eq!(format, scheme.inferred_format(), "{value}");
        assert!(model.quantization().unwrap().scheme("lm_head").is_none());
        let input = model.input_quantizer("model.layers.1.mlp.down_proj").unwrap();
        assert_eq!(input.is_some(), scheme.input_activations.is_some());
        let on_disk: u64 =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(written.bytes, on_disk);
        // The layouts that other loaders give out in bfloat16 alone say so.
        let dtype = if value.to_string().contains("FP4") || value == "MXFP8" { "bfloat16" } else { "float32" };
        assert_eq!(model.config_json()["torch_dtype"], dtype, "{value}");
    }
}

#[test]
fn a_quantized_kv_cache_comes_back_exactly() {
    let heads = parse(&config()).unwrap().num_kv_heads;
    for (value, count) in [
        (json!({"num_bits": 8, "type": "float", "strategy": "tensor"}), 1),
        (json!({"num_bits": 8, "strategy": "tensor", "symmetric": false, "observer": "minmax"}), 1),
        (json!({"num_bits": 4, "strategy": "attn_head"}), heads),
        (json!({"num_bits": 8, "group_size": 8, "dynamic": true}), 0),
    ] {
        let args = workbench_quant::kv_cache_args(&value).unwrap();
        let grid = Grid::new(&args, StorageDtype::Bf16, Conventions::default()).unwrap();
        let of = |block: usize| {
            let bounds = (0..count).map(|head| (head + block) as f32 + 0.3).collect::<Vec<_>>();
            let low = bounds.iter().map(|bound| -bound / 2.0).collect::<Vec<_>>();
            (count > 0).then(|| grid.of_heads(8).parameters_from_range(&low, &bounds).unwrap())
        };
        let folder = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::create(folder.path(), &config()).unwrap();
        writer.put_kv_cache(&grid);
        for block in 0..2 {
            if let (Some(key), Some(value)) = (of(block), of(block + 5)) {
                writer.put_kv_scales(block, &key, &value).unwrap();
            }
        }
        for (seed, spec) in parse(&config()).unwrap().tensors().into_iter().enumerate() {
            let data = f32_bytes(&values(seed, spec.shape.iter().product()));
            writer.put_dense(&spec.name, Dtype::F32, &spec.shape, &data).unwrap();
        }
        writer.finish().unwrap();
        let model = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(model.quantization().unwrap().kv_cache(), Some(&args));
        for block in 0..2 {
            let found = model.kv_quantizer(block).unwrap().unwrap();
            assert_eq!((&found.grid, &found.key, &found.value), (&grid, &of(block), &of(block + 5)), "{value}");
        }
    }
}

#[test]
fn a_given_tensor_wide_scale_is_stored_and_noted() {
    let folder = tempfile::tempdir().unwrap();
    let nvfp4 = scheme(json!("NVFP4A16"));
    let parsed = parse(&config()).unwrap();
    let mut writer = CheckpointWriter::create(folder.path(), &config()).unwrap();
    let module = "model.layers.0.mlp.up_proj";
    let grid = Grid::new(nvfp4.weights.as_ref().unwrap(), StorageDtype::F32, Conventions::default()).unwrap();
    let grid = grid.clone().with_global_scale(Some(grid.global_scale(9.0)));
    let mut expected = None;
    for (seed, spec) in parsed.tensors().into_iter().enumerate() {
        let data = values(seed, spec.shape.iter().product());
        if spec.name == format!("{module}.weight") {
            let matrix = Matrix::new(&data, spec.shape[0], spec.shape[1]).unwrap();
            let (codes, parameters) = grid.round_to_nearest(matrix).unwrap();
            assert_eq!(parameters.global_scale, Some(448.0 * 6.0 / 9.0));
            writer.put_quantized(module, &grid, &codes, &parameters).unwrap();
            expected = Some((codes, parameters));
        } else {
            writer.put_dense(&spec.name, Dtype::F32, &spec.shape, &f32_bytes(&data)).unwrap();
        }
    }
    writer.finish().unwrap();
    let read = Checkpoint::open(folder.path()).unwrap().quantized_linear(module).unwrap().unwrap();
    assert_eq!(read.grid, grid);
    assert_eq!(Some((read.codes, read.parameters)), expected);
}

#[test]
fn static_input_scales_come_back_exactly_beside_shards_that_dynamic_models_share() {
    let (fixed, dynamic, weights) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let of = |value: Value| {
        let scheme = scheme(value);
        move |module: &str| module.contains("layers.").then(|| scheme.clone())
    };
    let (fixed_files, codes) = write(fixed.path(), &of(json!("W8A8_STATIC")));
    let (dynamic_files, _) = write(dynamic.path(), &of(json!("W8A8")));
    compare(fixed.path(), &codes);
    let model = Checkpoint::open(fixed.path()).unwrap();
    for (seed, spec) in parse(&config()).unwrap().tensors().into_iter().enumerate() {
        let Some(module) = spec.name.strip_suffix(".weight").filter(|module| module.contains("_proj")) else {
            continue;
        };
        let input = model.input_quantizer(module).unwrap().unwrap();
        assert_eq!(input.parameters, Some(input.grid.parameters_from_range(&[-1.0], &[seed as f32 + 0.7]).unwrap()));
    }
    let shards = |written: &Written, kind: &str| {
        written.files.iter().filter(|file| file.name.starts_with(kind)).cloned().collect::<Vec<_>>()
    };
    // The static model has the very same weights and one more file; a model with other layouts still shares the ends.
    assert_eq!(shards(&fixed_files, "model-block").len(), 2);
    assert_eq!(shards(&fixed_files, "model-block"), shards(&dynamic_files, "model-block"));
    assert_eq!((shards(&fixed_files, "model-input").len(), shards(&dynamic_files, "model-input").len()), (1, 0));
    let (packed_files, _) = write(weights.path(), &of(json!({"scheme": "W8A16", "strategy": "channel"})));
    assert_eq!(shards(&packed_files, "model-embeddings"), shards(&fixed_files, "model-embeddings"));
    assert_ne!(shards(&packed_files, "model-block"), shards(&fixed_files, "model-block"));
}

#[test]
fn mixed_models_name_their_modules() {
    let folder = tempfile::tempdir().unwrap();
    let mixed = |module: &str| match module {
        "lm_head" => Some(scheme(json!({"scheme": "W8A16", "strategy": "channel"}))),
        module if module.contains("down_proj") => None,
        module if module.contains("mlp") => Some(scheme(json!({"scheme": "W4A16", "group_size": 32}))),
        _ => Some(scheme(json!("W8A8_STATIC"))),
    };
    let (_, codes) = write(folder.path(), &mixed);
    compare(folder.path(), &codes);
    let model = Checkpoint::open(folder.path()).unwrap();
    let quantization = model.quantization().unwrap();
    assert_eq!(quantization.json()["format"], "mixed-precision");
    assert_eq!(quantization.json()["ignore"], json!(["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]));
    assert_eq!(quantization.json()["config_groups"].as_object().unwrap().len(), 3);
    assert!(model.quantized_linear("lm_head").unwrap().is_some());
    assert!(model.input_quantizer("model.layers.0.mlp.up_proj").unwrap().is_none());
    assert!(model.input_quantizer("model.layers.0.self_attn.o_proj").unwrap().unwrap().parameters.is_some());
}

#[test]
fn the_same_tensors_give_the_same_bytes() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let scheme = scheme(json!("W8A8_STATIC"));
    let all = |module: &str| (module != "lm_head").then(|| scheme.clone());
    let written = write(first.path(), &all).0;
    assert_eq!(written, write(second.path(), &all).0);
    for file in &written.files {
        let [a, b] = [&first, &second].map(|folder| std::fs::read(folder.path().join(&file.name)).unwrap());
        assert!(a == b, "{} differs", file.name);
        assert_eq!(blake3::hash(&a).to_hex().to_string(), file.digest);
        if file.name.starts_with("model-") {
            assert!(file.name.contains(&file.digest[..16]));
            // Other readers take the shards too, and find the data where it can be used in place.
            let (header, _) = safetensors::SafeTensors::read_metadata(&a).unwrap();
            assert_eq!((header + 8) % 64, 0);
        }
    }
}

#[test]
fn dense_models_come_back_exactly_with_their_companions() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(source.path(), &|_| None);
    let companions =
        [("tokenizer.json", "{\"a\": 1}"), ("chat_template.jinja", "hello"), ("generation_config.json", "{}")];
    for (name, content) in companions {
        std::fs::write(source.path().join(name), content).unwrap();
    }
    let model = Checkpoint::open(source.path()).unwrap();
    assert!(model.quantization().is_none() && model.config_json().get("quantization_config").is_none());
    let mut writer = CheckpointWriter::create(target.path(), model.config_json()).unwrap();
    // Backwards: the order in which tensors come does not matter.
    for name in model.names().iter().rev() {
        let raw = model.raw(name).unwrap();
        writer.put_dense(name, raw.dtype, raw.shape, &raw.bytes).unwrap();
    }
    writer.copy_companions(&model).unwrap();
    writer.finish().unwrap();
    compare(target.path(), &BTreeMap::new());
    for name in ["config.json", "model.safetensors.index.json"].into_iter().chain(companions.map(|(name, _)| name)) {
        let [a, b] = [&source, &target].map(|folder| std::fs::read(folder.path().join(name)).unwrap());
        assert!(a == b, "{name} differs");
    }
}

#[test]
fn an_interrupted_writer_goes_on_with_its_whole_blocks() {
    let scheme = scheme(json!("W8A8"));
    let whole = tempfile::tempdir().unwrap();
    let all = |module: &str| (module != "lm_head").then(|| scheme.clone());
    let (written, codes) = write(whole.path(), &all);

    // What a writer killed in its second block leaves: one shard, a damaged one, and a file half written.
    let broken = tempfile::tempdir().unwrap();
    let block = written.files.iter().find(|file| file.name.starts_with("model-block-00000")).unwrap();
    std::fs::copy(whole.path().join(&block.name), broken.path().join(&block.name)).unwrap();
    let second = written.files.iter().find(|file| file.name.starts_with("model-block-00001")).unwrap();
    let mut damaged = std::fs::read(whole.path().join(&second.name)).unwrap();
    damaged.pop();
    std::fs::write(broken.path().join(&second.name), damaged).unwrap();
    std::fs::write(broken.path().join(".writing.tmp"), b"half").unwrap();
    std::fs::write(broken.path().join("model-block-00001-0123456789abcdef.safetensors"), b"of another run").unwrap();

    let parsed = parse(&config()).unwrap();
    let mut writer = CheckpointWriter::create(broken.path(), &config()).unwrap();
    let inputs =
        Grid::new(scheme.input_activations.as_ref().unwrap(), StorageDtype::F32, Conventions::default()).unwrap();
    for linear in parsed.linears() {
        writer.put_input_quantizer(&linear.name, &inputs).unwrap();
    }
    assert_eq!(writer.resume(1).unwrap(), [0]);
    for (seed, spec) in parsed.tensors().into_iter().enumerate() {
        let module = spec.name.trim_end_matches(".weight");
        let done = spec.name.contains("layers.0.");
        let result = match codes.get(module) {
            Some(codes) => writer.put_quantized(module, &codes.grid, &codes.codes, &codes.parameters),
            None => {
                let data = f32_bytes(&values(seed, spec.shape.iter().product()));
                writer.put_dense(&spec.name, Dtype::F32, &spec.shape, &data)
            }
        };
        assert_eq!(result.is_err(), done, "{}", spec.name);
    }
    assert_eq!(writer.finish().unwrap(), written);
    compare(broken.path(), &codes);
    let mut names =
        std::fs::read_dir(broken.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, written.files.iter().map(|file| file.name.as_str().into()).collect::<Vec<std::ffi::OsString>>());
}

#[test]
fn mistakes_of_the_caller_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let writer = || CheckpointWriter::create(folder.path(), &config()).unwrap();
    let message = |result: Result<(), ModelError>| result.unwrap_err().to_string();
    let norm = "model.norm.weight";
    let zeros = vec![0; 64 * 4];
    assert_holds(&message(writer().put_dense("nonsense", Dtype::F32, &[64], &zeros)), &["nonsense", "no such tensor"]);
    assert_holds(&message(writer().put_dense(norm, Dtype::F32, &[32], &zeros)), &[norm, "[32]", "[64]"]);
    assert_holds(&message(writer().put_dense(norm, Dtype::F32, &[64], &zeros[1..])), &[norm, "255 bytes"]);
    assert_holds(&message(writer().put_dense(norm, Dtype::I32, &[64], &zeros)), &[norm, "I32"]);
    let mut twice = writer();
    twice.put_dense(norm, Dtype::F32, &[64], &zeros).unwrap();
    assert_holds(&message(twice.put_dense(norm, Dtype::F32, &[64], &zeros)), &[norm, "put before"]);
    assert_holds(&twice.finish().unwrap_err().to_string(), &["was not put"]);

    let module = "model.layers.0.mlp.up_proj";
    let args = scheme(json!({"scheme": "W8A16", "strategy": "channel"})).weights.unwrap();
    let good = quantize(&values(1, 96 * 64), 96, 64, &args, Conventions::default());
    let put =
        |codes: &[i8], parameters: &QuantParams| message(writer().put_quantized(module, &good.grid, codes, parameters));
    assert_holds(&put(&good.codes[1..], &good.parameters), &[module, "6143 codes"]);
    let mut unrounded = good.parameters.clone();
    unrounded.scales[0] = 0.1;
    assert_holds(&put(&good.codes, &unrounded), &[module, "bfloat16"]);
    let mut misshapen = good.parameters.clone();
    misshapen.shape = [1, 96];
    assert_holds(&put(&good.codes, &misshapen), &[module, "[1, 96]"]);
    let four = scheme(json!({"scheme": "W4A16", "strategy": "channel"})).weights.unwrap();
    let four = Grid::new(&four, StorageDtype::Bf16, Conventions::default()).unwrap();
    assert_holds(
        &message(writer().put_quantized(module, &four, &good.codes, &good.parameters)),
        &[module, "outside -8 to 7"],
    );
    let embedding = message(writer().put_quantized("model.embed_tokens", &good.grid, &good.codes, &good.parameters));
    assert_holds(&embedding, &["embed_tokens", "6144 codes"]);
    let norm = message(writer().put_quantized("model.norm", &good.grid, &good.codes, &good.parameters));
    assert_holds(&norm, &["model.norm.weight", "only linears and embeddings can be quantized"]);

    let inputs = Grid::new(
        scheme(json!("W8A8_STATIC")).input_activations.as_ref().unwrap(),
        StorageDtype::F32,
        Conventions::default(),
    )
    .unwrap();
    let scale = inputs.parameters_from_range(&[-1.0], &[1.0]).unwrap();
    assert_holds(&message(writer().put_input_scale(module, &scale)), &[module, "not declared"]);
    let mut late = writer();
    late.put_quantized(module, &good.grid, &good.codes, &good.parameters).unwrap();
    assert_holds(&message(late.put_input_quantizer(module, &inputs)), &[module, "before the weight"]);
    let by_head = workbench_quant::kv_cache_args(&json!({"num_bits": 4, "strategy": "attn_head"})).unwrap();
    let by_head = Grid::new(&by_head, StorageDtype::F32, Conventions::default()).unwrap();
    let one = by_head.of_heads(8).parameters_from_range(&[-1.0], &[1.0]).unwrap();
    assert_holds(&message(writer().put_kv_scales(0, &one, &one)), &["k_scale", "not declared"]);
    let mut cached = writer();
    cached.put_kv_cache(&by_head);
    assert_holds(&message(cached.put_kv_scales(0, &one, &one)), &["k_scale", "expected 2"]);
    assert!(!folder.path().join("config.json").exists());
}
