//! Quantized linears in the layouts of compressed-tensors.

use std::collections::BTreeMap;
use std::path::Path;

use workbench_quant::{
    Conventions, Format, Grid, NumberType, QuantParams, QuantizationArgs, QuantizedWeight, ScaleDtype, Scheme,
    Strategy, pack,
};

use super::dtype::Dtype;
use super::quantization::SUPPORTED;
use super::safetensors::StoredTensor;
use super::scales::{Sources, bytes_as_points, float_values, one_scale, storage_dtype};
use crate::ModelError;

/// How a linear's input is quantized before it is multiplied.
#[derive(Clone, Debug, PartialEq)]
pub struct InputQuantizer {
    /// Which numbers the input is rounded to.
    pub grid: Grid,
    /// The scale that was observed in advance; `None` where every input gives its own.
    pub parameters: Option<QuantParams>,
}

/// Where the parts of a quantized weight lie.
pub(crate) struct CompressedLinear {
    module: String,
    grid: Grid,
    shape: [usize; 2],
    coding: Coding,
    pub(crate) weight: StoredTensor,
    pub(crate) scale: StoredTensor,
    pub(crate) zero_point: Option<StoredTensor>,
    /// By which the group scales of NVFP4 are divided.
    pub(crate) global_scale: Option<StoredTensor>,
}

/// How the codes of a weight lie in its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// A byte each.
    Bytes,
    /// A bit stream of integers in words of 32 bits.
    Words,
    /// Two FP4 codes a byte, the even column in the low half.
    Fp4,
}

impl Coding {
    /// That of a layout; `None` for a layout that is neither read nor written, or that cannot hold these codes.
    pub(crate) fn of(format: Format, args: &QuantizationArgs) -> Option<Self> {
        let fp4 = args.r#type == NumberType::Float && args.num_bits == 4;
        let coding = match format {
            Format::PackQuantized if args.r#type == NumberType::Int => Self::Words,
            Format::IntQuantized | Format::FloatQuantized | Format::NaiveQuantized | Format::MxFp8Quantized => {
                Self::Bytes
            }
            Format::NvFp4PackQuantized | Format::MxFp4PackQuantized => Self::Fp4,
            Format::PackQuantized | Format::Dense | Format::MixedPrecision => return None,
        };
        (fp4 == (coding == Self::Fp4)).then_some(coding)
    }

    /// The suffix of the tensor that holds the codes.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Bytes => "weight",
            Self::Words | Self::Fp4 => "weight_packed",
        }
    }

    /// Its element type.
    pub(crate) fn dtype(self, args: &QuantizationArgs) -> Dtype {
        match (self, args.r#type) {
            (Self::Words, _) => Dtype::I32,
            (Self::Fp4, _) => Dtype::U8,
            (Self::Bytes, NumberType::Int) => Dtype::I8,
            (Self::Bytes, NumberType::Float) => Dtype::F8E4M3,
        }
    }

    /// Elements that a row of `columns` codes takes.
    pub(crate) fn elements_per_row(self, columns: usize, bits: u8) -> usize {
        match self {
            Self::Bytes => columns,
            Self::Words => pack::words_per_row(columns, bits),
            Self::Fp4 => columns.div_ceil(2),
        }
    }
}

/// The tensors of the weight files that nothing has claimed yet.
pub(crate) struct Unclaimed<'a> {
    pub(crate) tensors: &'a mut BTreeMap<String, StoredTensor>,
    pub(crate) folder: &'a Path,
}

impl Unclaimed<'_> {
    pub(crate) fn take(&mut self, name: &str, dtypes: &[Dtype]) -> Result<Option<StoredTensor>, ModelError> {
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

pub(crate) const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

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
        let args = &with_mx_scales(args, format);
        let part = |suffix: &str| format!("{module}.{suffix}");
        let Some(coding) = Coding::of(format, args) else {
            let name = serde_json::to_string(&format).unwrap_or_default();
            let message = format!("is stored as {args} in the layout {name}, which is not supported");
            return Err(ModelError::tensor(
                unclaimed.folder,
                part("weight"),
                message,
                format!("supported are {SUPPORTED}"),
            ));
        };
        if unclaimed.tensors.contains_key(&part("weight_g_idx")) {
            let hint = "quantize again with `actorder` \"static\" or null";
            let message = "groups formed after reordering the columns are not supported";
            return Err(ModelError::tensor(unclaimed.folder, part("weight_g_idx"), message, hint));
        }
        let weight = unclaimed.need(&part(coding.suffix()), &[coding.dtype(args)])?;
        let scale = unclaimed.need(&part("weight_scale"), scale_dtypes(args))?;
        let global_scale = match args.strategy {
            Strategy::TensorGroup => Some(unclaimed.need(&part("weight_global_scale"), &[Dtype::F32])?),
            _ => None,
        };
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
        let linear = Self { module: module.into(), grid, shape, coding, weight, scale, zero_point, global_scale };
        linear.check_shapes()?;
        Ok(Some(linear))
    }

    fn error(&self, part: &str, tensor: &StoredTensor, message: impl Into<String>) -> ModelError {
        let hint = "the quantization configuration does not fit the weights";
        ModelError::tensor(tensor.file.path(), format!("{}.{part}", self.module), message, hint)
    }

    /// Which numbers its codes stand for.
    pub(crate) fn grid(&self) -> &Grid {
        &self.grid
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
        let (name, columns) = (self.coding.suffix(), self.coding.elements_per_row(in_features, bits));
        if self.weight.shape != [rows, columns] {
            let message = format!("has shape {:?}, expected [{rows}, {columns}]", self.weight.shape);
            return Err(self.error(name, &self.weight, message));
        }
        if let Some(scale) = self.global_scale.as_ref().filter(|scale| scale.elements() != 1) {
            let message = format!("has shape {:?}, expected one scale for the tensor", scale.shape);
            return Err(self.error("weight_global_scale", scale, message));
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
        [&self.weight, &self.scale].into_iter().chain(&self.zero_point).chain(&self.global_scale)
    }

    pub(crate) fn read(&self) -> Result<QuantizedWeight, ModelError> {
        let ([rows, columns], bits) = (self.shape, self.grid.args().num_bits);
        let bytes = self.weight.bytes();
        let codes = match self.coding {
            Coding::Bytes => Ok(bytes.iter().map(|byte| *byte as i8).collect()),
            Coding::Words => pack::unpack_rows(&words(bytes), rows, columns, bits),
            Coding::Fp4 => pack::unpack_fp4(bytes, rows, columns),
        };
        let codes: Vec<i8> =
            codes.map_err(|error| self.error(self.coding.suffix(), &self.weight, error.to_string()))?;
        if let Some((low, high)) = self.grid.code_range()
            && let Some(code) = codes.iter().find(|code| !(low..=high).contains(*code))
        {
            return Err(self.error("weight", &self.weight, format!("holds code {code} outside {low} to {high}")));
        }
        let parameters = self.parameters()?;
        Ok(QuantizedWeight { grid: self.grid.clone(), shape: self.shape, codes, parameters })
    }

    fn parameters(&self) -> Result<QuantParams, ModelError> {
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
                    return Err(self.error(
                        "weight_zero_point",
                        self.zero_point.as_ref().unwrap_or(&self.scale),
                        message,
                    ));
                }
            },
            points => points,
        };
        let global_scale = self.global_scale.as_ref();
        let global_scale =
            global_scale.map(|scale| one_scale(&format!("{}.weight_global_scale", self.module), scale)).transpose()?;
        let parameters = QuantParams { scales, zero_points, global_scale, shape };
        let [scale, point] = ["weight_scale", "weight_zero_point"].map(|part| format!("{}.{part}", self.module));
        let zero_point = self.zero_point.as_ref().map(|tensor| (point.as_str(), tensor));
        Sources { scale: (&scale, &self.scale), zero_point }.check(&self.grid, &parameters)?;
        Ok(parameters)
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

/// A static input scale as it is stored: that of the values, or the tensor-wide one by which dynamic group scales are
/// divided.
pub(crate) struct StoredInputScale {
    pub(crate) scale: StoredTensor,
    pub(crate) zero_point: Option<StoredTensor>,
    is_global: bool,
}

impl StoredInputScale {
    /// Claims `input_scale` and `input_zero_point` of a module, or its `input_global_scale`, where they are.
    pub(crate) fn claim(
        module: &str,
        args: &QuantizationArgs,
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Option<Self>, ModelError> {
        let is_global = args.strategy == Strategy::TensorGroup;
        let (suffix, dtypes) =
            if is_global { ("input_global_scale", &FLOATS[..1]) } else { ("input_scale", &FLOATS[..]) };
        let Some(scale) = unclaimed.take(&format!("{module}.{suffix}"), dtypes)? else { return Ok(None) };
        let zero_point = unclaimed.take(&format!("{module}.input_zero_point"), &[Dtype::I8])?;
        Ok(Some(Self { scale, zero_point, is_global }))
    }

    pub(crate) fn parameters(&self, module: &str, grid: &Grid) -> Result<QuantParams, ModelError> {
        let symmetric = grid.args().symmetric;
        if self.is_global {
            let global_scale = Some(one_scale(&format!("{module}.input_global_scale"), &self.scale)?);
            return Ok(QuantParams { global_scale, ..QuantParams::default() });
        }
        let scales = float_values(&format!("{module}.input_scale"), &self.scale)?;
        let points = self.zero_point.as_ref().map(|points| bytes_as_points(points.bytes()));
        let zero_points = points.filter(|points| !symmetric || points.iter().any(|point| *point != 0));
        let agree = zero_points.as_ref().map_or(symmetric, |points| !symmetric && points.len() == scales.len());
        if !agree {
            let message = "and `input_zero_point` do not fit the quantization arguments";
            return Err(ModelError::tensor(self.scale.file.path(), format!("{module}.input_scale"), message, ""));
        }
        let shape = [1, scales.len()];
        let parameters = QuantParams { scales, zero_points, global_scale: None, shape };
        let [scale, point] = ["input_scale", "input_zero_point"].map(|part| format!("{module}.{part}"));
        let zero_point = self.zero_point.as_ref().map(|tensor| (point.as_str(), tensor));
        Sources { scale: (&scale, &self.scale), zero_point }.check(grid, &parameters)?;
        Ok(parameters)
    }
}

/// Arguments whose MX scales older files left unsaid: the layout alone says what they are.
fn with_mx_scales(args: &QuantizationArgs, format: Format) -> QuantizationArgs {
    let is_mx = matches!(format, Format::MxFp4PackQuantized | Format::MxFp8Quantized);
    let unsaid = is_mx && args.scale_dtype.is_none() && args.strategy == Strategy::Group;
    QuantizationArgs { scale_dtype: if unsaid { Some(ScaleDtype::E8M0) } else { args.scale_dtype }, ..args.clone() }
}

/// The types in which scales of these arguments may be stored.
fn scale_dtypes(args: &QuantizationArgs) -> &'static [Dtype] {
    match (args.scale_dtype, args.strategy) {
        (Some(ScaleDtype::E8M0), _) => &[Dtype::U8],
        (Some(ScaleDtype::F8E4M3), _) | (None, Strategy::TensorGroup) => &[Dtype::F8E4M3],
        _ => &FLOATS,
    }
}

/// A scale may be a scalar, a vector or a matrix with the same elements.
fn fits(shape: &[usize], [down, across]: [usize; 2]) -> bool {
    shape == [down, across] || (across == 1 && shape == [down]) || (shape.is_empty() && down == 1 && across == 1)
}

fn words(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect()
}

fn check_weight_shape(name: &str, tensor: &StoredTensor, expected: [usize; 2]) -> Result<(), ModelError> {
    let dims = tensor.bytes().as_chunks::<8>().0.iter().map(|dim| i64::from_le_bytes(*dim)).collect::<Vec<_>>();
    if dims == expected.map(|dim| dim as i64) {
        return Ok(());
    }
    let message = format!("says {dims:?}, the configuration calls for {expected:?}");
    Err(ModelError::tensor(tensor.file.path(), name, message, "config.json and weights belong to different models"))
}
