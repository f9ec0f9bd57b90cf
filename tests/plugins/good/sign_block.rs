//! A quantizer at block scope: reads its inputs on both paths, puts codes and another tensor of the block.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;
use workbench_api::serde_json::{Value, json};
use workbench_test_plugins::{add_product, sign_grid, sign_quantize};

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {}

struct SignBlock;

fn linear(name: &str, grid: Value) -> Linear {
    let module = format!("model.layers.1.{name}");
    Linear { weight: format!("{module}.weight"), module, grid, ..Linear::default() }
}

impl Plugin for SignBlock {
    type Parameters = Parameters;
    const NAME: &'static str = "sign_block";
    const SUMMARY: &'static str = "Signs with the row scale that brings the quantized path nearest to the original one";
    const GRID_VERSION: u32 = workbench_quant::GRID_VERSION;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("inputs")
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let (query, output) = (linear("self_attn.q_proj", sign_grid()?), linear("self_attn.o_proj", Value::Null));
        let norm = "model.layers.1.input_layernorm.weight".to_owned();
        let mut model = ExampleModel::default();
        model.tensors.insert(query.weight.clone(), ExampleTensor::f32(&[1, 2], &[1.0, -1.0]));
        model.tensors.insert(output.weight.clone(), ExampleTensor::f32(&[2, 1], &[1.0, 1.0]));
        model.tensors.insert(norm.clone(), ExampleTensor::f32(&[2], &[1.0, 0.5]));
        let module = query.module.clone();
        let job = Job::Block(Block {
            block: 1,
            prefix: "model.layers.1".to_owned(),
            linears: vec![query, output],
            tensors: model.tensors.keys().cloned().collect(),
            batches: 2,
        });
        let mut example = Example::new("the quantized path has half the amplitude", job, model);
        // The masked token would spoil the result.
        let batch = |x: [f32; 2]| {
            BTreeMap::from([
                ("full_precision".to_owned(), ExampleTensor::f32(&[1, 2, 2], &[2.0 * x[0], 2.0 * x[1], 9.0, 9.0])),
                ("quantized".to_owned(), ExampleTensor::f32(&[1, 2, 2], &[x[0], x[1], 7.0, 0.0])),
                ("mask".to_owned(), ExampleTensor::integers(Dtype::U8, &[1, 2], &[1, 0])),
                ("positions".to_owned(), ExampleTensor::integers(Dtype::U32, &[1, 2], &[0, 1])),
            ])
        };
        example.streams.insert("inputs".to_owned(), vec![batch([1.0, 0.0]), batch([0.0, 1.0])]);
        example
            .expected
            .codes
            .insert(module, ExampleCodes { codes: vec![1, -1], scales: vec![2.0], zero_points: None });
        example.expected.tensors.insert(norm, ExampleTensor::f32(&[2], &[1.0, 0.5]));
        example.expected.facts.insert("tokens".to_owned(), json!(2));
        Ok(vec![example])
    }
}

impl BlockQuantizer for SignBlock {
    fn quantize_block(&self, block: &Block, host: &Host<'_>) -> Result<Facts, Error> {
        let linears: Vec<&Linear> = block.linears.iter().filter(|linear| !linear.grid.is_null()).collect();
        let (mut gram, mut cross, mut tokens) = (Vec::new(), Vec::new(), 0u64);
        // Twice over the inputs, to see that they can be had again.
        for pass in 0..2 {
            if pass == 1 {
                host.rewind("inputs")?;
            }
            (gram, cross, tokens) = (Vec::new(), Vec::new(), 0);
            while let Some(batch) = host.next_batch("inputs")? {
                host.check_cancelled()?;
                let hidden = *batch.get("quantized")?.shape().last().ok_or_else(|| Error::input("no dimensions"))?;
                gram.resize(hidden * hidden, 0.0);
                cross.resize(hidden * hidden, 0.0);
                let original = batch.get("full_precision")?.to_f32()?;
                let quantized = batch.get("quantized")?.to_f32()?;
                let mask = batch.get("mask")?.values::<u8>()?;
                for (token, _) in mask.iter().enumerate().filter(|(_, seen)| **seen != 0) {
                    let at = token * hidden..(token + 1) * hidden;
                    add_product(&mut gram, &quantized[at.clone()], &quantized[at.clone()], hidden);
                    add_product(&mut cross, &quantized[at.clone()], &original[at], hidden);
                    tokens += 1;
                }
            }
        }
        for (done, linear) in linears.iter().enumerate() {
            let weight = host.tensor(&linear.weight)?;
            let (rows, columns) = weight.matrix_shape()?;
            // Only the linears that read the block's own input have statistics here; the others take a neutral one.
            let identity: Vec<f32> =
                (0..columns * columns).map(|i| f32::from(u8::from(i % (columns + 1) == 0))).collect();
            let reads_input = ["q_proj", "k_proj", "v_proj"].iter().any(|name| linear.module.ends_with(name));
            let (gram, cross) = if reads_input { (&gram, &cross) } else { (&identity, &identity) };
            let quantized = sign_quantize(&weight.to_f32()?, [rows, columns], gram, cross, linear.grid.clone())?;
            host.put_codes(&linear.module, &quantized)?;
            host.progress(done as u64 + 1, linears.len() as u64);
        }
        for name in block.tensors.iter().filter(|name| name.ends_with("input_layernorm.weight")) {
            host.put_tensor(name, host.tensor(name)?)?;
        }
        Ok(Facts::from_iter([("tokens".to_owned(), json!(tokens))]))
    }
}

workbench_api::export_block_quantizer!(SignBlock);
