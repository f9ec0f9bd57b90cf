//! A quantizer at linear scope that wants the Gram matrix of its inputs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;
use workbench_test_plugins::{sign_grid, sign_quantize};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Factor on the Gram matrix's diagonal.
    #[schemars(range(min = 0, max = 1), extend("aliases" = ["percdamp"]))]
    dampening_frac: f32,
    /// A label for the log.
    label: Option<String>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { dampening_frac: 0.0, label: None }
    }
}

struct SignLinear(Parameters);

impl Plugin for SignLinear {
    type Parameters = Parameters;
    const NAME: &'static str = "sign_linear";
    const SUMMARY: &'static str = "Signs with the row scale that changes the output least";
    const GRID_VERSION: u32 = workbench_quant::GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().statistic(Statistic::Gram)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let site = "model.layers.0.mlp.down_proj.input".to_owned();
        let job = Job::Linear(Linear {
            module: "model.layers.0.mlp.down_proj".to_owned(),
            weight: "model.layers.0.mlp.down_proj.weight".to_owned(),
            site: Some(site.clone()),
            grid: sign_grid()?,
            ..Linear::default()
        });
        let mut model = ExampleModel::default();
        let weight = ExampleTensor::f32(&[2, 2], &[1.0, -3.0, 2.0, 2.0]);
        model.tensors.insert("model.layers.0.mlp.down_proj.weight".to_owned(), weight);
        let mut example = Example::new("scales weighted by the inputs' energy", job, model);
        let gram = ExampleTensor::f32(&[2, 2], &[3.0, 0.0, 0.0, 1.0]);
        example.statistics.insert(site, BTreeMap::from([("gram".to_owned(), gram)]));
        // (3*1*1 + 1*-1*-3) / (3 + 1) = 1.5 and (3*2 + 1*2) / (3 + 1) = 2.
        example.expected.codes.insert(
            "model.layers.0.mlp.down_proj".to_owned(),
            ExampleCodes { codes: vec![1, -1, 1, 1], scales: vec![1.5, 2.0], zero_points: None },
        );
        Ok(vec![example])
    }
}

impl Quantizer for SignLinear {
    fn quantize(&self, linear: &Linear, host: &Host<'_>) -> Result<QuantizedLinear, Error> {
        let weight = host.tensor(&linear.weight)?;
        let (rows, columns) = weight.matrix_shape()?;
        let site = linear.site.as_deref().ok_or_else(|| Error::input("the linear reads no site"))?;
        let gram = host.required_statistics(site, Statistic::Gram)?;
        let mut gram = gram.to_f32()?.into_owned();
        let mean = (0..columns).map(|i| gram[i * columns + i]).sum::<f32>() / columns as f32;
        for i in 0..columns {
            gram[i * columns + i] += self.0.dampening_frac * mean;
        }
        if let Some(label) = &self.0.label {
            host.log(Level::Info, &format!("{label}: {}", linear.module));
        }
        host.metric(1, "mean_energy", f64::from(mean));
        let mut quantized = sign_quantize(&weight.to_f32()?, [rows, columns], &gram, &gram, linear.grid.clone())?;
        quantized.facts.insert("mean_energy".to_owned(), f64::from(mean).into());
        Ok(quantized)
    }
}

workbench_api::export_quantizer!(SignLinear);
