//! Folders whose `lm_head` and embeddings are stored as codes, as compressed-tensors writes them.

use candle_core::{Device, Tensor};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;
use workbench_model::checkpoint::CheckpointWriter;
use workbench_model::config::{EMBEDDINGS, LM_HEAD};
use workbench_model::decoder::Embedding;
use workbench_model::{Checkpoint, WeightSource};
use workbench_quant::{Conventions, Grid, Scheme, StorageDtype};

use crate::common::{Tensors, assert_holds, f32_bytes, open_error, parse, tiny_config, tiny_tensors, write_model};

fn args(strategy: &str) -> Value {
    json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": strategy})
}

/// The tiny model with these groups: (targets, input activations).
fn config(tied: bool, groups: &[(&[&str], Value)]) -> Value {
    let group = |(i, (targets, inputs)): (usize, &(&[&str], Value))| {
        (format!("group_{i}"), json!({"targets": targets, "weights": args("channel"), "input_activations": inputs}))
    };
    let groups: serde_json::Map<String, Value> = groups.iter().enumerate().map(group).collect();
    let mut config = tiny_config();
    config["tie_word_embeddings"] = json!(tied);
    config["quantization_config"] = json!({"quant_method": "compressed-tensors", "format": "int-quantized",
        "quantization_status": "compressed", "ignore": ["re:model.layers.*"], "config_groups": groups});
    config
}

/// Codes of 32 x 16 that differ from row to row, and a scale for each row.
fn codes() -> (Vec<i8>, Vec<f32>) {
    let codes = (0..32 * 16).map(|i| (i * 31 % 255 - 127) as i8).collect();
    (codes, (1..=32).map(|row| row as f32 / 256.0).collect())
}

fn dequantized() -> Vec<f32> {
    let (codes, scales) = codes();
    codes.iter().enumerate().map(|(i, code)| f32::from(*code) * scales[i / 16]).collect()
}

/// The tensors of a configuration with codes in place of these modules' weights.
fn tensors(config: &Value, modules: &[&str]) -> Tensors {
    let mut tensors = tiny_tensors(config);
    let (codes, scales) = codes();
    for module in modules {
        let bytes = codes.iter().map(|code| code.cast_unsigned()).collect();
        tensors.insert(format!("{module}.weight"), (Dtype::I8, vec![32, 16], bytes));
        tensors.insert(format!("{module}.weight_scale"), (Dtype::F32, vec![32, 1], f32_bytes(&scales)));
    }
    tensors
}

fn folder(tied: bool, groups: &[(&[&str], Value)], modules: &[&str]) -> TempDir {
    let config = config(tied, groups);
    write_model(&config, &tensors(&config, modules))
}

#[test]
fn classes_are_those_of_the_modules() {
    for (targets, modules) in [
        (&["Linear"][..], &[LM_HEAD][..]),
        (&["Embedding"], &[EMBEDDINGS]),
        (&["Linear", "Embedding"], &[LM_HEAD, EMBEDDINGS]),
        (&["lm_head", "re:.*embed_tokens"], &[LM_HEAD, EMBEDDINGS]),
    ] {
        let folder = folder(false, &[(targets, Value::Null)], modules);
        let model = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(model.quantized_embeddings(), modules);
        for module in [LM_HEAD, EMBEDDINGS] {
            let values = model.values(&format!("{module}.weight")).unwrap();
            assert_eq!(values == dequantized(), modules.contains(&module), "{targets:?}: {module}");
        }
    }
}

#[test]
fn a_tied_table_of_codes_is_the_head_s_too() {
    let dynamic = json!({"num_bits": 8, "strategy": "token", "dynamic": true});
    let groups: [(&[&str], Value); 2] = [(&["Embedding"], Value::Null), (&["lm_head"], dynamic)];
    let folder = folder(true, &groups, &[EMBEDDINGS]);
    let model = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(model.quantized_embeddings(), [LM_HEAD, EMBEDDINGS]);
    assert!(model.input_quantizer(LM_HEAD).unwrap().is_some(), "the head's own scheme rounds its inputs");
    let rows = model.rows("model.embed_tokens.weight", &[9, 0, 9]).unwrap();
    let expected: Vec<f32> = [9, 0, 9].iter().flat_map(|row| dequantized()[row * 16..][..16].to_vec()).collect();
    assert_eq!(rows, expected);
    let found = Embedding::look_up(model.config(), &model, &[9, 0, 9], 1).unwrap();
    assert_eq!(found.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
    let whole = Embedding::load(model.config(), &model, &Device::Cpu).unwrap();
    let ids = Tensor::from_vec(vec![9_u32, 0, 9], (1, 3), &Device::Cpu).unwrap();
    assert_eq!(whole.forward(&ids).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
}

#[test]
fn ends_that_lie_are_refused_by_name() {
    let dynamic = json!({"num_bits": 8, "strategy": "token", "dynamic": true});
    let inputs = folder(false, &[(&["Embedding"], dynamic)], &[EMBEDDINGS]);
    assert_holds(&open_error(inputs.path()), &[EMBEDDINGS, "input_activations", "token ids"]);
    let unsaid = folder(false, &[(&["Linear"], Value::Null)], &[LM_HEAD, EMBEDDINGS]);
    assert_holds(&open_error(unsaid.path()), &[EMBEDDINGS, "I8"]);
    let groups: [(&[&str], Value); 2] = [(&["Embedding"], Value::Null), (&["lm_head"], Value::Null)];
    let mut config = config(true, &groups);
    config["quantization_config"]["config_groups"]["group_1"]["weights"] = args("tensor");
    let two = write_model(&config, &tensors(&config, &[EMBEDDINGS]));
    assert_holds(&open_error(two.path()), &[LM_HEAD, "otherwise than the embeddings", "tie_word_embeddings"]);
}

#[test]
fn embeddings_are_written_so_that_others_find_their_weight() {
    for (value, format, tensor) in [
        (json!({"scheme": "W8A16", "strategy": "channel"}), "int-quantized", "weight"),
        (json!({"scheme": "W4A16", "group_size": 16}), "pack-quantized", "weight_packed"),
        (json!({"scheme": "FP8_DYNAMIC", "input_activations": null}), "float-quantized", "weight"),
    ] {
        let mut source = tiny_config();
        source["torch_dtype"] = json!("float32");
        let scheme = Scheme::from_value(&value).unwrap();
        let grid = Grid::new(scheme.weights.as_ref().unwrap(), StorageDtype::Bf16, Conventions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::create(folder.path(), &source).unwrap();
        let weight = dequantized();
        let matrix = workbench_quant::Matrix::new(&weight, 32, 16).unwrap();
        let (codes, parameters) = grid.round_to_nearest(matrix).unwrap();
        assert!(writer.put_input_quantizer(EMBEDDINGS, &grid).is_err(), "embeddings have no inputs to round");
        writer.put_quantized(EMBEDDINGS, &grid, &codes, &parameters).unwrap();
        for spec in
            parse(&source).unwrap().tensors().into_iter().filter(|spec| writer.lacks(&spec.name)).collect::<Vec<_>>()
        {
            let bytes = vec![0; 4 * spec.shape.iter().product::<usize>()];
            writer.put_dense(&spec.name, workbench_model::checkpoint::Dtype::F32, &spec.shape, &bytes).unwrap();
        }
        writer.finish().unwrap();
        let model = Checkpoint::open(folder.path()).unwrap();
        let config = &model.config_json()["quantization_config"];
        let group = &config["config_groups"]["group_0"];
        assert_eq!((&group["targets"], &group["format"]), (&json!(["Embedding"]), &json!(format)));
        // Of the type of the scales: that of the embeddings that were.
        assert_eq!(model.config_json()["torch_dtype"], "bfloat16");
        let index = std::fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
        assert!(index.contains(&format!("\"{EMBEDDINGS}.{tensor}\"")), "{index}");
        let found = model.quantized_linear(EMBEDDINGS).unwrap().unwrap();
        assert_eq!((found.codes, found.parameters, found.grid), (codes, parameters, grid));
        assert!(model.quantized_linear(LM_HEAD).unwrap().is_none());
    }
}
