//! A quantizer that does whatever wrong its parameter says.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;
use workbench_api::serde_json::json;
use workbench_test_plugins::{sign_grid, sign_quantize};

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Fault {
    /// Does its work.
    #[default]
    None,
    PanicInCreate,
    PanicInRun,
    PanicInThread,
    Abort,
    Segfault,
    Exit,
    Hang,
    EatMemory,
    NanScale,
    ZeroScale,
    PutsTensor,
    PatchesConfig,
    WrongShape,
    WrongScaleShape,
    CodeOutOfRange,
    OtherModule,
    OtherGrid,
    NoCodes,
    Swallow,
    Error,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// What goes wrong.
    fault: Fault,
}

struct Misbehave(Fault);

impl Plugin for Misbehave {
    type Parameters = Parameters;
    const NAME: &'static str = "misbehave";
    const SUMMARY: &'static str = "Does what is wrong";
    const GRID_VERSION: u32 = workbench_quant::GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        assert!(parameters.fault != Fault::PanicInCreate, "there is nothing to create");
        Ok(Self(parameters.fault))
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let linear =
            Linear { module: "a".to_owned(), weight: "a.weight".to_owned(), grid: sign_grid()?, ..Linear::default() };
        let mut model = ExampleModel::default();
        model.tensors.insert("a.weight".to_owned(), ExampleTensor::f32(&[2, 2], &[1.0, -1.0, 2.0, 2.0]));
        let mut example = Example::new("without a fault", Job::Linear(linear), model);
        let codes = ExampleCodes { codes: vec![1, -1, 1, 1], scales: vec![1.0, 2.0], zero_points: None };
        example.expected.codes.insert("a".to_owned(), codes);
        Ok(vec![example])
    }
}

#[allow(unsafe_code, clippy::exit)]
fn end_badly(fault: Fault) {
    match fault {
        Fault::PanicInRun => panic!("row 7 is beyond repair"),
        Fault::PanicInThread => {
            let _ = std::thread::spawn(|| panic!("a thread of my own")).join();
        }
        Fault::Abort => std::process::abort(),
        // SAFETY: none; this is the fault. Address 8 is never mapped.
        Fault::Segfault => unsafe { std::ptr::write_volatile(8 as *mut u8, 1) },
        Fault::Exit => std::process::exit(0),
        Fault::Hang => std::thread::sleep(Duration::from_secs(3600)),
        Fault::EatMemory => {
            let mut eaten: Vec<Vec<u8>> = Vec::new();
            loop {
                eaten.push(vec![1; 64 << 20]);
                std::hint::black_box(&eaten);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        _ => {}
    }
}

impl Quantizer for Misbehave {
    fn quantize(&self, linear: &Linear, host: &Host<'_>) -> Result<QuantizedLinear, Error> {
        let weight = host.tensor(&linear.weight)?;
        let (rows, columns) = weight.matrix_shape()?;
        let identity: Vec<f32> = (0..columns * columns).map(|i| f32::from(u8::from(i % (columns + 1) == 0))).collect();
        let values = weight.to_f32()?;
        let mut quantized = sign_quantize(&values, [rows, columns], &identity, &identity, linear.grid.clone())?;
        end_badly(self.0);
        match self.0 {
            Fault::NanScale => quantized.scales[rows - 1] = f32::NAN,
            Fault::ZeroScale => quantized.scales[rows - 1] = 0.0,
            Fault::PutsTensor => host.put_tensor(&linear.weight, Tensor::from_slice(&[rows, columns], &values)?)?,
            Fault::PatchesConfig => host.patch_config(&json!({ "rms_norm_eps": 1.0 }))?,
            Fault::WrongShape => {
                quantized.codes.truncate((rows - 1) * columns);
                quantized.shape = [rows - 1, columns];
            }
            Fault::WrongScaleShape => {
                quantized.scales.truncate(1);
                quantized.scale_shape = [1, 1];
            }
            Fault::CodeOutOfRange => quantized.codes[1] = 9,
            Fault::OtherModule => host.put_codes("model.layers.9.mlp.up_proj", &quantized)?,
            Fault::OtherGrid => quantized.grid["args"]["num_bits"] = json!(3),
            Fault::Swallow => {
                quantized.scales[0] = f32::INFINITY;
                // Reports success all the same.
                let _ = host.put_codes(&linear.module, &quantized);
                quantized.scales[0] = 1.0;
            }
            Fault::Error => {
                return Err(Error::numeric("the matrix is singular")
                    .with_hint("raise `dampening_frac`")
                    .context(format!("factorising the inputs of `{}`", linear.module)));
            }
            _ => {}
        }
        Ok(quantized)
    }
}

workbench_api::export_quantizer!(Misbehave);
