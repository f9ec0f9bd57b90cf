//! Weights whose rounding is learned (Cheng et al. 2023, Optimize Weight Rounding via Signed Gradient Descent for the Quantization of
//! LLMs, arXiv:2309.05516).
//!
//! The weights stay. What is learned of each is an offset V, in steps of its grid, and for each rectangle that shares a scale the
//! shares α and β of the lower and the upper end of its range: s and z are those of the range [α min, β max], and the code is that of
//! w + V s. So the kernel that rounds is the one of all grids, and without a step taken the codes are those of round-to-nearest.
//!
//! Rounding is passed straight through: for a value that is not clipped ∂q/∂V = s and ∂q/∂s = (q - w) / s; for one that is, 0 and q / s,
//! and ∂q/∂z = -s.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};
use workbench_quant::{Grid, GridError, Matrix, QuantParams, QuantizedWeight, RangeShares, WeightRanges};

use super::ops::{View, values};
use super::{TensorSource, TrainableParams};
use crate::{ModelError, WeightSource};

/// Ends of the names of variables: behind the name of a weight.
const PARTS: [&str; 3] = [".rounding", ".low_share", ".high_share"];

/// Variables of the rounding of some weights, beside these and all other tensors of a model, which are constants.
pub struct LearnedRoundingParams {
    parameters: TrainableParams,
    /// By the names of weights.
    weights: BTreeMap<String, Arc<Rounding>>,
}

/// What does not change of the rounding of a weight.
struct Rounding {
    name: String,
    grid: Grid,
    ranges: WeightRanges,
    shape: [usize; 2],
}

impl LearnedRoundingParams {
    /// The rounding of weights to their grids, which begins as round-to-nearest. `parameters` are frozen, and variables named after
    /// [`rounding`](Self::rounding) and [`shares`](Self::shares) join them.
    ///
    /// # Errors
    /// There is no such weight, it is not finite, or the grid does not fit it.
    pub fn new(mut parameters: TrainableParams, grids: BTreeMap<String, Grid>) -> Result<Self, ModelError> {
        let all: Vec<String> = parameters.iter().map(|(name, _)| name.to_owned()).collect();
        parameters.freeze(all.iter().map(String::as_str))?;
        let mut weights = BTreeMap::new();
        for (name, grid) in grids {
            let var = parameters.get(&name).ok_or_else(|| refused(&name, "there is no such weight"))?;
            let ((rows, columns), device) = (var.dims2()?, var.device().clone());
            let values = parameters.values(&name)?;
            let ranges = Matrix::new(&values, rows, columns).and_then(|matrix| grid.ranges(matrix));
            let ranges = ranges.map_err(|error| refused(&name, error))?;
            let [of_values, of_ranges] = [[rows, columns], ranges.shape()];
            let starts = [(of_values, 0f32), (of_ranges, 1.0), (of_ranges, 1.0)];
            for (part, ([rows, columns], start)) in PARTS.into_iter().zip(starts) {
                parameters.insert(&format!("{name}{part}"), &Tensor::full(start, (rows, columns), &device)?)?;
            }
            let rounding = Rounding { name: name.clone(), grid, ranges, shape: [rows, columns] };
            weights.insert(name, Arc::new(rounding));
        }
        Ok(Self { parameters, weights })
    }

    /// All variables, frozen ones too.
    pub fn parameters(&self) -> &TrainableParams {
        &self.parameters
    }

    /// The names of the variables of offsets, as a pattern.
    pub fn rounding() -> String {
        format!("*{}", PARTS[0])
    }

    /// The names of the variables of shares, as a pattern.
    pub fn shares() -> &'static str {
        "*_share"
    }

    /// The codes of a weight: those of the values that a decoder built now multiplies.
    ///
    /// # Errors
    /// The rounding of this weight is not learned.
    pub fn quantized(&self, name: &str) -> Result<QuantizedWeight, ModelError> {
        let rounding = self.weights.get(name).ok_or_else(|| refused(name, "it is on no grid"))?;
        let weight = self.parameters.values(name)?;
        let [offsets, low, high] = PARTS.map(|part| self.parameters.values(&format!("{name}{part}")));
        let (offsets, low, high) = (offsets?, low?, high?);
        let made = || -> Result<QuantizedWeight, GridError> {
            let shares = RangeShares { low: &low, high: &high };
            let (master, parameters) = rounding.master(&weight, &offsets, shares)?;
            let [rows, columns] = rounding.shape;
            let codes = rounding.grid.quantize(Matrix::new(&master, rows, columns)?, &parameters)?;
            Ok(QuantizedWeight { grid: rounding.grid.clone(), shape: rounding.shape, codes, parameters })
        };
        made().map_err(|error| refused(name, error))
    }
}

impl TensorSource for LearnedRoundingParams {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let weight = self.parameters.tensor(name, shape)?;
        let Some(rounding) = self.weights.get(name) else { return Ok(weight) };
        let variable = |part: &str, shape: [usize; 2]| self.parameters.tensor(&format!("{name}{part}"), &shape);
        let (offsets, low) = (variable(PARTS[0], rounding.shape)?, variable(PARTS[1], rounding.ranges.shape())?);
        let high = variable(PARTS[2], rounding.ranges.shape())?;
        let op = Round { rounding: Arc::clone(rounding), weight, used: Mutex::default() };
        Ok(offsets.apply_op3(&low, &high, op)?)
    }
}

fn refused(name: &str, problem: impl std::fmt::Display) -> ModelError {
    candle_core::Error::Msg(format!("learning to round `{name}`: {problem}")).into()
}

impl Rounding {
    /// What is rounded to nearest, and on what grid.
    fn master(
        &self,
        weight: &[f32],
        offsets: &[f32],
        shares: RangeShares<'_>,
    ) -> Result<(Vec<f32>, QuantParams), GridError> {
        let parameters = self.grid.parameters_of_shares(&self.ranges, shares)?;
        let mut master = weight.to_vec();
        self.grid.add_steps(&mut master, offsets, &parameters, self.shape)?;
        Ok((master, parameters))
    }
}

/// One rounding of a weight.
struct Round {
    rounding: Arc<Rounding>,
    weight: Tensor,
    /// The parameters of the forward pass, and what was rounded.
    used: Mutex<Option<(Vec<f32>, QuantParams)>>,
}

impl Round {
    fn failed(&self, error: impl std::fmt::Display) -> candle_core::Error {
        candle_core::Error::Msg(format!("rounding `{}` to its grid: {error}", self.rounding.name))
    }

    /// The gradients by offsets and by shares of both ends.
    fn gradients(
        &self,
        rounded: &[f32],
        gradient: &[f32],
        shares: RangeShares<'_>,
    ) -> CandleResult<(Vec<f32>, [Vec<f32>; 2])> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let (master, parameters) = used.as_ref().ok_or_else(|| self.failed("the gradient came before the value"))?;
        let Rounding { grid, ranges, shape, .. } = &*self.rounding;
        let ([rows, columns], weight) = (*shape, View::new(&self.weight)?);
        let made = || -> Result<(Vec<f32>, [Vec<f32>; 2]), GridError> {
            let mut passed = vec![0.0; master.len()];
            grid.straight_through(master, rows, columns, parameters, gradient, &mut passed)?;
            // Offsets are in steps, and do not move with the scale: what it moves is the weight's own place among them.
            let by_scale = grid.scale_gradient(weight.values(), rounded, parameters, gradient, &passed, *shape)?;
            let by_point = match parameters.zero_points {
                Some(_) => Some(grid.zero_point_gradient(parameters, gradient, &passed, *shape)?),
                None => None,
            };
            let by_shares = grid.share_gradients(ranges, shares, parameters, &by_scale, by_point.as_deref())?;
            let mut by_offset = vec![0.0; master.len()];
            grid.add_steps(&mut by_offset, &passed, parameters, *shape)?;
            Ok((by_offset, by_shares))
        };
        made().map_err(|error| self.failed(error))
    }
}

impl CustomOp3 for Round {
    fn name(&self) -> &'static str {
        "round a weight as learned"
    }

    fn cpu_fwd(
        &self,
        v: &CpuStorage,
        vl: &Layout,
        low: &CpuStorage,
        ll: &Layout,
        high: &CpuStorage,
        hl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let [rows, columns] = self.rounding.shape;
        let (offsets, shares) = (values(v, vl)?, RangeShares { low: values(low, ll)?, high: values(high, hl)? });
        let weight = View::new(&self.weight)?;
        let made = || -> Result<(Vec<f32>, Vec<f32>, QuantParams), GridError> {
            let (master, parameters) = self.rounding.master(weight.values(), offsets, shares)?;
            let mut rounded = master.clone();
            self.rounding.grid.fake_quantize(&mut rounded, rows, columns, &parameters)?;
            Ok((rounded, master, parameters))
        };
        let (rounded, master, parameters) = made().map_err(|error| self.failed(error))?;
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some((master, parameters));
        Ok((CpuStorage::F32(rounded), (rows, columns).into()))
    }

    fn bwd(
        &self,
        offsets: &Tensor,
        low: &Tensor,
        high: &Tensor,
        rounded: &Tensor,
        g: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let views = [View::new(rounded)?, View::new(&g)?, View::new(low)?, View::new(high)?];
        let [rounded, gradient, lows, highs] = views.each_ref().map(View::values);
        let (by_offset, [by_low, by_high]) =
            self.gradients(rounded, gradient, RangeShares { low: lows, high: highs })?;
        let like = |values: Vec<f32>, variable: &Tensor| -> CandleResult<Option<Tensor>> {
            variable.track_op().then(|| Tensor::from_vec(values, variable.shape(), variable.device())).transpose()
        };
        Ok((like(by_offset, offsets)?, like(by_low, low)?, like(by_high, high)?))
    }
}
