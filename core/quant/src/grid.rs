//! The grid: which numbers are representable, and which code a value gets.
//!
//! One grid serves fake quantization in the forward pass, training, round-to-nearest, the writer and the reader, so that
//! the codes that were seen are the codes on disk. A tensor is cut into rectangles that share a scale ([`Strategy`]);
//! each rectangle's range gives a scale, which is rounded to the dtype it is stored in before anything uses it; values
//! are divided by it, clamped and rounded, ties to even. Rows are handled in parallel, and every result is the same at
//! any number of threads.
//!
//! [`Strategy`]: crate::args::Strategy

use serde::{Deserialize, Serialize};

use crate::args::{Dynamic, NumberType, QuantizationArgs, ScaleDtype, Strategy, ZeroPointDtype};
use crate::conventions::{ClampOrder, Compute, Conventions, MxRule, RangeConvention};
use crate::error::{ArgsError, GridError, OneLine};
use crate::kernel::codec::{AnyCodec, E2M1, E4M3, Int};
use crate::matrix::Layout;
use crate::observer;
use crate::scale::ScaleRule;

/// The dtype of a dense tensor, which is that of its scales unless the arguments name another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StorageDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl From<StorageDtype> for ScaleDtype {
    fn from(dtype: StorageDtype) -> Self {
        match dtype {
            StorageDtype::F32 => Self::F32,
            StorageDtype::F16 => Self::F16,
            StorageDtype::Bf16 => Self::Bf16,
        }
    }
}

/// Scales and zero-points of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantParams {
    /// Scales in row-major order, already rounded to the dtype they are stored in. For the MX formats they are the
    /// powers of two themselves, not their exponents.
    pub scales: Vec<f32>,
    /// Zero-points, for asymmetric grids.
    pub zero_points: Option<Vec<i32>>,
    /// The tensor-wide scale by which group scales are to be divided, for `tensor_group` (NVFP4).
    pub global_scale: Option<f32>,
    /// Rows and columns of `scales`.
    pub shape: [usize; 2],
}

/// A number grid for one kind of tensor: arguments with everything that they leave open decided.
///
/// Serialized, it is the record of how codes came about; reading it back gives an equal grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawGrid")]
pub struct Grid {
    args: QuantizationArgs,
    conventions: Conventions,
    scale_dtype: ScaleDtype,
    zp_dtype: ZeroPointDtype,
    #[serde(skip_serializing_if = "Option::is_none")]
    global_scale: Option<f32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrid {
    args: QuantizationArgs,
    conventions: Conventions,
    scale_dtype: ScaleDtype,
    zp_dtype: ZeroPointDtype,
    #[serde(default)]
    global_scale: Option<f32>,
}

impl TryFrom<RawGrid> for Grid {
    type Error = OneLine;

    fn try_from(raw: RawGrid) -> Result<Self, OneLine> {
        let grid = Self::with_dtypes(&raw.args, raw.scale_dtype, raw.zp_dtype, raw.conventions).map_err(OneLine)?;
        let Some(scale) = raw.global_scale else { return Ok(grid) };
        if !(grid.is_two_level() && scale.is_finite() && scale > 0.0) {
            let message = format!("{scale} is no tensor-wide scale of {}", grid.args);
            return Err(OneLine(ArgsError::new("global_scale", message)));
        }
        Ok(grid.with_global_scale(Some(scale)))
    }
}

impl Grid {
    /// The grid of `args` for tensors kept in `stored`. Conventions that cannot matter for these arguments (an MX rule
    /// for integers, a range convention for floats or asymmetric codes) are reset, so that equal rounding means equal grids.
    ///
    /// # Errors
    /// When the arguments contradict themselves. The observer is not looked at: a stored tensor can be read without
    /// knowing how its range was chosen.
    pub fn new(args: &QuantizationArgs, stored: StorageDtype, conventions: Conventions) -> Result<Self, GridError> {
        let scale_dtype = match (args.scale_dtype, args.strategy) {
            (Some(dtype), _) => dtype,
            (None, Strategy::TensorGroup) => ScaleDtype::F8E4M3,
            (None, _) => stored.into(),
        };
        let zp_dtype = args.zp_dtype.unwrap_or(ZeroPointDtype::I8);
        Ok(Self::with_dtypes(args, scale_dtype, zp_dtype, conventions)?)
    }

    fn with_dtypes(
        args: &QuantizationArgs,
        scale_dtype: ScaleDtype,
        zp_dtype: ZeroPointDtype,
        mut conventions: Conventions,
    ) -> Result<Self, ArgsError> {
        args.validate_shape()?;
        if args.r#type == NumberType::Float || !args.symmetric {
            conventions.range = RangeConvention::default();
        }
        if args.r#type == NumberType::Float {
            conventions.clamp = ClampOrder::default();
        }
        if !args.is_mx() {
            conventions.mx_exponent = MxRule::default();
        }
        Ok(Self { args: args.clone(), conventions, scale_dtype, zp_dtype, global_scale: None })
    }

    /// The same grid with a tensor-wide scale that is given and not derived from each tensor: tensors that a server fuses
    /// (q, k and v; gate and up) have to share one. `None` derives it again. Has no meaning but for `tensor_group`.
    #[must_use]
    pub fn with_global_scale(self, global_scale: Option<f32>) -> Self {
        Self { global_scale, ..self }
    }

    /// The tensor-wide scale that was given, if one was.
    pub fn given_global_scale(&self) -> Option<f32> {
        self.global_scale
    }

    /// The grid of keys or values laid out as [tokens, heads * head_dim]: one scale a head is there one a group. Grids of
    /// other strategies stay what they are.
    #[must_use]
    pub fn of_heads(&self, head_dim: usize) -> Self {
        if self.args.strategy != Strategy::AttnHead {
            return self.clone();
        }
        let args = QuantizationArgs { strategy: Strategy::Group, group_size: Some(head_dim), ..self.args.clone() };
        Self { args, ..self.clone() }
    }

    /// The arguments.
    pub fn args(&self) -> &QuantizationArgs {
        &self.args
    }

    /// The conventions.
    pub fn conventions(&self) -> &Conventions {
        &self.conventions
    }

    /// The dtype that scales are rounded to and stored in.
    pub fn scale_dtype(&self) -> ScaleDtype {
        self.scale_dtype
    }

    /// The dtype that zero-points are stored in.
    pub fn zp_dtype(&self) -> ZeroPointDtype {
        self.zp_dtype
    }

    /// Lowest and highest code of an integer grid.
    pub fn code_range(&self) -> Option<(i8, i8)> {
        (self.args.r#type == NumberType::Int).then(|| {
            let half = 1i16 << (self.args.num_bits - 1);
            (-half as i8, (half - 1) as i8)
        })
    }

    /// The largest number that a code stands for at scale 1.
    pub fn largest_code(&self) -> f64 {
        f64::from(self.rule().limits().1)
    }

    /// Shape of the scales of a tensor: [1, 1] per tensor, [rows, 1] per channel or token, [rows, columns / group_size]
    /// per group, and one per started rectangle for blocks.
    ///
    /// # Errors
    /// When the group size does not divide the columns.
    pub fn parameters_shape(&self, rows: usize, columns: usize) -> Result<[usize; 2], GridError> {
        Ok(self.layout(rows, columns)?.shape())
    }

    /// Rows and columns of the rectangles of a tensor, [rows, columns], that share a scale; those at its ends may be smaller.
    ///
    /// # Errors
    /// When the group size does not divide the columns.
    pub fn tile(&self, rows: usize, columns: usize) -> Result<[usize; 2], GridError> {
        let layout = self.layout(rows, columns)?;
        Ok([layout.height, layout.width])
    }

    /// The parameters of the rows from `first` to `first + count` of a tensor, [rows, columns], with parameters `p`: with them
    /// those rows are quantized by themselves to the codes that they have in the whole.
    ///
    /// # Errors
    /// The rows lie outside of the tensor, or cut rectangles that share a scale (`block`) other than within one of them.
    pub fn parameters_of_rows(
        &self,
        p: &QuantParams,
        [rows, columns]: [usize; 2],
        first: usize,
        count: usize,
    ) -> Result<QuantParams, GridError> {
        let layout = self.layout(rows, columns)?;
        p.check(self, &layout)?;
        let (height, across) = (layout.height, p.shape[1]);
        let whole = first.is_multiple_of(height) || first % height + count <= height;
        if count == 0 || first + count > rows || !whole {
            let message = format!("rows {first} to {} of {rows} in rectangles of {height} rows", first + count);
            return Err(GridError::Shape(message));
        }
        // One row of scales may serve them all.
        let down = if p.shape[0] == 1 { 0..1 } else { first / height..(first + count).div_ceil(height) };
        let part = down.start * across..down.end * across;
        Ok(QuantParams {
            scales: p.scales[part.clone()].to_vec(),
            zero_points: p.zero_points.as_ref().map(|points| points[part].to_vec()),
            global_scale: p.global_scale,
            shape: [down.len(), across],
        })
    }

    /// Whether the scales of a row depend on that row alone, so that a weight can be rounded piece by piece.
    pub fn rows_are_independent(&self) -> bool {
        let alone = matches!(self.args.strategy, Strategy::Channel | Strategy::Token | Strategy::Group);
        // A search for the best range may end when no row of the tensor gains any more.
        let method = observer::Options::from_args(&self.args).map(|options| options.method);
        alone && method.is_ok_and(|method| method == observer::Method::MinMax)
    }

    /// Whether scales are in proportion to the ranges of values, from the smallest to the largest, whatever their signs: no search
    /// chooses them, and they are no powers of two.
    pub fn scales_follow_ranges(&self) -> bool {
        let method = observer::Options::from_args(&self.args).map(|options| options.method);
        let signed = self.conventions.range == RangeConvention::SignedExtreme;
        !self.args.is_mx() && !signed && method.is_ok_and(|method| method == observer::Method::MinMax)
    }

    pub(crate) fn layout(&self, rows: usize, columns: usize) -> Result<Layout, GridError> {
        Layout::new(&self.args, rows, columns)
    }

    pub(crate) fn rule(&self) -> ScaleRule {
        ScaleRule::new(&self.args, &self.conventions, self.scale_dtype)
    }

    pub(crate) fn is_two_level(&self) -> bool {
        self.args.strategy == Strategy::TensorGroup
    }

    pub(crate) fn is_local(&self) -> bool {
        self.args.dynamic == Dynamic::Local
    }

    pub(crate) fn codec(&self) -> AnyCodec {
        let (low, high) = self.rule().limits();
        let bf16 = self.conventions.compute == Compute::Bf16;
        let after = self.conventions.clamp == ClampOrder::AfterRounding;
        match (self.args.r#type, self.args.num_bits) {
            (NumberType::Int, _) => match (bf16, after) {
                (false, false) => AnyCodec::Int(Int { low, high }),
                (false, true) => AnyCodec::IntAfter(Int { low, high }),
                (true, false) => AnyCodec::IntBf16(Int { low, high }),
                (true, true) => AnyCodec::IntBf16After(Int { low, high }),
            },
            (NumberType::Float, 4) => match (bf16, self.is_two_level()) {
                (false, _) => AnyCodec::E2M1(E2M1),
                (true, false) => AnyCodec::E2M1Bf16(E2M1),
                (true, true) => AnyCodec::NvFp4Bf16(E2M1),
            },
            (NumberType::Float, _) if bf16 => AnyCodec::E4M3Bf16(E4M3),
            (NumberType::Float, _) => AnyCodec::E4M3(E4M3),
        }
    }
}

impl QuantParams {
    /// Checks that the parameters are those of a tensor laid out like this.
    pub(crate) fn check(&self, grid: &Grid, layout: &Layout) -> Result<(), GridError> {
        let [down, across] = layout.shape();
        let fits = self.shape == [down, across] || (layout.broadcasts && self.shape == [1, across]);
        if !fits || self.scales.len() != self.shape[0] * self.shape[1] {
            return Err(GridError::Shape(format!(
                "{} scales of shape {:?} where a {} x {} tensor quantized as {} has {down} x {across}",
                self.scales.len(),
                self.shape,
                layout.rows,
                layout.columns,
                grid.args()
            )));
        }
        match (&self.zero_points, grid.args().symmetric) {
            (Some(points), false) if points.len() == self.scales.len() => {}
            (None, true) => {}
            (Some(points), true) if points.iter().all(|point| *point == 0) => {}
            (Some(_), true) => return Err(GridError::Shape("a symmetric grid has no zero-points but 0".into())),
            (Some(points), false) => {
                let message = format!("{} zero-points for {} scales", points.len(), self.scales.len());
                return Err(GridError::Shape(message));
            }
            (None, false) => return Err(GridError::Shape("an asymmetric grid needs zero-points".into())),
        }
        if grid.is_two_level() && self.global_scale.is_none() {
            return Err(GridError::Shape("strategy `tensor_group` needs a tensor-wide scale".into()));
        }
        Ok(())
    }

    /// The scales that divide values: group scales over the tensor-wide one.
    pub(crate) fn effective_scales(&self) -> std::borrow::Cow<'_, [f32]> {
        match self.global_scale {
            Some(global) => self.scales.iter().map(|scale| scale / global).collect(),
            None => self.scales.as_slice().into(),
        }
    }

    /// Zero-points as floats; empty where there are none.
    pub(crate) fn float_zero_points(&self) -> Vec<f32> {
        self.zero_points.iter().flatten().map(|point| *point as f32).collect()
    }
}
