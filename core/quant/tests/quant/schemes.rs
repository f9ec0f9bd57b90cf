//! Arguments, presets, overrides, and the errors of what contradicts itself.

use serde_json::{Value, json};
use workbench_quant::{
    ArgsError, Conventions, Dynamic, Format, Grid, QuantizationArgs, ScaleDtype, Scheme, StorageDtype, Strategy,
    kv_cache_args, preset, preset_names,
};

fn scheme(value: Value) -> Scheme {
    Scheme::from_value(&value).unwrap()
}

fn error(value: Value) -> ArgsError {
    Scheme::from_value(&value).unwrap_err()
}

fn weights(scheme: &Scheme) -> &QuantizationArgs {
    scheme.weights.as_ref().unwrap()
}

#[test]
fn presets_are_those_of_the_ecosystem() {
    let described = |name: &str| -> [String; 2] {
        let scheme = preset(name).unwrap();
        [scheme.weights, scheme.input_activations].map(|args| args.map_or("-".into(), |args| args.to_string()))
    };
    for (name, weights, inputs) in [
        ("W4A16", "int4 symmetric group 128", "-"),
        ("W2A16", "int2 symmetric group 128", "-"),
        ("W3A16", "int3 symmetric group 128", "-"),
        ("W8A16", "int8 symmetric group 128", "-"),
        ("W4A16_ASYM", "int4 asymmetric group 128", "-"),
        ("W8A8", "int8 symmetric channel", "int8 symmetric token dynamic"),
        ("INT8", "int8 symmetric channel", "int8 symmetric token dynamic"),
        ("W8A8_STATIC", "int8 symmetric channel", "int8 symmetric tensor"),
        ("W4A8", "int4 symmetric group 128", "int8 symmetric token dynamic"),
        ("W4A4", "int4 symmetric group 128", "int4 symmetric token dynamic"),
        ("W4AFP8", "int4 symmetric group 128", "fp8 token dynamic"),
        ("FP8", "fp8 tensor", "fp8 tensor"),
        ("FP8_DYNAMIC", "fp8 channel", "fp8 token dynamic"),
        ("FP8_BLOCK", "fp8 block 128x128", "fp8 group 128 dynamic"),
        ("MXFP4", "mxfp4 group 32", "mxfp4 group 32 dynamic"),
        ("MXFP4A16", "mxfp4 group 32", "-"),
        ("MXFP8", "mxfp8 group 32", "mxfp8 group 32 dynamic"),
        ("NVFP4", "fp4 tensor_group 16", "fp4 tensor_group 16 dynamic local"),
        ("NVFP4A16", "fp4 tensor_group 16", "-"),
    ] {
        assert_eq!(described(name), [weights, inputs], "{name}");
    }
    for name in preset_names() {
        let scheme = preset(name).unwrap();
        scheme.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(preset(&name.to_lowercase()), Some(scheme.clone()), "{name}");
        let text = serde_json::to_string(&scheme).unwrap();
        assert_eq!(serde_json::from_str::<Scheme>(&text).unwrap(), scheme, "{text}");
    }
    assert_eq!(preset("W4A17"), None);
}

#[test]
fn presets_equal_those_of_compressed_tensors() {
    let golden: Value = serde_json::from_str(include_str!("../golden/presets.json")).unwrap();
    let theirs = golden["presets"].as_object().unwrap();
    // Nothing to quantize is no scheme here.
    for (name, theirs) in theirs.iter().filter(|(name, _)| *name != "UNQUANTIZED") {
        let ours = serde_json::to_value(preset(name).unwrap_or_else(|| panic!("no preset {name}"))).unwrap();
        for key in ["weights", "input_activations", "output_activations", "format"] {
            assert_eq!(ours[key], theirs[key], "{name}: {key}");
        }
    }
    let own: Vec<&str> = preset_names().filter(|name| !theirs.contains_key(*name)).collect();
    assert_eq!(own, ["W8A8_STATIC", "MXFP4_MLP_WEIGHT_ONLY"]);
    let mlp = preset("MXFP4_MLP_WEIGHT_ONLY").unwrap();
    assert_eq!((mlp.targets, mlp.weights), (vec!["*.mlp.*".to_owned()], preset("MXFP4A16").unwrap().weights));
}

#[test]
fn formats_follow_from_the_arguments() {
    for (name, format) in [
        ("W4A16", Format::PackQuantized),
        ("W8A8", Format::IntQuantized),
        ("W4A8", Format::IntQuantized),
        ("FP8", Format::FloatQuantized),
        ("MXFP4", Format::MxFp4PackQuantized),
        ("MXFP8", Format::MxFp8Quantized),
        ("NVFP4", Format::NvFp4PackQuantized),
    ] {
        assert_eq!(preset(name).unwrap().inferred_format(), format, "{name}");
    }
    assert_eq!(serde_json::to_value(Format::NvFp4PackQuantized).unwrap(), "nvfp4-pack-quantized");
}

#[test]
fn a_preset_takes_overrides() {
    let small = scheme(json!({"scheme": "W4A16", "group_size": 32, "ignore": ["*.down_proj"]}));
    assert_eq!(weights(&small).to_string(), "int4 symmetric group 32");
    assert_eq!(small.ignore, ["*.down_proj"]);
    assert_eq!(weights(&scheme(json!({"scheme": "w4a16", "group_size": -1}))).strategy, Strategy::Channel);
    let by_row = scheme(json!({"scheme": "W4A16", "strategy": "channel"}));
    assert_eq!(weights(&by_row).to_string(), "int4 symmetric channel");
    let grouped = scheme(json!({"scheme": "W8A8", "strategy": "group", "group_size": 64}));
    assert_eq!(weights(&grouped).to_string(), "int8 symmetric group 64");
    let searched = scheme(json!({"scheme": "W4A16", "observer": "mse", "observer_kwargs": {"norm": 2}}));
    assert_eq!(weights(&searched).observer.as_deref(), Some("mse"));
    let nested = scheme(json!({"scheme": "W8A8", "input_activations": {"symmetric": false}}));
    assert_eq!(nested.input_activations.unwrap().to_string(), "int8 asymmetric token dynamic");
    let weight_only = scheme(json!({"scheme": "W8A8", "input_activations": null}));
    assert_eq!((weight_only.input_activations.is_none(), weight_only.inferred_format()), (true, Format::PackQuantized));
    let full = scheme(json!({"weights": {"num_bits": 3, "group_size": 64, "symmetric": false}}));
    assert_eq!(weights(&full).to_string(), "int3 asymmetric group 64");
    let inputs = scheme(json!({"input_activations": {"strategy": "token", "dynamic": true}}));
    assert_eq!(inputs.inferred_format(), Format::Dense);
}

#[test]
fn contradictions_name_the_key_and_the_way_out() {
    for (value, key, message, hint) in [
        (json!("W4A15"), "scheme", "unknown scheme `W4A15`", "W4A16"),
        (json!(4), "scheme", "a scheme is a name or an object, not 4", "W4A16"),
        (json!({}), "scheme", "quantizes nothing", "preset"),
        (json!({"scheme": "W4A16", "groupsize": 32}), "groupsize", "unknown key `groupsize`", "group_size"),
        (
            json!({"scheme": "W4A16", "weights": {"bits": 3}}),
            "weights.bits",
            "unknown quantization argument `bits`",
            "num_bits",
        ),
        (
            json!({"scheme": "W8A8", "group_size": 64}),
            "weights.group_size",
            "group_size 64 has no meaning for strategy `channel`",
            "group",
        ),
        (json!({"scheme": "W4A16", "group_size": 0}), "weights.group_size", "positive number", ""),
        (json!({"scheme": "W4A16", "num_bits": 9}), "weights.num_bits", "no integer grid has 9 bits", "2 to 8"),
        (json!({"scheme": "FP8", "symmetric": false}), "weights.symmetric", "no zero-point", "int"),
        (json!({"scheme": "FP8", "num_bits": 6}), "weights.num_bits", "no floating-point grid has 6 bits", "FP8"),
        (json!({"scheme": "MXFP4", "group_size": 64}), "weights.scale_dtype", "MX formats", "group_size: 32"),
        (
            json!({"scheme": "W4A16", "strategy": "block"}),
            "weights.block_structure",
            "needs a block_structure",
            "[128, 128]",
        ),
        (json!({"scheme": "W4A16", "strategy": "token"}), "weights.dynamic", "cannot be static", "dynamic"),
        (
            json!({"weights": {"strategy": "token", "dynamic": true}}),
            "weights.strategy",
            "does not apply to weights",
            "channel",
        ),
        (json!({"weights": {"strategy": "tensor", "dynamic": true}}), "weights.dynamic", "cannot be dynamic", "leave"),
        (
            json!({"scheme": "W8A8", "input_activations": {"dynamic": false}}),
            "input_activations.dynamic",
            "cannot be static",
            "tensor",
        ),
        (
            json!({"scheme": "W8A8", "input_activations": {"strategy": "channel"}}),
            "input_activations.dynamic",
            "cannot be dynamic",
            "token",
        ),
        (
            json!({"scheme": "W8A8", "input_activations": {"actorder": "static"}}),
            "input_activations.actorder",
            "orders the columns",
            "weights",
        ),
        (
            json!({"scheme": "W8A8", "input_activations": {"dynamic": "local"}}),
            "input_activations.dynamic",
            "local",
            "tensor_group",
        ),
        (json!({"scheme": "W4A16", "actorder": "group"}), "weights.actorder", "is not supported", ""),
        (json!({"scheme": "W4A16", "observer": "msee"}), "weights.observer", "unknown observer `msee`", "mse"),
        (
            json!({"scheme": "W4A16", "observer": "mse", "observer_kwargs": {"max_shrink": 0.5}}),
            "weights.observer_kwargs.max_shrink",
            "unknown option",
            "maxshrink",
        ),
        (
            json!({"scheme": "W4A16", "observer_kwargs": {"norm": 100}}),
            "weights.observer_kwargs.norm",
            "between 0.5 and 8",
            "",
        ),
        (json!({"scheme": "W4A16", "format": "float-quantized"}), "format", "cannot hold", "pack-quantized"),
        (json!({"scheme": "W4A16", "format": "mixed-precision"}), "format", "several schemes", "leave"),
        (json!({"scheme": "W4A16", "ignore": "lm_head"}), "ignore", "`ignore`", ""),
    ] {
        let text = value.to_string();
        let error = error(value);
        let found = error.hint.clone().unwrap_or_default();
        assert_eq!(error.key, key, "{text}: {error:?}");
        assert!(error.message.contains(message), "{text}: {error:?}");
        assert!(found.contains(hint), "{text}: {error:?}");
    }
}

#[test]
fn a_kv_cache_has_arguments_of_its_own() {
    let read = |value: Value| kv_cache_args(&value);
    assert_eq!(read(json!({"num_bits": 8, "type": "float"})).unwrap().to_string(), "fp8 tensor");
    assert_eq!(read(json!({"num_bits": 4, "strategy": "attn_head"})).unwrap().strategy, Strategy::AttnHead);
    assert_eq!(
        read(json!({"group_size": 64, "dynamic": true})).unwrap().to_string(),
        "int8 symmetric group 64 dynamic"
    );
    for (value, key, message) in [
        (json!("FP8"), "kv_cache_scheme", "an object or null"),
        (Value::Null, "kv_cache_scheme", "no quantization arguments"),
        (json!({"bits": 8}), "kv_cache_scheme.bits", "unknown quantization argument"),
        (json!({"num_bits": 9}), "kv_cache_scheme.num_bits", "9 bits"),
        (json!({"strategy": "token", "dynamic": true}), "kv_cache_scheme.strategy", "later tokens"),
        (json!({"strategy": "channel"}), "kv_cache_scheme.strategy", "no static scales"),
        (json!({"actorder": "static"}), "kv_cache_scheme.actorder", "orders the columns"),
    ] {
        let error = read(value.clone()).unwrap_err();
        assert_eq!(error.key, key, "{value}: {error:?}");
        assert!(error.message.contains(message), "{value}: {error:?}");
    }
}

#[test]
fn one_scale_a_head_is_one_a_group_of_all_heads() {
    let args: QuantizationArgs = serde_json::from_value(json!({"num_bits": 4, "strategy": "attn_head"})).unwrap();
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap();
    let (heads, dim, tokens) = (3, 4, 5);
    let x: Vec<f32> =
        (0..tokens * heads * dim).map(|i| ((i * 37 % 23) as f32 - 11.3) * (1 + i / dim % heads) as f32).collect();
    let ranges: Vec<f32> = (0..heads).map(|head| 9.0 * (head + 1) as f32).collect();
    let low: Vec<f32> = ranges.iter().map(|range| -range).collect();
    let all = grid.of_heads(dim);
    let mut found = x.clone();
    all.fake_quantize(&mut found, tokens, heads * dim, &all.parameters_from_range(&low, &ranges).unwrap()).unwrap();
    let tensor = QuantizationArgs { strategy: Strategy::Tensor, ..args };
    let tensor = Grid::new(&tensor, StorageDtype::F32, Conventions::default()).unwrap();
    assert_eq!(tensor.of_heads(dim), tensor);
    for head in 0..heads {
        let scale = tensor.parameters_from_range(&[low[head]], &[ranges[head]]).unwrap();
        for token in 0..tokens {
            let place = (token * heads + head) * dim;
            let mut expected = x[place..place + dim].to_vec();
            tensor.fake_quantize(&mut expected, 1, dim, &scale).unwrap();
            assert_eq!(found[place..place + dim], expected, "head {head}, token {token}");
        }
    }
}

#[test]
fn arguments_are_read_as_checkpoints_spell_them() {
    let text = r#"{"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 128,
        "dynamic": false, "actorder": null, "block_structure": null, "scale_dtype": null, "zp_dtype": null,
        "observer": "memoryless_minmax", "observer_kwargs": {}}"#;
    let args: QuantizationArgs = serde_json::from_str(text).unwrap();
    assert_eq!(args.to_string(), "int4 symmetric group 128");
    let back = serde_json::to_value(&args).unwrap();
    assert_eq!(back, serde_json::from_str::<Value>(text).unwrap());
    let read = |value: Value| serde_json::from_value::<QuantizationArgs>(value);
    assert_eq!(read(json!({})).unwrap(), QuantizationArgs::default());
    assert_eq!(read(json!({"group_size": 64})).unwrap().strategy, Strategy::Group);
    assert_eq!(read(json!({"group_size": -1})).unwrap().strategy, Strategy::Channel);
    assert_eq!(read(json!({"actorder": false})).unwrap().actorder, None);
    assert!(read(json!({"actorder": true})).is_err());
    let nvfp4 = json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "dynamic": "local",
                       "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"});
    let nvfp4 = read(nvfp4).unwrap();
    assert_eq!((nvfp4.dynamic, nvfp4.scale_dtype), (Dynamic::Local, Some(ScaleDtype::F8E4M3)));
    let mx = json!({"num_bits": 8, "type": "float", "group_size": 32, "scale_dtype": "uint8"});
    assert_eq!(serde_json::to_value(read(mx).unwrap()).unwrap()["scale_dtype"], "torch.uint8");
    let block = json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": "128x64"});
    assert_eq!(read(block).unwrap().block_structure, Some([128, 64]));
    let unknown = read(json!({"num_bits": 4, "bits": 4})).unwrap_err().to_string();
    assert!(unknown.contains("unknown field `bits`"), "{unknown}");
    // A stored tensor can be read whatever observer made it.
    assert!(read(json!({"observer": "imatrix_mse"})).is_ok());
}
