//! Weights in training on their grids.
//!
//! The variables stay numbers of full precision, the masters; what a decoder multiplies are their rounded values, made anew from the
//! masters whenever a decoder is built over a [`FakeQuantizedParams`]. Gradients by the rounded values go to the masters, and to the
//! scales and zero-points where these are learned. What the last decoder was built over is what [`FakeQuantizedParams::quantized`] hands out: the same
//! kernel makes the codes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};
use workbench_quant::{Grid, GridError, Matrix, QuantParams, QuantizedWeight};

use super::ops::{View, values};
use super::{TensorSource, TrainableParams};
use crate::{ModelError, WeightSource};

/// Where the scales of a weight in training come from.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightScales {
    /// From the weight, anew for every decoder; a constant where gradients pass.
    Dynamic,
    /// From the weight, anew for every decoder; gradients pass through its extremes ([`Grid::range_terms`]).
    Follow,
    /// Given, for good.
    Frozen(QuantParams),
    /// Learned: a variable of this name and of the scales' shape, whose values are rounded to the dtype of scales before they are used.
    /// A step never becomes finer than [`LEAST_SHARE`] of what it began at: where the variable is below, a gradient that would lower
    /// it further is zero.
    /// A tensor-wide scale is given. The gradient is that of LSQ (Esser et al. 2020).
    Learned {
        /// The variable.
        name: String,
        /// Where it began, with what is not learned.
        start: QuantParams,
        /// The variable of zero-points, where they are learned too: of the shape of the scales, rounded to whole numbers in the range of
        /// codes before they are used. A gradient that would lead one further out of that range is zero.
        zero_points: Option<String>,
        /// Whether gradients by scales have LSQ's factor (section 2.2): 1 / √(weights that share the scale × highest code).
        lsq_factor: bool,
    },
}

/// The least share of the step that it began at that a learned one can become: one that is next to zero, or crossed it, would leave a
/// grid on which every weight is clipped.
pub const LEAST_SHARE: f32 = 1.0 / 128.0;

/// The scales that the values of a variable stand for, which began at `start`: rounded to the dtype of scales, and at least the
/// [`LEAST_SHARE`] of where they began.
pub(super) fn learned_scales(grid: &Grid, start: &[f32], values: &[f32]) -> Vec<f32> {
    let least = start.iter().map(|start| start * LEAST_SHARE);
    values.iter().zip(least).map(|(scale, least)| grid.round_scale(scale.max(least))).collect()
}

/// The gradient by such values, without what would lower them further where they are at their least.
pub(super) fn above_least(gradient: &[f32], start: &[f32], values: &[f32]) -> Vec<f32> {
    let scales = start.iter().zip(values);
    let kept = gradient.iter().zip(scales).map(|(gradient, (start, scale))| {
        let lowers = *scale <= start * LEAST_SHARE && *gradient > 0.0;
        if lowers { 0.0 } else { *gradient }
    });
    kept.collect()
}

/// The grid of a weight in training, and how gradients pass through it.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightQuantizer {
    /// The grid.
    pub grid: Grid,
    /// Its scales.
    pub scales: WeightScales,
    /// Whether the gradient is stopped where a value is clipped; else it passes everywhere.
    pub stops_at_clipped: bool,
}

/// Variables, of which the weights of some linears are read rounded to their grids.
pub struct FakeQuantizedParams<'a> {
    parameters: &'a TrainableParams,
    /// By the names of weights.
    quantizers: BTreeMap<String, Arc<WeightQuantizer>>,
}

impl<'a> FakeQuantizedParams<'a> {
    /// `quantizers` by the names of weights.
    ///
    /// # Errors
    /// There is no such variable, its shape does not fit the grid, or the variable of learned scales is not there.
    pub fn new(
        parameters: &'a TrainableParams,
        quantizers: BTreeMap<String, WeightQuantizer>,
    ) -> Result<Self, ModelError> {
        for (name, quantizer) in &quantizers {
            let Some(var) = parameters.get(name) else { return Err(refused(name, "there is no such weight")) };
            let (rows, columns) = var.dims2()?;
            let shape = quantizer.grid.parameters_shape(rows, columns).map_err(|error| refused(name, error))?;
            if let WeightScales::Learned { name: scales, zero_points, .. } = &quantizer.scales {
                for (what, variable) in [("scales", Some(scales)), ("zero-points", zero_points.as_ref())] {
                    let Some(variable) = variable else { continue };
                    let found = parameters.get(variable).map(|var| var.dims().to_vec());
                    if found.as_deref() != Some(&shape) {
                        let problem = format!("its {what} `{variable}` are {found:?}, the grid wants {shape:?}");
                        return Err(refused(name, problem));
                    }
                }
                if zero_points.is_some() && quantizer.grid.args().symmetric {
                    return Err(refused(name, "its grid is symmetric: there are no zero-points to learn"));
                }
            }
        }
        let quantizers = quantizers.into_iter().map(|(name, quantizer)| (name, Arc::new(quantizer))).collect();
        Ok(Self { parameters, quantizers })
    }

    /// The codes of a weight: those of the values that a decoder built now multiplies.
    ///
    /// # Errors
    /// The weight is not rounded; it is not finite.
    pub fn quantized(&self, name: &str) -> Result<QuantizedWeight, ModelError> {
        let quantizer = self.quantizers.get(name).ok_or_else(|| refused(name, "it is on no grid"))?;
        let var = self.parameters.get(name).ok_or_else(|| refused(name, "there is no such weight"))?;
        let ((rows, columns), masters) = (var.dims2()?, self.parameters.values(name)?);
        let (scales, zero_points) = match &quantizer.scales {
            WeightScales::Learned { name, zero_points, .. } => {
                let points = zero_points.as_ref().map(|points| self.parameters.values(points)).transpose()?;
                (Some(self.parameters.values(name)?), points)
            }
            _ => (None, None),
        };
        let learned = Learned { scales: scales.as_deref(), zero_points: zero_points.as_deref() };
        let made = || -> Result<QuantizedWeight, GridError> {
            let matrix = Matrix::new(&masters, rows, columns)?;
            let parameters = quantizer.parameters(matrix, learned)?;
            let codes = quantizer.grid.quantize(matrix, &parameters)?;
            Ok(QuantizedWeight { grid: quantizer.grid.clone(), shape: [rows, columns], codes, parameters })
        };
        made().map_err(|error| refused(name, error))
    }
}

impl TensorSource for FakeQuantizedParams<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let weight = self.parameters.tensor(name, shape)?;
        let Some(quantizer) = self.quantizers.get(name) else { return Ok(weight) };
        let op = FakeQuantize { name: name.to_owned(), quantizer: Arc::clone(quantizer), used: Mutex::default() };
        Ok(match &quantizer.scales {
            WeightScales::Learned { name, start, zero_points, .. } => {
                let scales = self.parameters.tensor(name, &start.shape)?;
                match zero_points {
                    Some(points) => weight.apply_op3(&scales, &self.parameters.tensor(points, &start.shape)?, op)?,
                    None => weight.apply_op2(&scales, op)?,
                }
            }
            _ => weight.apply_op1(op)?,
        })
    }
}

fn refused(name: &str, problem: impl std::fmt::Display) -> ModelError {
    candle_core::Error::Msg(format!("training `{name}` on its grid: {problem}")).into()
}

/// The values of the variables that are learned beside a weight.
#[derive(Clone, Copy, Default)]
struct Learned<'a> {
    scales: Option<&'a [f32]>,
    zero_points: Option<&'a [f32]>,
}

impl WeightQuantizer {
    /// The scales and zero-points of a weight as it is now.
    fn parameters(&self, weight: Matrix<'_>, learned: Learned<'_>) -> Result<QuantParams, GridError> {
        match (&self.scales, learned.scales) {
            (WeightScales::Frozen(parameters), _) => Ok(parameters.clone()),
            (WeightScales::Learned { start, .. }, Some(values)) => {
                let rounded = |points: &[f32]| points.iter().map(|point| self.grid.round_zero_point(*point)).collect();
                let zero_points = learned.zero_points.map(rounded).or_else(|| start.zero_points.clone());
                let scales = learned_scales(&self.grid, &start.scales, values);
                Ok(QuantParams { scales, zero_points, ..start.clone() })
            }
            (WeightScales::Learned { start, .. }, None) => Ok(start.clone()),
            (WeightScales::Dynamic | WeightScales::Follow, _) => self.grid.parameters(weight),
        }
    }

    /// The factor of the gradients by scales that `shared` weights share each.
    fn gradient_factor(&self, shared: usize) -> f64 {
        match self.scales {
            WeightScales::Learned { lsq_factor: true, .. } => 1.0 / (shared as f64 * self.grid.largest_code()).sqrt(),
            _ => 1.0,
        }
    }

    /// Where a gradient by a learned scale would make it finer than it can become, it is zero.
    fn held_scale_gradient(&self, scales: &Tensor, gradient: &Tensor) -> CandleResult<Tensor> {
        let WeightScales::Learned { start, .. } = &self.scales else { return Ok(gradient.clone()) };
        let (values, found) = (View::new(scales)?, View::new(gradient)?);
        let kept = above_least(found.values(), &start.scales, values.values());
        Tensor::from_vec(kept, scales.shape(), scales.device())
    }

    /// Where a gradient by a zero-point would lead it out of the range of codes, it is zero.
    fn held_point_gradient(&self, points: &Tensor, gradient: &Tensor) -> CandleResult<Tensor> {
        let (low, high) = self.grid.zero_point_range();
        let (low, high) = (low as f32, high as f32);
        let leaves = |point: f32, gradient: f32| point <= low && gradient > 0.0 || point >= high && gradient < 0.0;
        let (values, found) = (View::new(points)?, View::new(gradient)?);
        let pairs = values.values().iter().zip(found.values());
        let kept = pairs.map(|(point, gradient)| if leaves(*point, *gradient) { 0.0 } else { *gradient }).collect();
        Tensor::from_vec(kept, points.shape(), points.device())
    }
}

/// Gradients by what a rounding reads.
struct Found {
    by_x: Tensor,
    by_scales: Option<Tensor>,
    by_zero_points: Option<Tensor>,
}

/// One rounding of a weight.
struct FakeQuantize {
    name: String,
    quantizer: Arc<WeightQuantizer>,
    /// The parameters of the forward pass.
    used: Mutex<Option<QuantParams>>,
}

impl FakeQuantize {
    fn failed(&self, error: impl std::fmt::Display) -> candle_core::Error {
        candle_core::Error::Msg(format!("rounding `{}` to its grid: {error}", self.name))
    }

    fn forward(&self, weight: &[f32], shape: &Shape, learned: Learned<'_>) -> CandleResult<(CpuStorage, Shape)> {
        let (rows, columns) = shape.dims2()?;
        let made = || -> Result<(Vec<f32>, QuantParams), GridError> {
            let parameters = self.quantizer.parameters(Matrix::new(weight, rows, columns)?, learned)?;
            let mut rounded = weight.to_vec();
            self.quantizer.grid.fake_quantize(&mut rounded, rows, columns, &parameters)?;
            Ok((rounded, parameters))
        };
        let (rounded, parameters) = made().map_err(|error| self.failed(error))?;
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(parameters);
        Ok((CpuStorage::F32(rounded), shape.clone()))
    }

    /// The gradients by the master and, where they are learned, by its scales and zero-points.
    fn backward(&self, x: &Tensor, rounded: &Tensor, g: &Tensor) -> CandleResult<Found> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let parameters = used.as_ref().ok_or_else(|| self.failed("the gradient came before the value"))?;
        let WeightQuantizer { grid, scales, stops_at_clipped } = &*self.quantizer;
        let g = g.contiguous()?;
        let (rows, columns) = x.dims2()?;
        let (views, shape) = ([View::new(x)?, View::new(rounded)?, View::new(&g)?], [rows, columns]);
        let [x_values, rounded, gradient] = views.each_ref().map(View::values);
        let (learned, points) = match scales {
            WeightScales::Learned { zero_points, .. } => (true, zero_points.is_some()),
            _ => (false, false),
        };
        let made = || -> Result<_, GridError> {
            let mut by_x = gradient.to_vec();
            let (mut by_scales, mut by_points) = (None, None);
            if *stops_at_clipped || learned {
                let mut passed = vec![0.0; by_x.len()];
                grid.straight_through(x_values, rows, columns, parameters, gradient, &mut passed)?;
                if learned {
                    by_scales = Some(grid.scale_gradient(x_values, rounded, parameters, gradient, &passed, shape)?);
                }
                if points {
                    by_points = Some(grid.zero_point_gradient(parameters, gradient, &passed, shape)?);
                }
                if *stops_at_clipped {
                    by_x = passed;
                }
            }
            if *scales == WeightScales::Follow {
                for (at, term) in grid.range_terms(x_values, rounded, gradient, shape)? {
                    by_x[at] += term;
                }
            }
            Ok((by_x, [by_scales, by_points]))
        };
        let (by_x, [by_scales, by_points]) = made().map_err(|error| self.failed(error))?;
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, &parameters.shape, x.device());
        let by_scales = by_scales.map(|mut by_scales| {
            let factor = self.quantizer.gradient_factor(x_values.len() / by_scales.len().max(1)) as f32;
            by_scales.iter_mut().for_each(|gradient| *gradient *= factor);
            tensor(by_scales)
        });
        Ok(Found {
            by_x: Tensor::from_vec(by_x, x.shape(), x.device())?,
            by_scales: by_scales.transpose()?,
            by_zero_points: by_points.map(tensor).transpose()?,
        })
    }

    /// The gradient by the scales, where they lead to a variable.
    fn by_scales(&self, scales: &Tensor, found: Option<Tensor>) -> CandleResult<Option<Tensor>> {
        let found = found.filter(|_| scales.track_op());
        found.map(|gradient| self.quantizer.held_scale_gradient(scales, &gradient)).transpose()
    }
}

impl CustomOp1 for FakeQuantize {
    fn name(&self) -> &'static str {
        "fake-quantize a weight"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        self.forward(values(x, layout)?, layout.shape(), Learned::default())
    }

    fn bwd(&self, x: &Tensor, rounded: &Tensor, g: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some(self.backward(x, rounded, g)?.by_x))
    }
}

impl CustomOp2 for FakeQuantize {
    fn name(&self) -> &'static str {
        "fake-quantize a weight with learned scales"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, s: &CpuStorage, sl: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        self.forward(values(x, xl)?, xl.shape(), Learned { scales: Some(values(s, sl)?), zero_points: None })
    }

    fn bwd(
        &self,
        x: &Tensor,
        scales: &Tensor,
        rounded: &Tensor,
        g: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let found = self.backward(x, rounded, g)?;
        Ok((x.track_op().then_some(found.by_x), self.by_scales(scales, found.by_scales)?))
    }
}

impl CustomOp3 for FakeQuantize {
    fn name(&self) -> &'static str {
        "fake-quantize a weight with learned scales and zero-points"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        s: &CpuStorage,
        sl: &Layout,
        z: &CpuStorage,
        zl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let learned = Learned { scales: Some(values(s, sl)?), zero_points: Some(values(z, zl)?) };
        self.forward(values(x, xl)?, xl.shape(), learned)
    }

    fn bwd(
        &self,
        x: &Tensor,
        scales: &Tensor,
        points: &Tensor,
        rounded: &Tensor,
        g: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let found = self.backward(x, rounded, g)?;
        let by_points = found.by_zero_points.filter(|_| points.track_op());
        let by_points = by_points.map(|gradient| self.quantizer.held_point_gradient(points, &gradient)).transpose()?;
        Ok((x.track_op().then_some(found.by_x), self.by_scales(scales, found.by_scales)?, by_points))
    }
}
