//! Quantizers on the inputs of linears.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result as CandleResult, Shape, Tensor};
use workbench_quant::{Dynamic, Grid, GridError, QuantParams};

use super::ops::View;
use crate::ModelError;
use crate::device::HOST;

/// Fake quantization of a linear's input.
pub trait ActivationQuantizer: Send + Sync {
    /// `x` is `[.., features]`; the result has its shape.
    fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError>;
}

/// Rounds to a [`Grid`]: with the parameters of a calibration, or with parameters taken from each input anew.
///
/// The gradient is the straight-through one: it passes where a value is rounded and stops where calibrated parameters clip
/// it. Parameters taken from the input itself are treated as constants that clip nothing, unless the quantizer
/// [follows ranges](Self::following_ranges).
#[derive(Clone, Debug)]
pub struct GridQuantizer {
    grid: Grid,
    parameters: Option<QuantParams>,
    follows_ranges: bool,
}

impl GridQuantizer {
    /// A quantizer for inputs of `features` features. `parameters` belong to a static grid, or hold the global scale of a
    /// `dynamic: "local"` one.
    ///
    /// # Errors
    /// When a static grid comes without parameters, a dynamic one with them, or they do not fit the number of features.
    pub fn new(grid: Grid, parameters: Option<QuantParams>, features: usize) -> Result<Self, ModelError> {
        let contradiction = match (grid.args().dynamic, &parameters) {
            (Dynamic::Yes, Some(_)) => Some("is dynamic and takes no calibrated scales"),
            (Dynamic::No, None) => Some("is static and needs calibrated scales"),
            (Dynamic::Local, Some(parameters)) if parameters.global_scale.is_none() => Some("needs a global scale"),
            (Dynamic::Local, None) => Some("needs a global scale"),
            _ => None,
        };
        if let Some(problem) = contradiction {
            return Err(refused(format!("activation quantizer {} {problem}", grid.args())));
        }
        let quantizer = Self { grid, parameters, follows_ranges: false };
        // One row of zeros shows whether groups divide the features and the scales have the right shape.
        quantizer.round(&mut vec![0.0; features], 1, features).map_err(grid_error)?;
        Ok(quantizer)
    }

    /// The same with gradients that pass through the extremes of each input, where its scales are taken from it
    /// ([`Grid::range_terms`]).
    #[must_use]
    pub fn following_ranges(self) -> Self {
        Self { follows_ranges: true, ..self }
    }

    fn round(&self, x: &mut [f32], rows: usize, columns: usize) -> Result<(), GridError> {
        match (&self.parameters, self.grid.args().dynamic) {
            (Some(QuantParams { global_scale: Some(global), .. }), Dynamic::Local) => {
                self.grid.fake_quantize_local(x, rows, columns, *global)
            }
            (Some(parameters), _) => self.grid.fake_quantize(x, rows, columns, parameters),
            (None, _) => self.grid.fake_quantize_dynamic(x, rows, columns),
        }
    }
}

impl ActivationQuantizer for GridQuantizer {
    fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (device, dtype) = (x.device().clone(), x.dtype());
        let x = x.to_device(&HOST)?.to_dtype(DType::F32)?.contiguous()?;
        Ok(x.apply_op1(self.clone())?.to_dtype(dtype)?.to_device(&device)?)
    }
}

fn refused(message: String) -> ModelError {
    candle_core::Error::Msg(message).into()
}

fn grid_error(error: GridError) -> ModelError {
    refused(format!("activation quantizer: {error}"))
}

fn rows_and_columns(shape: &Shape) -> (usize, usize) {
    let columns = shape.dims().last().copied().unwrap_or(1);
    (shape.elem_count() / columns.max(1), columns)
}

impl CustomOp1 for GridQuantizer {
    fn name(&self) -> &'static str {
        "fake-quantize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let mut values = super::ops::values(x, layout)?.to_vec();
        let (rows, columns) = rows_and_columns(layout.shape());
        self.round(&mut values, rows, columns)
            .map_err(|error| candle_core::Error::Msg(format!("activation quantizer: {error}")))?;
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, rounded: &Tensor, g: &Tensor) -> CandleResult<Option<Tensor>> {
        let (rows, columns) = rows_and_columns(x.shape());
        let (Some(parameters), Dynamic::No) = (&self.parameters, self.grid.args().dynamic) else {
            if !self.follows_ranges || self.grid.args().dynamic != Dynamic::Yes {
                return Ok(Some(g.clone()));
            }
            let g = g.contiguous()?;
            let mut by_x = View::new(&g)?.values().to_vec();
            let (x_view, rounded) = (View::new(x)?, View::new(rounded)?);
            let terms = self.grid.range_terms(x_view.values(), rounded.values(), &by_x, [rows, columns]);
            for (at, term) in
                terms.map_err(|error| candle_core::Error::Msg(format!("activation quantizer: {error}")))?
            {
                by_x[at] += term;
            }
            return Tensor::from_vec(by_x, x.shape(), x.device()).map(Some);
        };
        let g = g.contiguous()?;
        let mut by_x = vec![0.0; x.elem_count()];
        self.grid
            .straight_through(View::new(x)?.values(), rows, columns, parameters, View::new(&g)?.values(), &mut by_x)
            .map_err(|error| candle_core::Error::Msg(format!("activation quantizer: {error}")))?;
        Tensor::from_vec(by_x, x.shape(), x.device()).map(Some)
    }
}
