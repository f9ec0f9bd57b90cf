use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::super::kernels::matmul;
use super::{View, composed, gradient, matrix, on_cpu, output, values};
use crate::Precision;
use crate::device::HOST;
use workbench_matmul as packed;

/// `x[.., i] w[o, i]^T + b[o]`.
pub(in super::super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if !on_cpu(x) || !on_cpu(weight) {
        return composed::linear(x, weight, bias);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        None => x.apply_op2(&weight, Linear),
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, Linear),
    }
}

/// What a linear reads, packed for products in a precision.
pub(in super::super) fn packed(x: &Tensor, precision: Precision) -> Result<packed::Input> {
    if x.track_op() {
        bail!("a product of packed operands has no backward pass")
    }
    let x = x.contiguous()?;
    let (rows, inputs) = matrix(x.shape())?;
    Ok(packed::Input::new(View::new(&x)?.values(), rows, inputs, precision))
}

/// `onto + x[.., i] w[o, i]^T + b[o]` of packed operands, for `x` of the shape `[.., i]` that it had. There is no backward
/// pass.
pub(in super::super) fn linear_packed(
    (x, shape): (&packed::Input, &Shape),
    weight: &packed::Weight,
    bias: Option<&Tensor>,
    onto: Option<&Tensor>,
) -> Result<Tensor> {
    let ([outputs, inputs], mut dims) = (*weight.shape(), shape.dims().to_vec());
    if dims.last() != Some(&inputs) {
        bail!("a linear of {inputs} inputs got a tensor of shape {shape:?}")
    }
    dims.pop();
    dims.push(outputs);
    let mut y = match onto {
        None => weight.product(x, None),
        Some(onto) if onto.dims() == dims => {
            let onto = onto.contiguous()?;
            weight.product(x, Some(View::new(&onto)?.values()))
        }
        Some(onto) => bail!("a tensor of shape {dims:?} cannot be added to one of shape {:?}", onto.shape()),
    };
    if let Some(bias) = bias {
        let bias = bias.contiguous()?;
        add_bias(&mut y, View::new(&bias)?.values());
    }
    Tensor::from_vec(y, dims, &HOST)
}

fn add_bias(y: &mut [f32], bias: &[f32]) {
    for row in y.chunks_exact_mut(bias.len().max(1)) {
        row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
    }
}

struct Linear;

/// Rows, inputs and outputs, and the shape of the result.
fn shapes(x: &Shape, weight: &Shape) -> Result<(usize, usize, usize, Shape)> {
    let (rows, inputs) = matrix(x)?;
    let (outputs, expected) = weight.dims2()?;
    if inputs != expected {
        bail!("a linear of {expected} inputs got a tensor of shape {x:?}")
    }
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    Ok((rows, inputs, outputs, Shape::from(dims)))
}

fn gradients(x: &Tensor, weight: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (rows, inputs, outputs, _) = shapes(x.shape(), weight.shape())?;
    let g = g.contiguous()?;
    let (x_view, weight_view, g) = (View::new(x)?, View::new(weight)?, View::new(&g)?);
    let by_x = if x.track_op() {
        gradient(matmul::linear_input_gradient(g.values(), weight_view.values(), rows, inputs, outputs), x)?
    } else {
        None
    };
    let by_weight = if weight.track_op() {
        gradient(matmul::linear_weight_gradient(g.values(), x_view.values(), rows, inputs, outputs), weight)?
    } else {
        None
    };
    Ok((by_x, by_weight))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs, outputs, shape) = shapes(xl.shape(), wl.shape())?;
        output(matmul::linear(values(x, xl)?, values(w, wl)?, rows, inputs, outputs), shape)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        gradients(x, w, g)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear with bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs, outputs, shape) = shapes(xl.shape(), wl.shape())?;
        let bias = values(b, bl)?;
        if bias.len() != outputs {
            bail!("a linear of {outputs} outputs has a bias of {}", bias.len())
        }
        let mut y = matmul::linear(values(x, xl)?, values(w, wl)?, rows, inputs, outputs);
        add_bias(&mut y, bias);
        output(y, shape)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (by_x, by_weight) = gradients(x, w, g)?;
        let by_bias = if b.track_op() {
            let g = g.contiguous()?;
            let mut sums = vec![0.0; b.elem_count()];
            for row in View::new(&g)?.values().chunks_exact(sums.len()) {
                for (sum, g) in sums.iter_mut().zip(row) {
                    *sum += g;
                }
            }
            gradient(sums, b)?
        } else {
            None
        };
        Ok((by_x, by_weight, by_bias))
    }
}
