//! Gradients by rotations, from gradients by rotated weights.
//!
//! Let R → R (I + X). A weight W' = W R that reads what R rotates goes to W' (I + X); one that writes it, W' = Rᵀ W, to
//! (I + Xᵀ) W'. With G = ∂L/∂W' the loss changes by tr(Gᵀ W' X) and tr(Gᵀ Xᵀ W'), so that Z = ∂L/∂X is the sum of
//!
//! ```text
//! W'ᵀ G   over weights (and embeddings, and biases as rows) whose rows are rotated
//! W' Gᵀ   over weights whose columns are rotated
//! ```
//!
//! Blocks of a weight that share a rotation add up in the same way. Where nothing is quantized the loss does not depend on R,
//! and Z is symmetric: its skew part is the gradient along the rotations.

use workbench_api::sdk::Error;
use workbench_model::ModelConfig;
use workbench_model::decoder::Gradients;
use workbench_rotation::{Square, transpose};

use super::model::Folded;
use crate::source::model_error;

/// Gradients by R1 and by the R2 of each block; `None` for what is not learned.
pub(crate) struct ByRotation {
    pub(crate) hidden: Option<Square>,
    pub(crate) values: Option<Vec<Square>>,
}

/// Sums over all weights. `sizes` are those of R1 and R2, where they are learned.
pub(crate) fn by_rotation(
    config: &ModelConfig,
    folded: &Folded,
    gradients: &Gradients,
    sizes: [Option<usize>; 2],
) -> Result<ByRotation, Error> {
    let zero = |size: usize| Square::new(size, vec![0.0; size * size]);
    let mut found = ByRotation {
        hidden: sizes[0].map(zero).transpose()?,
        values: sizes[1].map(|size| (0..config.num_layers).map(|_| zero(size)).collect()).transpose()?,
    };
    for (name, (shape, weight)) in folded {
        let gradient = gradients.read(name, wide).map_err(model_error)?;
        let gradient = gradient.ok_or_else(|| Error::input(format!("`{name}` has no gradient")))?;
        let pair = Pair { shape, weight: wide(weight), gradient };
        let block = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        if let Some(z) = &mut found.hidden {
            pair.add_hidden(name, z)?;
        }
        if let (Some(values), Some(block)) = (&mut found.values, block) {
            pair.add_values(name, &mut values[block])?;
        }
    }
    Ok(found)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// A rotated tensor and its gradient.
struct Pair<'a> {
    shape: &'a [usize],
    weight: Vec<f64>,
    gradient: Vec<f64>,
}

impl Pair<'_> {
    fn add_hidden(&self, name: &str, z: &mut Square) -> Result<(), Error> {
        let ends = |tails: &[&str]| tails.iter().any(|tail| name.ends_with(tail));
        if ends(&["o_proj.weight", "down_proj.weight"]) {
            self.columns(z)
        } else if ends(&["o_proj.bias", "down_proj.bias"]) || (self.shape.len() == 2 && !name.contains("norm")) {
            self.rows(z)
        } else {
            // Norms, and the biases of linears that read hidden states.
            Ok(())
        }
    }

    fn add_values(&self, name: &str, z: &mut Square) -> Result<(), Error> {
        if name.ends_with("v_proj.weight") {
            self.columns(z)
        } else if name.ends_with("v_proj.bias") || name.ends_with("o_proj.weight") {
            self.rows(z)
        } else {
            Ok(())
        }
    }

    /// W'ᵀ G over blocks of rows.
    fn rows(&self, z: &mut Square) -> Result<(), Error> {
        Ok(z.add_product(&self.weight, &self.gradient)?)
    }

    /// W' Gᵀ over groups of rows.
    fn columns(&self, z: &mut Square) -> Result<(), Error> {
        let columns = self.shape.last().copied().unwrap_or(1);
        let group = z.size() * columns;
        for (weight, gradient) in self.weight.chunks(group).zip(self.gradient.chunks(group)) {
            z.add_product(&transpose(weight, columns), &transpose(gradient, columns))?;
        }
        Ok(())
    }
}
