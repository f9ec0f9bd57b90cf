//! Weights of codes with variable scales: what is computed, what gradients pass, what is handed out.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use workbench_model::config::Architecture;
use workbench_model::decoder::{CodedParams, CodedWeight, Detached, LEAST_SHARE, LossOptions, TrainableParams};
use workbench_model::{Decoder, ModelConfig};
use workbench_quant::{Conventions, Grid, Matrix, QuantizationArgs, QuantizedWeight, StorageDtype};

use crate::gradients::Batch;
use crate::support::{Weights, tiny};

fn schemes() -> [Value; 5] {
    [
        json!({"num_bits": 2, "symmetric": false, "strategy": "group", "group_size": 4}),
        json!({"num_bits": 3, "strategy": "channel"}),
        json!({"num_bits": 8, "symmetric": false, "strategy": "tensor"}),
        json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [5, 7]}),
        json!({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 4}),
    ]
}

/// A model the linears of which are codes, and the same as numbers.
struct Case {
    parameters: TrainableParams,
    codes: BTreeMap<String, CodedWeight>,
    numbers: Weights,
}

impl Case {
    fn new(config: &ModelConfig, args: &Value, stored: StorageDtype) -> Self {
        let args: QuantizationArgs = serde_json::from_value(args.clone()).unwrap();
        let grid = Grid::new(&args, stored, Conventions::default()).unwrap();
        let mut numbers = Weights::random(config, 41);
        let is_linear = |name: &str| config.linears().iter().any(|linear| linear.weight() == name);
        let mut parameters =
            TrainableParams::load_where(config, &numbers, &Device::Cpu, |name| !is_linear(name)).unwrap();
        let names: Vec<String> = parameters.iter().map(|(name, _)| name.to_owned()).collect();
        assert!(!names.iter().any(|name| is_linear(name)) && names.len() + config.linears().len() == numbers.0.len());
        parameters.freeze(names.iter().map(String::as_str)).unwrap();
        let mut codes = BTreeMap::new();
        for linear in config.linears() {
            let (shape, values) = numbers.0.get_mut(&linear.weight()).unwrap();
            let matrix = Matrix::new(values, shape[0], shape[1]).unwrap();
            let start = QuantizedWeight::round_to_nearest(matrix, &grid).unwrap();
            *values = start.dequantize().unwrap();
            let scales = format!("{}.weight_scale", linear.name);
            let variable = Tensor::from_slice(&start.parameters.scales, &start.parameters.shape, &Device::Cpu).unwrap();
            parameters.insert(&scales, &variable).unwrap();
            codes.insert(linear.weight(), CodedWeight { scales, start });
        }
        Self { parameters, codes, numbers }
    }
}

/// The slow decoder in f64, of a model one of whose scales is a little larger or smaller. Norms of queries and keys would take back what
/// a scale of the whole tensor does.
#[test]
fn gradients_by_scales_are_those_of_finite_differences() {
    let config = tiny(Architecture::Llama);
    for scheme in schemes() {
        let Case { parameters, codes, mut numbers } = Case::new(&config, &scheme, StorageDtype::F32);
        let source = CodedParams::new(&parameters, codes.clone()).unwrap();
        let decoder = Decoder::over(&config, &source).unwrap();
        let batch = Batch::new(&config);
        let (loss, found) = batch.run(&decoder, &parameters, LossOptions::default());
        assert!((loss / batch.exact_loss(&config, &numbers) - 1.0).abs() < 1e-6, "{scheme}");
        let checkpointed = LossOptions { gradient_checkpointing: true, chunk: 5 };
        let chunked = LossOptions { gradient_checkpointing: false, chunk: 5 };
        let (again, other) =
            (batch.run(&decoder, &parameters, checkpointed), batch.run(&decoder, &parameters, chunked));
        assert_eq!(again.0.to_bits(), other.0.to_bits(), "{scheme}");
        assert_eq!(found.iter().count(), codes.len(), "gradients of scales alone");
        for (name, CodedWeight { scales, start }) in &codes {
            let gradient = found.read(scales, <[f32]>::to_vec).unwrap().unwrap();
            let bits = |found: &workbench_model::decoder::Gradients| found.read(scales, <[f32]>::to_vec).unwrap();
            assert_eq!(bits(&again.1), bits(&other.1), "{scheme}: {scales}");
            let most = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
            for index in [most, gradient.len() / 3] {
                let mut at = |factor: f32| {
                    let mut moved = start.clone();
                    moved.parameters.scales[index] *= factor;
                    numbers.0.get_mut(name).unwrap().1 = moved.dequantize().unwrap();
                    (batch.exact_loss(&config, &numbers), f64::from(moved.parameters.scales[index]))
                };
                let ((up, high), (down, low)) = (at(1.002), at(0.998));
                at(1.0);
                let slope = (up - down) / (high - low);
                let error = (f64::from(gradient[index]) - slope).abs() / f64::from(gradient[most].abs());
                assert!(error < 5e-4, "{scheme}: {scales}[{index}]: {} but {slope}", gradient[index]);
            }
        }
    }
}

#[test]
fn scales_are_used_as_they_are_stored_and_codes_stay() {
    let config = tiny(Architecture::Qwen3);
    let Case { parameters, codes, numbers } = Case::new(&config, &schemes()[0], StorageDtype::Bf16);
    let source = CodedParams::new(&parameters, codes.clone()).unwrap();
    for (name, weight) in &codes {
        assert_eq!(source.quantized(name).unwrap(), weight.start, "nothing was learned");
    }
    let batch = Batch::new(&config);
    let loss = |decoder: &Decoder, parameters: &TrainableParams| batch.run(decoder, parameters, LossOptions::default());
    let before = loss(&Decoder::over(&config, &source).unwrap(), &parameters).0;
    let plain = TrainableParams::load(&config, &numbers, &Device::Cpu).unwrap();
    let same = loss(&Decoder::over(&config, &plain).unwrap(), &plain).0;
    assert_eq!(before.to_bits(), same.to_bits());

    let weight = config.linears()[2].weight();
    let CodedWeight { scales, start } = &codes[&weight];
    let change = |values: &mut [f32]| (values[0], values[1]) = (0.123_456_7, -0.5);
    parameters.update(scales, change).unwrap();
    let made = source.quantized(&weight).unwrap();
    made.check().unwrap();
    assert_eq!((&made.codes, &made.parameters.zero_points), (&start.codes, &start.parameters.zero_points));
    assert_eq!(f64::from(made.parameters.scales[0]), 0.123_535_156_25);
    let least = start.parameters.scales[1] * LEAST_SHARE;
    assert!((made.parameters.scales[1] - least).abs() <= least * 0.004, "{}", made.parameters.scales[1]);
    plain.set(&weight, made.dequantize().unwrap()).unwrap();
    let expected = loss(&Decoder::over(&config, &plain).unwrap(), &plain).0;
    let (after, found) = loss(&Decoder::over(&config, &source).unwrap(), &parameters);
    assert!(after.to_bits() == expected.to_bits() && after != before);
    assert!(
        found.read(scales, |gradient| gradient[1] <= 0.0).unwrap().unwrap(),
        "a scale at its least falls no further"
    );
    // Without a graph the numbers are the same.
    let detached = Decoder::over(&config, &Detached(&source)).unwrap();
    let (again, none) = loss(&detached, &TrainableParams::load(&config, &numbers, &Device::Cpu).unwrap());
    assert!(again.to_bits() == after.to_bits() && none.iter().next().is_none());
}

#[test]
fn codes_that_do_not_fit_are_refused_by_name() {
    let config = tiny(Architecture::Qwen3);
    let weight = config.linears()[0].weight();
    let refused = |change: &dyn Fn(&mut Case)| {
        let mut case = Case::new(&config, &schemes()[0], StorageDtype::F32);
        change(&mut case);
        let Case { parameters, codes, .. } = case;
        CodedParams::new(&parameters, codes).err().unwrap().to_string()
    };
    let of_first = |case: &mut Case, change: fn(&mut CodedWeight)| change(case.codes.get_mut(&weight).unwrap());
    let message = refused(&|case| of_first(case, |weight| weight.scales = "other".into()));
    assert!(message.contains(&weight) && message.contains("`other` are None"), "{message}");
    let message = refused(&|case| of_first(case, |weight| weight.start.codes[3] = 4));
    assert!(message.contains(&weight) && message.contains("code 3 is 4"), "{message}");
    let message = refused(&|case| {
        let zeros = Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        case.parameters.insert(&weight, &zeros).unwrap();
    });
    assert!(message.contains("it is a variable too"), "{message}");
}
