//! Observers against those of llm-compressor.

use std::path::Path;

use serde_json::{Value, json};
use workbench_quant::observer::for_activations;

use crate::fixtures::{Fixture, grid, matrix};

fn observers() -> Fixture {
    Fixture::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/observers.safetensors"))
}

#[test]
fn the_range_of_least_error_is_that_of_llm_compressor() {
    let (golden, w) = (observers(), Fixture::bundled().get("W").values);
    let nvfp4 = |observer: &str| -> Value {
        json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "observer": observer})
    };
    for (name, json) in [
        ("w4_sym_g128.mse", json!({"num_bits": 4, "group_size": 128, "observer": "mse"})),
        ("w3_asym_g32.mse", json!({"num_bits": 3, "symmetric": false, "group_size": 32, "observer": "mse"})),
        ("w8_sym_channel.mse", json!({"num_bits": 8, "strategy": "channel", "observer": "mse"})),
        ("w4_asym_channel.mse", json!({"num_bits": 4, "symmetric": false, "strategy": "channel", "observer": "mse"})),
        ("w4_sym_tensor.mse", json!({"num_bits": 4, "strategy": "tensor", "observer": "mse"})),
        ("fp8_channel.mse", json!({"num_bits": 8, "type": "float", "strategy": "channel", "observer": "mse"})),
        ("nvfp4.mse", nvfp4("mse")),
        ("nvfp4.nvfp4_expanded_mse", nvfp4("nvfp4_expanded_mse")),
    ] {
        let p = grid(json).parameters(matrix(&w, 48, 256)).unwrap();
        let expected = golden.get(&format!("mse.{name}")).values;
        assert_eq!(p.scales.len(), expected.len(), "{name}");
        let differing = p.scales.iter().zip(&expected).filter(|(found, expected)| found != expected).count();
        assert_eq!(differing, 0, "{name}: of {} scales", expected.len());
    }
}

#[test]
fn ranges_of_activations_over_batches_are_those_of_llm_compressor() {
    let (golden, x) = (observers(), Fixture::bundled().get("x").values);
    let grid = grid(json!({"num_bits": 8, "strategy": "tensor"}));
    for name in ["minmax", "static_minmax", "mse"] {
        let mut observer = for_activations(&grid, name).unwrap();
        let mut found = Vec::new();
        for batch in x.chunks(8 * 256) {
            observer.observe(matrix(batch, 8, 256)).unwrap();
            let (min, max) = observer.range().unwrap();
            found.extend([min[0], max[0]]);
        }
        assert_eq!(found, golden.get(&format!("activation.{name}")).values, "{name}");
    }
}

#[test]
fn observers_of_activations_gather_ranges() {
    let grid = grid(json!({"num_bits": 8, "strategy": "tensor"}));
    let batches = [[-1.0, 0.5, 2.0, 0.0], [-3.0, 1.0, 0.0, 0.5], [0.25, 0.5, 0.75, 1.0]];
    let range = |name: &str| {
        let mut observer = for_activations(&grid, name).unwrap();
        assert_eq!(observer.range(), None);
        for batch in &batches {
            observer.observe(matrix(batch, 2, 2)).unwrap();
        }
        observer.observe(matrix(&[], 0, 2)).unwrap();
        let (min, max) = observer.range().unwrap();
        (min[0], max[0])
    };
    assert_eq!(range("static_minmax"), (-3.0, 2.0));
    assert_eq!(range("memoryless_minmax"), (0.25, 1.0));
    let average =
        |start: f32, values: [f32; 2]| values.iter().fold(start, |mean, value| mean * 0.99f32 + value * 0.01f32);
    assert_eq!(range("minmax"), (average(-1.0, [-3.0, 0.25]), average(2.0, [1.0, 1.0])));
    let mse = range("mse");
    assert!(mse.0 <= -0.8 && mse.1 <= 2.0 && mse.1 > 1.5, "{mse:?}");

    let mut observer = for_activations(&grid, "static_minmax").unwrap();
    assert!(observer.observe(matrix(&[0.0, f32::NAN], 1, 2)).is_err());
    let grouped = crate::fixtures::grid(json!({"num_bits": 8, "group_size": 2}));
    let mut observer = for_activations(&grouped, "static_minmax").unwrap();
    observer.observe(matrix(&[1.0, -2.0, 3.0, 0.0, 5.0, 1.0, -1.0, 0.5], 2, 4)).unwrap();
    assert_eq!(observer.range(), Some((vec![-2.0, -1.0], vec![5.0, 3.0])));
    let p = grouped.parameters_from_range(&[-2.0, -1.0], &[5.0, 3.0]).unwrap();
    assert_eq!((p.scales, p.shape), (vec![5.0 / 127.5, 3.0 / 127.5], [1, 2]));
    assert!(observer.observe(matrix(&[1.0, 2.0], 1, 2)).is_err(), "another number of features");
}
