//! Weights that stay codes while their scales are learned.
//!
//! A weight is then w = s (q - z): codes q and zero-points z are constants, and the scales s are variables, rounded to the dtype in which
//! they are stored before they are used. There are no numbers of full precision behind the codes: what a decoder multiplies is made anew
//! of codes and scales whenever one is built over a [`CodedParams`], and the gradient by a scale is the sum over the weights that share it
//! of their gradients times q - z (Chen et al. 2024, EfficientQAT, arXiv:2407.11062, section 3.3). What the last decoder was built over
//! is what [`CodedParams::quantized`] hands out.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};
use workbench_quant::{QuantParams, QuantizedWeight};

use super::fake_quantized::{above_least, learned_scales};
use super::ops::{View, values};
use super::{TensorSource, TrainableParams};
use crate::{ModelError, WeightSource};

/// A weight of codes whose scales are a variable.
#[derive(Clone, Debug, PartialEq)]
pub struct CodedWeight {
    /// The name of the variable, of the scales' shape.
    pub scales: String,
    /// Codes and zero-points, which stay, and the scales that training begins at. As with learned scales of weights in full precision
    /// no scale becomes less than [`LEAST_SHARE`](super::LEAST_SHARE) of what it began at.
    pub start: QuantizedWeight,
}

impl CodedWeight {
    /// The scales and zero-points for values of the variable.
    fn parameters(&self, values: &[f32]) -> QuantParams {
        let QuantizedWeight { grid, parameters, .. } = &self.start;
        QuantParams { scales: learned_scales(grid, &parameters.scales, values), ..parameters.clone() }
    }
}

/// Variables, beside which some weights are codes.
pub struct CodedParams<'a> {
    parameters: &'a TrainableParams,
    /// By the names of weights.
    weights: BTreeMap<String, Arc<CodedWeight>>,
}

impl<'a> CodedParams<'a> {
    /// `weights` by their names.
    ///
    /// # Errors
    /// The variable of a weight's scales is not there or has another shape than they, or there is a variable for the weight itself.
    pub fn new(parameters: &'a TrainableParams, weights: BTreeMap<String, CodedWeight>) -> Result<Self, ModelError> {
        for (name, CodedWeight { scales, start }) in &weights {
            start.check().map_err(|error| refused(name, error))?;
            let (found, shape) = (parameters.get(scales).map(|var| var.dims().to_vec()), start.parameters.shape);
            if found.as_deref() != Some(&shape) {
                return Err(refused(name, format!("its scales `{scales}` are {found:?}, the grid wants {shape:?}")));
            }
            if parameters.get(name).is_some() {
                return Err(refused(name, "it is a variable too"));
            }
        }
        let weights = weights.into_iter().map(|(name, weight)| (name, Arc::new(weight))).collect();
        Ok(Self { parameters, weights })
    }

    /// Whether a weight is one of codes.
    pub fn has(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    /// The weight with its scales as they are now: the numbers that a decoder built now multiplies.
    ///
    /// # Errors
    /// The weight is none of codes.
    pub fn quantized(&self, name: &str) -> Result<QuantizedWeight, ModelError> {
        let weight = self.weights.get(name).ok_or_else(|| refused(name, "it is no weight of codes"))?;
        let parameters = weight.parameters(&self.parameters.values(&weight.scales)?);
        Ok(QuantizedWeight { parameters, ..weight.start.clone() })
    }
}

impl TensorSource for CodedParams<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let Some(weight) = self.weights.get(name) else { return self.parameters.tensor(name, shape) };
        let QuantizedWeight { parameters, shape: found, .. } = &weight.start;
        if found != shape {
            return Err(refused(name, format!("its shape is {found:?}, the configuration asks for {shape:?}")));
        }
        let scales = self.parameters.tensor(&weight.scales, &parameters.shape)?;
        Ok(scales.apply_op1(Dequantize { name: name.to_owned(), weight: Arc::clone(weight) })?)
    }
}

fn refused(name: &str, problem: impl std::fmt::Display) -> ModelError {
    candle_core::Error::Msg(format!("training the scales of `{name}`: {problem}")).into()
}

/// The numbers that codes stand for, as a function of their scales.
struct Dequantize {
    name: String,
    weight: Arc<CodedWeight>,
}

impl Dequantize {
    fn failed(&self, error: impl std::fmt::Display) -> candle_core::Error {
        candle_core::Error::Msg(format!("the scales of `{}`: {error}", self.name))
    }
}

impl CustomOp1 for Dequantize {
    fn name(&self) -> &'static str {
        "dequantize codes"
    }

    fn cpu_fwd(&self, scales: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let QuantizedWeight { grid, shape: [rows, columns], codes, .. } = &self.weight.start;
        let parameters = self.weight.parameters(values(scales, layout)?);
        let mut made = vec![0.0; rows * columns];
        grid.dequantize(codes, *rows, *columns, &parameters, &mut made).map_err(|error| self.failed(error))?;
        Ok((CpuStorage::F32(made), Shape::from((*rows, *columns))))
    }

    fn bwd(&self, scales: &Tensor, _: &Tensor, g: &Tensor) -> CandleResult<Option<Tensor>> {
        let QuantizedWeight { grid, shape, codes, parameters } = &self.weight.start;
        let g = g.contiguous()?;
        let (gradient, at) = (View::new(&g)?, View::new(scales)?);
        let found = grid.scale_gradient_of_codes(codes, parameters, gradient.values(), *shape);
        let found = found.map_err(|error| self.failed(error))?;
        let kept = above_least(&found, &parameters.scales, at.values());
        Tensor::from_vec(kept, scales.shape(), scales.device()).map(Some)
    }
}
