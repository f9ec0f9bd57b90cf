//! Weights in training on their grids: what is computed, what gradients pass, what is handed out.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use workbench_model::config::Architecture;
use workbench_model::decoder::{
    FakeQuantizedParams, Gradients, GridQuantizer, LEAST_SHARE, LossOptions, Targets, TrainableParams, WeightQuantizer,
    WeightScales, loss_and_gradients,
};
use workbench_model::{Context, Decoder, ModelConfig, WeightSource};
use workbench_quant::{Conventions, Grid, Matrix, QuantParams, QuantizationArgs, StorageDtype};

use crate::support::{Weights, random_ids, tiny};

fn grid(args: &Value, stored: StorageDtype) -> Grid {
    let args: QuantizationArgs = serde_json::from_value(args.clone()).unwrap();
    Grid::new(&args, stored, Conventions::default()).unwrap()
}

fn schemes() -> Vec<Value> {
    vec![
        json!({"num_bits": 3, "strategy": "group", "group_size": 4}),
        json!({"num_bits": 4, "symmetric": false, "strategy": "channel"}),
        json!({"num_bits": 8, "strategy": "tensor"}),
        json!({"num_bits": 8, "type": "float", "strategy": "channel"}),
        json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 4}),
    ]
}

fn parameters_of(grid: &Grid, parameters: &TrainableParams, name: &str) -> QuantParams {
    let shape = parameters.shape(name).unwrap();
    grid.parameters(Matrix::new(&parameters.values(name).unwrap(), shape[0], shape[1]).unwrap()).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Dynamic,
    Follow,
    /// Scales of two thirds of those of the weights, so that values are clipped; gradients stop there.
    Frozen,
    Learned,
}

/// All linears of the blocks on a grid; with learned scales their variables join the parameters.
fn quantizers(
    config: &ModelConfig,
    parameters: &mut TrainableParams,
    grid: &Grid,
    mode: Mode,
) -> BTreeMap<String, WeightQuantizer> {
    let mut all = BTreeMap::new();
    for linear in config.linears() {
        let weight = linear.weight();
        let mut start = parameters_of(grid, parameters, &weight);
        start.scales.iter_mut().for_each(|scale| *scale = grid.round_scale(*scale * 0.66));
        let scales = match mode {
            Mode::Dynamic => WeightScales::Dynamic,
            Mode::Follow => WeightScales::Follow,
            Mode::Frozen => WeightScales::Frozen(start),
            Mode::Learned => {
                let name = format!("{}.weight_scale", linear.name);
                let values = Tensor::from_vec(start.scales.clone(), &start.shape, &Device::Cpu).unwrap();
                parameters.insert(&name, &values).unwrap();
                WeightScales::Learned { name, start, zero_points: None, lsq_factor: true }
            }
        };
        let stops_at_clipped = matches!(mode, Mode::Frozen | Mode::Learned);
        all.insert(weight, WeightQuantizer { grid: grid.clone(), scales, stops_at_clipped });
    }
    all
}

/// Gradients of a next-token loss through a decoder whose inputs are rounded as well.
fn gradients(decoder: &mut Decoder, parameters: &TrainableParams, checkpointing: bool) -> (f64, Gradients) {
    let config = decoder.config().clone();
    let rows: Vec<Vec<u32>> = (0..2).map(|seed| random_ids(&config, 13, 60 + seed)).collect();
    let input = grid(&json!({"num_bits": 8, "strategy": "token", "dynamic": true}), StorageDtype::F32);
    for linear in config.linears() {
        let quantizer = GridQuantizer::new(input.clone(), None, linear.in_features).unwrap();
        decoder.set_input_quantizer(&linear.name, Some(Arc::new(quantizer))).unwrap();
    }
    let ids = Tensor::from_vec(rows.concat(), (2, 13), &Device::Cpu).unwrap();
    let targets = Targets::next_token(&rows, &[vec![true; 13], vec![true; 13]]);
    let mut found = Gradients::default();
    let options = LossOptions { gradient_checkpointing: checkpointing, chunk: 7 };
    let context = Context::full(2, 13, None);
    let loss = loss_and_gradients(decoder, parameters, &ids, &context, &targets, options, &mut found).unwrap();
    (loss, found)
}

/// The reference: a model whose weights are the rounded numbers themselves, whose gradients are held to finite differences elsewhere.
#[test]
fn gradients_are_those_by_the_rounded_weights_with_what_the_grid_adds() {
    let config = tiny(Architecture::Qwen3);
    let weights = Weights::random(&config, 31);
    for scheme in schemes() {
        for mode in [Mode::Dynamic, Mode::Follow, Mode::Frozen, Mode::Learned] {
            let grid = grid(&scheme, StorageDtype::Bf16);
            if grid.args().is_mx() && matches!(mode, Mode::Learned | Mode::Follow) {
                continue;
            }
            let mut parameters = TrainableParams::load(&config, &weights, &Device::Cpu).unwrap();
            let quantizers = quantizers(&config, &mut parameters, &grid, mode);
            let source = FakeQuantizedParams::new(&parameters, quantizers).unwrap();
            let plain = TrainableParams::load(&config, &weights, &Device::Cpu).unwrap();
            for linear in config.linears() {
                plain.set(&linear.weight(), source.quantized(&linear.weight()).unwrap().dequantize().unwrap()).unwrap();
            }
            let (expected_loss, expected) = gradients(&mut Decoder::over(&config, &plain).unwrap(), &plain, false);
            let (loss, found) = gradients(&mut Decoder::over(&config, &source).unwrap(), &parameters, false);
            let title = format!("{scheme} {mode:?}");
            assert_eq!(loss.to_bits(), expected_loss.to_bits(), "{title}");
            let (again, checkpointed) = gradients(&mut Decoder::over(&config, &source).unwrap(), &parameters, true);
            assert_eq!(again.to_bits(), loss.to_bits(), "{title}");
            for (name, var) in parameters.iter() {
                let values = |gradients: &Gradients, name| gradients.read(name, <[f32]>::to_vec).unwrap().unwrap();
                let own = values(&found, name);
                assert_eq!(own, values(&checkpointed, name), "{title}: {name}");
                let Some(module) = name.strip_suffix(".weight_scale") else {
                    let g = values(&expected, name);
                    assert_eq!(own, passed(&source, &parameters, &grid, mode, name, &g), "{title}: {name}");
                    continue;
                };
                let weight = format!("{module}.weight");
                let (x, rounded) = (parameters.values(&weight).unwrap(), plain.values(&weight).unwrap());
                let shape = parameters.shape(&weight).unwrap();
                let used = source.quantized(&weight).unwrap().parameters;
                let g = values(&expected, &weight);
                let mut stopped = vec![0.0; g.len()];
                grid.straight_through(&x, shape[0], shape[1], &used, &g, &mut stopped).unwrap();
                let by_scale = grid.scale_gradient(&x, &rounded, &used, &g, &stopped, [shape[0], shape[1]]).unwrap();
                let factor = 1.0 / ((x.len() / var.elem_count()) as f64 * grid.largest_code()).sqrt();
                for (own, by_scale) in own.iter().zip(by_scale) {
                    assert!(
                        (f64::from(*own) - f64::from(by_scale) * factor).abs()
                            <= 1e-6 * (1.0 + f64::from(by_scale).abs()),
                        "{title}: {name}"
                    );
                }
            }
        }
    }
}

/// What the grid makes of a gradient by the rounded weight.
fn passed(
    source: &FakeQuantizedParams<'_>,
    parameters: &TrainableParams,
    grid: &Grid,
    mode: Mode,
    name: &str,
    g: &[f32],
) -> Vec<f32> {
    let Ok(made) = source.quantized(name) else { return g.to_vec() };
    let (x, [rows, columns]) = (parameters.values(name).unwrap(), made.shape);
    let mut by_x = g.to_vec();
    match mode {
        Mode::Dynamic => {}
        Mode::Follow => {
            for (at, term) in grid.range_terms(&x, &made.dequantize().unwrap(), g, [rows, columns]).unwrap() {
                by_x[at] += term;
            }
        }
        Mode::Frozen | Mode::Learned => {
            grid.straight_through(&x, rows, columns, &made.parameters, g, &mut by_x).unwrap();
            assert!(by_x.iter().zip(g).any(|(a, b)| a != b) || grid.args().num_bits == 8, "nothing is clipped");
        }
    }
    by_x
}

/// A learned scale is stored rounded, and one that fell below zero is the least there is, and falls no further: what is multiplied is
/// what is handed out.
#[test]
fn learned_scales_are_used_as_they_are_stored() {
    let config = tiny(Architecture::Qwen3);
    let weights = Weights::random(&config, 31);
    let grid = grid(&schemes()[0], StorageDtype::Bf16);
    let mut parameters = TrainableParams::load(&config, &weights, &Device::Cpu).unwrap();
    let quantizers = quantizers(&config, &mut parameters, &grid, Mode::Learned);
    let source = FakeQuantizedParams::new(&parameters, quantizers).unwrap();
    let module = config.linears()[2].name.clone();
    let scales = format!("{module}.weight_scale");
    let begun = parameters.values(&scales).unwrap();
    parameters
        .update(&scales, |values| {
            values[0] = 0.123_456_7;
            values[1] = -0.5;
        })
        .unwrap();
    let made = source.quantized(&format!("{module}.weight")).unwrap();
    made.check().unwrap();
    assert_eq!(f64::from(made.parameters.scales[0]), 0.123_535_156_25);
    let least = begun[1] * LEAST_SHARE;
    assert!((made.parameters.scales[1] - least).abs() <= least * 0.004, "{} for {least}", made.parameters.scales[1]);
    let (_, found) = gradients(&mut Decoder::over(&config, &source).unwrap(), &parameters, false);
    let gradient = found.read(&scales, <[f32]>::to_vec).unwrap().unwrap();
    assert!(gradient[1] <= 0.0 && gradient.iter().any(|gradient| *gradient > 0.0), "{gradient:?}");
}

#[test]
fn grids_that_do_not_fit_are_refused_by_name() {
    let config = tiny(Architecture::Qwen3);
    let parameters = TrainableParams::load(&config, &Weights::random(&config, 31), &Device::Cpu).unwrap();
    let weight = config.linears()[0].weight();
    let refused = |name: &str, args: &Value, scales: WeightScales| {
        let quantizer = WeightQuantizer { grid: grid(args, StorageDtype::F32), scales, stops_at_clipped: false };
        FakeQuantizedParams::new(&parameters, BTreeMap::from([(name.to_owned(), quantizer)])).err().unwrap().to_string()
    };
    let args = json!({"num_bits": 4, "strategy": "group", "group_size": 7});
    assert!(refused(&weight, &args, WeightScales::Dynamic).contains(&weight));
    assert!(refused("nothing.weight", &args, WeightScales::Dynamic).contains("no such weight"));
    let scales = WeightScales::Learned {
        name: "scales".into(),
        start: QuantParams::default(),
        zero_points: None,
        lsq_factor: false,
    };
    assert!(refused(&weight, &json!({"num_bits": 4, "strategy": "channel"}), scales).contains("scales"));
}
