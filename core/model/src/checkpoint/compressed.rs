//! Quantized linears in the layouts of compressed-tensors.

use std::collections::BTreeMap;
use std::path::Path;

use workbench_quant::{Conventions, Format, Grid, NumberType, Parameters, Scheme, StorageDtype, pack};

use super::dtype::{Dtype, widen};
use super::quantization::SUPPORTED;
use super::safetensors::StoredTensor;
use crate::ModelError;

/// A linear's weight as codes.
pub struct QuantizedLinear {
    /// Which numbers the codes stand for.
    pub grid: Grid,
    /// Scales and zero-points.
    pub parameters: Parameters,
    /// Integer codes, or the bit patterns of floating-point ones; [rows, columns].
    pub codes: Vec<i8>,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub columns: usize,
    /// The bias, where the linear has one.
    pub bias: Option<Vec<f32>>,
}

/// How a linear's input is quantized before it is multiplied.
#[derive(Clone, Debug, PartialEq)]
pub struct InputQuantizer {
    /// Which numbers the input is rounded to.
    pub grid: Grid,
    /// The scale that was observed in advance; `None` where every input gives its own.
    pub parameters: Option<Parameters>,
}

/// Where the parts of a quantized weight lie.
pub(crate) struct CompressedLinear {
    module: String,
    grid: Grid,
    shape: [usize; 2],
    packed: bool,
    pub(crate) weight: StoredTensor,
    pub(crate) scale: StoredTensor,
    pub(crate) zero_point: Option<StoredTensor>,
}

/// The tensors of the weight files that nothing has claimed yet.
pub(crate) struct Unclaimed<'a> {
    pub(crate) tensors: &'a mut BTreeMap<String, StoredTensor>,
    pub(crate) folder: &'a Path,
}

impl Unclaimed<'_> {
    fn take(&mut self, name: &str, dtypes: &[Dtype]) -> Result<Option<StoredTensor>, ModelError> {
        let Some(tensor) = self.tensors.remove(name) else { return Ok(None) };
        if dtypes.contains(&tensor.dtype) {
            return Ok(Some(tensor));
        }
        let expected = dtypes.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(" or ");
        let message = format!("is of type {}, expected {expected}", tensor.dtype);
        Err(ModelError::tensor(
            tensor.file.path(),
            name,
            message,
            "the quantization configuration does not fit the weights",
        ))
    }

    fn need(&mut self, name: &str, dtypes: &[Dtype]) -> Result<StoredTensor, ModelError> {
        self.take(name, dtypes)?.ok_or_else(|| {
            let hint = "the quantization configuration does not fit the weights";
            ModelError::tensor(self.folder, name, "is missing", hint)
        })
    }
}

const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

impl CompressedLinear {
    /// Claims the parts of a quantized weight of shape [rows, columns] and checks that they fit each other. `recorded` is
    /// the grid that the writer noted, where it did.
    pub(crate) fn claim(
        module: &str,
        [rows, columns]: [usize; 2],
        scheme: &Scheme,
        format: Format,
        recorded: Option<&Grid>,
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Option<Self>, ModelError> {
        let Some(args) = &scheme.weights else { return Ok(None) };
        let part = |suffix: &str| format!("{module}.{suffix}");
        let packed = match format {
            Format::PackQuantized => true,
            Format::IntQuantized | Format::FloatQuantized | Format::NaiveQuantized => false,
            other => {
                let name = serde_json::to_string(&other).unwrap_or_default();
                let message = format!("is stored in the layout {name}, which is not supported");
                return Err(ModelError::tensor(
                    unclaimed.folder,
                    part("weight"),
                    message,
                    format!("supported are {SUPPORTED}"),
                ));
            }
        };
        if unclaimed.tensors.contains_key(&part("weight_g_idx")) {
            let hint = "quantize again with `actorder` \"static\" or null";
            let message = "groups formed after reordering the columns are not supported";
            return Err(ModelError::tensor(unclaimed.folder, part("weight_g_idx"), message, hint));
        }
        let weight = match (packed, args.r#type) {
            (true, _) => unclaimed.need(&part("weight_packed"), &[Dtype::I32])?,
            (false, NumberType::Int) => unclaimed.need(&part("weight"), &[Dtype::I8])?,
            (false, NumberType::Float) => unclaimed.need(&part("weight"), &[Dtype::F8E4M3])?,
        };
        let scale = unclaimed.need(&part("weight_scale"), &FLOATS)?;
        let zero_point = unclaimed.take(&part("weight_zero_point"), &[Dtype::I8, Dtype::I32])?;
        if let Some(shape) = unclaimed.take(&part("weight_shape"), &[Dtype::I64])? {
            check_weight_shape(&part("weight_shape"), &shape, [rows, columns])?;
        }
        let grid = match recorded.filter(|grid| grid.args() == args) {
            Some(grid) => grid.clone(),
            None => Grid::new(args, storage_dtype(scale.dtype), Conventions::default()).map_err(|error| {
                ModelError::tensor(
                    scale.file.path(),
                    part("weight"),
                    error.to_string(),
                    error.hint().unwrap_or_default(),
                )
            })?,
        };
        let shape = [rows, columns];
        let linear = Self { module: module.into(), grid, shape, packed, weight, scale, zero_point };
        linear.check_shapes()?;
        Ok(Some(linear))
    }

    fn error(&self, part: &str, tensor: &StoredTensor, message: impl Into<String>) -> ModelError {
        let hint = "the quantization configuration does not fit the weights";
        ModelError::tensor(tensor.file.path(), format!("{}.{part}", self.module), message, hint)
    }

    /// Output and input features.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn check_shapes(&self) -> Result<(), ModelError> {
        let [rows, in_features] = self.shape;
        let bits = self.grid.args().num_bits;
        let [down, across] = self
            .grid
            .parameters_shape(rows, in_features)
            .map_err(|error| self.error("weight_scale", &self.scale, error.to_string()))?;
        let (name, columns) = match self.packed {
            true => ("weight_packed", pack::words_per_row(in_features, bits)),
            false => ("weight", in_features),
        };
        if self.weight.shape != [rows, columns] {
            let message = format!("has shape {:?}, expected [{rows}, {columns}]", self.weight.shape);
            return Err(self.error(name, &self.weight, message));
        }
        if self.packed && self.grid.args().r#type == NumberType::Float {
            return Err(self.error(name, &self.weight, "holds floating-point codes in a layout for integers"));
        }
        if !fits(&self.scale.shape, [down, across]) {
            let message = format!("has shape {:?}, expected [{down}, {across}]", self.scale.shape);
            return Err(self.error("weight_scale", &self.scale, message));
        }
        let Some(points) = &self.zero_point else {
            return match self.grid.args().symmetric {
                true => Ok(()),
                false => {
                    Err(self.error("weight_zero_point", &self.scale, "is missing, but the weights are asymmetric"))
                }
            };
        };
        let expected = match points.dtype {
            Dtype::I32 => [pack::words_per_row(rows, bits), across],
            _ => [down, across],
        };
        if !fits(&points.shape, expected) {
            let message = format!("has shape {:?}, expected {expected:?}", points.shape);
            return Err(self.error("weight_zero_point", points, message));
        }
        Ok(())
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &StoredTensor> {
        [&self.weight, &self.scale].into_iter().chain(&self.zero_point)
    }

    pub(crate) fn read(&self) -> Result<QuantizedLinear, ModelError> {
        let ([rows, columns], bits) = (self.shape, self.grid.args().num_bits);
        let codes = if self.packed {
            let words = words(self.weight.bytes());
            pack::unpack_rows(&words, rows, columns, bits)
                .map_err(|error| self.error("weight_packed", &self.weight, error.to_string()))?
        } else {
            self.weight.bytes().iter().map(|byte| *byte as i8).collect()
        };
        if let Some((low, high)) = self.grid.code_range()
            && let Some(code) = codes.iter().find(|code| !(low..=high).contains(*code))
        {
            return Err(self.error("weight", &self.weight, format!("holds code {code} outside {low} to {high}")));
        }
        let parameters = self.parameters()?;
        Ok(QuantizedLinear { grid: self.grid.clone(), parameters, codes, rows, columns, bias: None })
    }

    fn parameters(&self) -> Result<Parameters, ModelError> {
        let scales = float_values(&format!("{}.weight_scale", self.module), &self.scale)?;
        let [rows, columns] = self.shape;
        let shape = self.grid.parameters_shape(rows, columns);
        let shape = shape.map_err(|error| self.error("weight_scale", &self.scale, error.to_string()))?;
        let points = match &self.zero_point {
            None => None,
            Some(points) if points.dtype == Dtype::I8 => Some(bytes_as_points(points.bytes())),
            Some(points) => {
                let words = words(points.bytes());
                let unpacked = pack::unpack_zero_points(&words, rows, shape[1], self.grid.args().num_bits);
                Some(unpacked.map_err(|error| self.error("weight_zero_point", points, error.to_string()))?)
            }
        };
        let zero_points = match points {
            // Some writers store the zero-points of symmetric grids, which are all 0.
            Some(points) if self.grid.args().symmetric => match points.iter().find(|point| **point != 0) {
                None => None,
                Some(point) => {
                    let message = format!("holds {point}, but the weights are symmetric");
                    return Err(self.error("weight_zero_point", &self.weight, message));
                }
            },
            points => points,
        };
        Ok(Parameters { scales, zero_points, global_scale: None, shape })
    }

    /// The dense weight, row-major.
    pub(crate) fn values(&self) -> Result<Vec<f32>, ModelError> {
        let linear = self.read()?;
        let [rows, columns] = self.shape;
        let mut values = vec![0.0; rows * columns];
        linear
            .grid
            .dequantize(&linear.codes, rows, columns, &linear.parameters, &mut values)
            .map_err(|error| self.error("weight", &self.weight, error.to_string()))?;
        Ok(values)
    }
}

/// A static input scale as it is stored.
pub(crate) struct StoredInputScale {
    pub(crate) scale: StoredTensor,
    pub(crate) zero_point: Option<StoredTensor>,
}

impl StoredInputScale {
    /// Claims `input_scale` and `input_zero_point` of a module, where they are.
    pub(crate) fn claim(module: &str, unclaimed: &mut Unclaimed<'_>) -> Result<Option<Self>, ModelError> {
        let Some(scale) = unclaimed.take(&format!("{module}.input_scale"), &FLOATS)? else { return Ok(None) };
        let zero_point = unclaimed.take(&format!("{module}.input_zero_point"), &[Dtype::I8])?;
        Ok(Some(Self { scale, zero_point }))
    }

    pub(crate) fn parameters(&self, module: &str, symmetric: bool) -> Result<Parameters, ModelError> {
        let scales = float_values(&format!("{module}.input_scale"), &self.scale)?;
        let points = self.zero_point.as_ref().map(|points| bytes_as_points(points.bytes()));
        let zero_points = points.filter(|points| !symmetric || points.iter().any(|point| *point != 0));
        let agree = zero_points.as_ref().map_or(symmetric, |points| !symmetric && points.len() == scales.len());
        if !agree {
            let message = "and `input_zero_point` do not fit the quantization arguments";
            return Err(ModelError::tensor(self.scale.file.path(), format!("{module}.input_scale"), message, ""));
        }
        let shape = [1, scales.len()];
        Ok(Parameters { scales, zero_points, global_scale: None, shape })
    }
}

/// A scale may be a scalar, a vector or a matrix with the same elements.
fn fits(shape: &[usize], [down, across]: [usize; 2]) -> bool {
    shape == [down, across] || (across == 1 && shape == [down]) || (shape.is_empty() && down == 1 && across == 1)
}

pub(crate) fn storage_dtype(dtype: Dtype) -> StorageDtype {
    match dtype {
        Dtype::F16 => StorageDtype::F16,
        Dtype::BF16 => StorageDtype::Bf16,
        _ => StorageDtype::F32,
    }
}

fn float_values(name: &str, tensor: &StoredTensor) -> Result<Vec<f32>, ModelError> {
    let mut values = vec![0.0; tensor.elements()];
    match widen(tensor.dtype, tensor.bytes(), &mut values) {
        None => Ok(values),
        Some(index) => {
            let message = format!("holds {} at element {index}", values[index]);
            Err(ModelError::tensor(tensor.file.path(), name, message, "the scales are damaged; fetch them again"))
        }
    }
}

fn words(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect()
}

fn bytes_as_points(bytes: &[u8]) -> Vec<i32> {
    bytes.iter().map(|byte| i32::from(*byte as i8)).collect()
}

fn check_weight_shape(name: &str, tensor: &StoredTensor, expected: [usize; 2]) -> Result<(), ModelError> {
    let dims = tensor.bytes().as_chunks::<8>().0.iter().map(|dim| i64::from_le_bytes(*dim)).collect::<Vec<_>>();
    if dims == expected.map(|dim| dim as i64) {
        return Ok(());
    }
    let message = format!("says {dims:?}, the configuration calls for {expected:?}");
    Err(ModelError::tensor(tensor.file.path(), name, message, "config.json and weights belong to different models"))
}
