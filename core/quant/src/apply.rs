//! Codes from values, values from codes, fake quantization and its gradient.

use rayon::prelude::*;

use crate::derive::{not_finite, tensor_range};
use crate::error::{ArgsError, GridError};
use crate::grid::{Grid, QuantParams};
use crate::kernel::{self, Ranges, Scales, with_codec};
use crate::matrix::{Layout, Matrix, check_len};
use crate::observer::{self, Method};

/// The scales of a tensor in the form that the loops take.
struct Prepared<'a> {
    scales: std::borrow::Cow<'a, [f32]>,
    zero_points: Vec<f32>,
    layout: Layout,
    across: usize,
    broadcast: bool,
}

impl<'a> Prepared<'a> {
    fn new(grid: &Grid, p: &'a QuantParams, rows: usize, columns: usize) -> Result<Self, GridError> {
        let layout = grid.layout(rows, columns)?;
        p.check(grid, &layout)?;
        let [down, across] = layout.shape();
        let broadcast = p.shape[0] == 1 && down != 1;
        Ok(Self { scales: p.effective_scales(), zero_points: p.float_zero_points(), layout, across, broadcast })
    }

    /// Rows that one call of a loop can take: all that have scales of their own lying one behind the other, else one.
    fn rows_per_call(&self) -> usize {
        if self.layout.height == 1 && !self.broadcast { self.layout.rows_per_task() } else { 1 }
    }

    /// Scales of the rows from `first` on.
    fn rows(&self, first: usize) -> Scales<'_> {
        let start = if self.broadcast { 0 } else { first / self.layout.height * self.across };
        Scales {
            scales: &self.scales[start..],
            zero_points: self.zero_points.get(start..).unwrap_or_default(),
            width: self.layout.width,
        }
    }

    /// Runs `body(first_row, inputs, outputs)` over pieces of two slices that have one value per value of the tensor.
    fn for_each<A: Sync, B: Send>(&self, input: &[A], output: &mut [B], body: impl Fn(usize, &[A], &mut [B]) + Sync) {
        if self.layout.is_empty() {
            return;
        }
        let rows = self.rows_per_call();
        let piece = rows * self.layout.columns;
        if self.layout.is_large() {
            let calls_per_task = (self.layout.rows_per_task() / rows).max(1);
            let pieces = input.par_chunks(piece).zip(output.par_chunks_mut(piece)).enumerate();
            pieces.with_min_len(calls_per_task).for_each(|(index, (a, b))| body(index * rows, a, b));
        } else {
            let pieces = input.chunks(piece).zip(output.chunks_mut(piece)).enumerate();
            pieces.for_each(|(index, (a, b))| body(index * rows, a, b));
        }
    }
}

/// Views codes as bytes: FP8 and FP4 codes are bit patterns, integers two's complement.
#[allow(unsafe_code)]
fn as_bytes(codes: &[i8]) -> &[u8] {
    // SAFETY: i8 and u8 have the same size, alignment and validity.
    unsafe { std::slice::from_raw_parts(codes.as_ptr().cast(), codes.len()) }
}

/// Views codes as writable bytes.
#[allow(unsafe_code)]
fn as_bytes_mut(codes: &mut [i8]) -> &mut [u8] {
    // SAFETY: i8 and u8 have the same size, alignment and validity.
    unsafe { std::slice::from_raw_parts_mut(codes.as_mut_ptr().cast(), codes.len()) }
}

impl Grid {
    /// Codes of a tensor, [rows, columns] as `x`: integers, or the bit patterns of FP8 (all eight bits) and FP4 (the low four).
    ///
    /// # Errors
    /// When the parameters are not those of a tensor of this shape. Values that are not finite get arbitrary codes:
    /// [`Grid::parameters`] refuses them.
    pub fn quantize(&self, x: Matrix<'_>, p: &QuantParams) -> Result<Vec<i8>, GridError> {
        let mut codes = vec![0i8; x.values().len()];
        self.quantize_into(x, p, &mut codes)?;
        Ok(codes)
    }

    fn quantize_into(&self, x: Matrix<'_>, p: &QuantParams, codes: &mut [i8]) -> Result<(), GridError> {
        let prepared = Prepared::new(self, p, x.rows(), x.columns())?;
        with_codec!(self.codec(), codec => prepared.for_each(x.values(), as_bytes_mut(codes), |row, x, out| {
            kernel::encode(codec, x, prepared.layout.columns, prepared.rows(row), out);
        }));
        Ok(())
    }

    /// Codes and parameters in one go, as round-to-nearest needs them: the same as [`Grid::parameters`] and then
    /// [`Grid::quantize`], with a single pass over memory where groups lie within a row.
    ///
    /// # Errors
    /// As for [`Grid::parameters`].
    pub fn round_to_nearest(&self, x: Matrix<'_>) -> Result<(Vec<i8>, QuantParams), GridError> {
        let mut codes = vec![0i8; x.values().len()];
        let parameters = self.round_to_nearest_into(x, &mut codes)?;
        Ok((codes, parameters))
    }

    /// As [`Grid::round_to_nearest`], into a slice that can be used again for the next tensor.
    ///
    /// # Errors
    /// As for [`Grid::parameters`], or when the slice has another length than the tensor. The codes are then undefined.
    pub fn round_to_nearest_into(&self, x: Matrix<'_>, codes: &mut [i8]) -> Result<QuantParams, GridError> {
        check_len("codes", codes.len(), x.rows(), x.columns())?;
        let layout = self.layout(x.rows(), x.columns())?;
        let fusible = layout.height == 1 && !layout.is_empty() && !self.is_two_level();
        if !fusible || observer::Options::from_args(self.args())?.method != Method::MinMax {
            let parameters = self.parameters(x)?;
            self.quantize_into(x, &parameters, codes)?;
            return Ok(parameters);
        }
        let [down, across] = layout.shape();
        let mut scales = vec![0f32; down * across];
        let mut zero_points = vec![0f32; down * across];
        let (rule, columns, rows) = (self.rule(), x.columns(), layout.rows_per_task());
        let bad = with_codec!(self.codec(), codec => {
            let task = |index: usize, values: &[f32], codes: &mut [u8], min: &mut [f32], max: &mut [f32]| {
                let out = Ranges { min, max, width: layout.width };
                kernel::fused_encode(codec, &rule, values, columns, None, out, codes)
                    .map(|offset| index * rows * columns + offset)
            };
            let codes = as_bytes_mut(codes);
            if layout.is_large() {
                let outputs = scales.par_chunks_mut(rows * across).zip(zero_points.par_chunks_mut(rows * across));
                let tensors = x.values().par_chunks(rows * columns).zip(codes.par_chunks_mut(rows * columns));
                tensors
                    .zip(outputs)
                    .enumerate()
                    .filter_map(|(index, ((x, codes), (min, max)))| task(index, x, codes, min, max))
                    .min()
            } else {
                task(0, x.values(), codes, &mut scales, &mut zero_points)
            }
        });
        if let Some(offset) = bad {
            return Err(not_finite(x.values(), columns, offset));
        }
        let zero_points = (!self.args().symmetric).then(|| zero_points.into_iter().map(|point| point as i32).collect());
        Ok(QuantParams { scales, zero_points, global_scale: None, shape: [down, across] })
    }

    /// The values that codes stand for, into `out`, [rows, columns].
    ///
    /// # Errors
    /// When slices or parameters do not fit the shape.
    pub fn dequantize(
        &self,
        codes: &[i8],
        rows: usize,
        columns: usize,
        p: &QuantParams,
        out: &mut [f32],
    ) -> Result<(), GridError> {
        check_len("codes", codes.len(), rows, columns)?;
        check_len("output", out.len(), rows, columns)?;
        let prepared = Prepared::new(self, p, rows, columns)?;
        with_codec!(self.codec(), codec => prepared.for_each(as_bytes(codes), out, |row, codes, out| {
            kernel::decode(codec, codes, columns, prepared.rows(row), out);
        }));
        Ok(())
    }

    /// Replaces every value of `x`, [rows, columns], by the one its code stands for: exactly [`Grid::quantize`] followed by
    /// [`Grid::dequantize`]. A NaN stays one.
    ///
    /// # Errors
    /// When the slice or the parameters do not fit the shape.
    pub fn fake_quantize(&self, x: &mut [f32], rows: usize, columns: usize, p: &QuantParams) -> Result<(), GridError> {
        check_len("values", x.len(), rows, columns)?;
        let prepared = Prepared::new(self, p, rows, columns)?;
        // One value of input per value of output, and nothing to read from it.
        let unused = vec![(); x.len()];
        with_codec!(self.codec(), codec => prepared.for_each(&unused, x, |row, _, x| {
            kernel::fake(codec, x, columns, prepared.rows(row));
        }));
        Ok(())
    }

    /// Fake quantization with scales from the values themselves (their smallest and largest, whatever the observer): per
    /// token, group, channel or tensor. x is [rows, columns].
    ///
    /// # Errors
    /// When a value is not finite (rows before and after it may already be quantized then), the group size does not divide
    /// the columns, or the grid is `dynamic: "local"`, which needs [`Grid::fake_quantize_local`].
    pub fn fake_quantize_dynamic(&self, x: &mut [f32], rows: usize, columns: usize) -> Result<(), GridError> {
        if self.is_local() {
            return Err(ArgsError::new("dynamic", "`dynamic: \"local\"` needs the static scale of the tensor")
                .with_hint("calibrate it, or write `dynamic: true`")
                .into());
        }
        check_len("values", x.len(), rows, columns)?;
        let layout = self.layout(rows, columns)?;
        if layout.height == 1 && !self.is_two_level() {
            return self.fake_quantize_fused(x, &layout, None);
        }
        let range = tensor_range(Matrix::new(x, rows, columns)?, &layout, self.rule().needs_only_absmax())?;
        let parameters = self.parameters_of(&range, None)?;
        self.fake_quantize(x, rows, columns, &parameters)
    }

    /// As [`Grid::fake_quantize_dynamic`] for `tensor_group` with a tensor-wide scale that was calibrated.
    ///
    /// # Errors
    /// When a value is not finite, the group size does not divide the columns, or the strategy is another.
    pub fn fake_quantize_local(
        &self,
        x: &mut [f32],
        rows: usize,
        columns: usize,
        global_scale: f32,
    ) -> Result<(), GridError> {
        check_len("values", x.len(), rows, columns)?;
        if !self.is_two_level() {
            return Err(GridError::Shape(format!("{} has no tensor-wide scale", self.args())));
        }
        self.fake_quantize_fused(x, &self.layout(rows, columns)?, Some(global_scale))
    }

    fn fake_quantize_fused(&self, x: &mut [f32], layout: &Layout, global: Option<f32>) -> Result<(), GridError> {
        if layout.is_empty() {
            return Ok(());
        }
        let (rule, columns, rows, width) = (self.rule(), layout.columns, layout.rows_per_task(), layout.width);
        let bad = with_codec!(self.codec(), codec => {
            let task = |index: usize, x: &mut [f32]| {
                kernel::fused_fake(codec, &rule, x, columns, width, global).map(|offset| index * rows * columns + offset)
            };
            if layout.is_large() {
                x.par_chunks_mut(rows * columns).enumerate().filter_map(|(index, x)| task(index, x)).min()
            } else {
                task(0, x)
            }
        });
        bad.map_or(Ok(()), |offset| Err(not_finite(x, columns, offset)))
    }

    /// The straight-through gradient of [`Grid::fake_quantize`]: `grad_out` where the value was rounded, zero where it was
    /// clipped, that is where the grid ends before the nearest step. All slices are [rows, columns].
    ///
    /// # Errors
    /// When slices or parameters do not fit the shape.
    pub fn straight_through(
        &self,
        x: &[f32],
        rows: usize,
        columns: usize,
        p: &QuantParams,
        grad_out: &[f32],
        grad_in: &mut [f32],
    ) -> Result<(), GridError> {
        check_len("values", x.len(), rows, columns)?;
        check_len("gradient", grad_out.len(), rows, columns)?;
        check_len("gradient", grad_in.len(), rows, columns)?;
        let prepared = Prepared::new(self, p, rows, columns)?;
        with_codec!(self.codec(), codec => prepared.for_each(x, grad_in, |row, x, grad_in| {
            let start = row * columns;
            let grad_out = &grad_out[start..start + x.len()];
            kernel::straight_through(codec, x, columns, prepared.rows(row), grad_out, grad_in);
        }));
        Ok(())
    }
}
