//! Planting outliers: an exact rescaling between two linears that makes a few activation channels large.
//!
//! In a gated MLP the input of `down_proj` is linear in the rows of `up_proj`:
//!
//! ```text
//! h_j = silu(g_j · x) (u_j · x + b_j)            input channel j of down_proj
//! y   = Σ_j d_j h_j                              d_j: column j of down_proj
//!     = Σ_j (d_j / s_j) (s_j h_j)                for any s_j ≠ 0
//! ```
//!
//! So row `u_j` and bias `b_j` times `s_j`, and column `d_j` over `s_j`, leave the function as it is while the activation grows
//! `s_j`-fold. With `s_j` a power of two every product only changes its exponent: the model computes the same bits. It is
//! the rescaling of SmoothQuant (Xiao et al. 2023, arXiv:2211.10438, equation 3) run backwards.

use half::{bf16, f16};
use workbench_api::sdk::{Dtype, Error};

/// Whether multiplying by it changes nothing but exponents.
pub(crate) fn is_power_of_two(scale: f64) -> bool {
    const MANTISSA: u64 = (1 << f64::MANTISSA_DIGITS.saturating_sub(1)) - 1;
    scale.is_normal() && scale > 0.0 && scale.to_bits() & MANTISSA == 0
}

/// How far each channel's maximum stands out: over the median of all channels' maxima.
pub(crate) fn maximum_over_median(absmax: &[f32]) -> Vec<f32> {
    let mut sorted = absmax.to_vec();
    sorted.sort_by(f32::total_cmp);
    // A site most of whose channels are dead has no median to compare with.
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default().max(f32::MIN_POSITIVE);
    absmax.iter().map(|max| max / median).collect()
}

/// Euclidean norm of each row of a matrix `[_, columns]`.
pub(crate) fn row_norms(matrix: &[f32], columns: usize) -> Vec<f32> {
    let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt() as f32;
    matrix.chunks_exact(columns.max(1)).map(norm).collect()
}

/// The `count` channels of the highest score, in ascending order; of equal scores the first.
pub(crate) fn pick(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// Multiplies the elements at the given indices, in the tensor's own dtype.
///
/// # Errors
/// The dtype is no float, or a product is not exact: it overflows, or loses bits among the subnormal numbers.
pub(crate) fn scale(
    dtype: Dtype,
    bytes: &mut [u8],
    indices: impl Iterator<Item = usize>,
    factor: f64,
) -> Result<(), Error> {
    match dtype {
        Dtype::F64 => each(bytes, indices, |b| exact(f64::from_le_bytes(b), factor, |v| v).map(f64::to_le_bytes)),
        Dtype::F32 => {
            each(bytes, indices, |b| exact(f32::from_le_bytes(b).into(), factor, |v| v as f32).map(f32::to_le_bytes))
        }
        Dtype::F16 => {
            each(bytes, indices, |b| exact(f16::from_le_bytes(b).into(), factor, f16::from_f64).map(f16::to_le_bytes))
        }
        Dtype::BF16 => each(bytes, indices, |b| {
            exact(bf16::from_le_bytes(b).into(), factor, bf16::from_f64).map(bf16::to_le_bytes)
        }),
        other => Err(Error::unsupported(format!("a tensor of {other:?} cannot be rescaled"))),
    }
}

fn each<const N: usize>(
    bytes: &mut [u8],
    indices: impl Iterator<Item = usize>,
    product: impl Fn([u8; N]) -> Option<[u8; N]>,
) -> Result<(), Error> {
    let (elements, _) = bytes.as_chunks_mut::<N>();
    for index in indices {
        let length = elements.len();
        let element =
            elements.get_mut(index).ok_or_else(|| Error::input(format!("element {index} of a tensor of {length}")))?;
        *element = product(*element).ok_or_else(|| {
            Error::numeric(format!("element {index} times the scale is not exact in the tensor's dtype"))
                .with_hint("take a smaller `scale`, or a model in another dtype")
        })?;
    }
    Ok(())
}

/// The product in the dtype that `narrow` leads to, unless it differs from the real one.
fn exact<T: Copy + Into<f64>>(value: f64, factor: f64, narrow: impl Fn(f64) -> T) -> Option<T> {
    let product = narrow(value * factor);
    let wide: f64 = product.into();
    (wide / factor == value).then_some(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_told_from_the_rest() {
        assert!([1.0, 2.0, 64.0, 0.25, 2f64.powi(40)].into_iter().all(is_power_of_two));
        assert!(![0.0, -2.0, 3.0, 1.5, f64::NAN, f64::INFINITY, 63.999_999].into_iter().any(is_power_of_two));
    }

    #[test]
    fn the_channels_that_stand_out_are_picked() {
        assert_eq!(maximum_over_median(&[2.0, 1.0, 8.0, 1.0, 3.0]), [1.0, 0.5, 4.0, 0.5, 1.5]);
        assert_eq!(pick(&[1.0, 4.0, 4.0, 9.0], 2), [1, 3]);
        assert_eq!(pick(&[1.0], 3), [0]);
        assert_eq!(row_norms(&[3.0, 4.0, 0.0, 1.0], 2), [5.0, 1.0]);
    }

    #[test]
    fn products_are_exact_or_refused() {
        let mut bytes = [1.5f32, -3.0, f32::MAX].map(f32::to_le_bytes).concat();
        scale(Dtype::F32, &mut bytes, [0, 1].into_iter(), 64.0).unwrap();
        assert_eq!(bytes, [96.0f32, -192.0, f32::MAX].map(f32::to_le_bytes).concat());
        assert!(scale(Dtype::F32, &mut bytes, [2].into_iter(), 2.0).is_err());
        assert!(scale(Dtype::F32, &mut bytes, [3].into_iter(), 2.0).is_err());

        let mut halves = [f16::from_f32(6e-5), f16::from_f32(1.0)].map(f16::to_le_bytes).concat();
        scale(Dtype::F16, &mut halves, [1].into_iter(), 1.0 / 1024.0).unwrap();
        // Below the normal numbers of f16 bits get lost.
        assert!(scale(Dtype::F16, &mut halves, [0].into_iter(), 1.0 / 1024.0).is_err());
        assert!(scale(Dtype::I8, &mut halves, [0].into_iter(), 2.0).is_err());
    }

    /// The MLP of the module's documentation, in f32.
    fn mlp(gate: &[f32], up: &[f32], bias: &[f32], down: &[f32], x: &[f32], inner: usize) -> Vec<f32> {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        let hidden: Vec<f32> = (0..inner)
            .map(|j| {
                let at = j * x.len()..(j + 1) * x.len();
                let g = dot(&gate[at.clone()]);
                g / (1.0 + (-g).exp()) * (dot(&up[at]) + bias[j])
            })
            .collect();
        down.chunks(inner).map(|row| row.iter().zip(&hidden).map(|(w, h)| w * h).sum()).collect()
    }

    #[test]
    fn the_function_keeps_every_bit() {
        let (hidden, inner) = (6, 10);
        let noise = |seed: u32, count: usize| -> Vec<f32> {
            (0..count).map(|i| ((i as f32 + 1.0) * (seed as f32 + 0.37)).sin()).collect()
        };
        let (gate, up) = (noise(1, hidden * inner), noise(2, hidden * inner));
        let (bias, down, x) = (noise(3, inner), noise(4, hidden * inner), noise(5, hidden));
        let before = mlp(&gate, &up, &bias, &down, &x, inner);

        let picked = [1, 4, 9];
        let scaled = |values: &[f32], indices: Vec<usize>, factor: f64| -> Vec<f32> {
            let mut bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            scale(Dtype::F32, &mut bytes, indices.into_iter(), factor).unwrap();
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let rows = picked.iter().flat_map(|j| j * hidden..(j + 1) * hidden).collect();
        let columns = picked.iter().flat_map(|j| (0..hidden).map(move |i| i * inner + j)).collect();
        let up = scaled(&up, rows, 256.0);
        let bias = scaled(&bias, picked.to_vec(), 256.0);
        let down = scaled(&down, columns, 1.0 / 256.0);
        let after = mlp(&gate, &up, &bias, &down, &x, inner);
        assert_eq!(
            before.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            after.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        );
    }
}
