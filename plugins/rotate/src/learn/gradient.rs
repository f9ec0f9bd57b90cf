//! Gradients by rotations, from what quantizers change.
//!
//! Let R → R (I + X) with X skew. Where nothing is rounded a rotation changes nothing, so that all of a gradient comes from the
//! quantizers: one on rows x that R rotates, q = Q(x), gives Q(x (I + X)) (I - X). With g = ∂L/∂q and x' = ∂L/∂x behind the
//! quantizer,
//!
//! ```text
//! ∂L/∂X = xᵀ x' - qᵀ g = (x - q)ᵀ g + xᵀ (x' - g)
//! ```
//!
//! where x' - g are the few [terms](super::scales) of extremes. Rows are activations, and rows of weights that read what R
//! rotates; the columns of weights that write it are rows of their transpose. Its skew part is the gradient along the rotations.

use std::sync::{Arc, Mutex, PoisonError};

use workbench_api::sdk::Error;
use workbench_quant::RangeTerm;
use workbench_rotation::{RotationError, Square, transpose};

/// The sum of ∂L/∂X over the places that one rotation rotates.
pub(crate) struct Sum {
    products: Square,
    /// The part of extremes, by rows.
    extremes: Vec<f64>,
}

/// A sum that the quantizers of several sites add to.
pub(crate) type Shared = Arc<Mutex<Sum>>;

/// What is rounded: values, the rounded ones, the gradient by these, and the terms of extremes.
#[derive(Clone, Copy)]
pub(crate) struct Rounded<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) rounded: &'a [f32],
    pub(crate) gradient: &'a [f32],
    pub(crate) terms: &'a [RangeTerm],
}

impl Sum {
    /// Zero, for a rotation of a size.
    pub(crate) fn shared(size: usize) -> Result<Shared, RotationError> {
        let products = Square::new(size, vec![0.0; size * size])?;
        Ok(Arc::new(Mutex::new(Self { products, extremes: vec![0.0; size * size] })))
    }

    /// Adds values whose rows are rotated, in blocks of the rotation's size.
    pub(crate) fn add_rows(&mut self, of: Rounded<'_>) -> Result<(), RotationError> {
        let n = self.products.size();
        let errors: Vec<f64> = of.x.iter().zip(of.rounded).map(|(x, q)| f64::from(*x) - f64::from(*q)).collect();
        let gradient: Vec<f64> = of.gradient.iter().map(|g| f64::from(*g)).collect();
        self.products.add_product(&errors, &gradient)?;
        for (at, term) in of.terms {
            let (start, column) = (at / n * n, at % n);
            for (row, x) in of.x[start..start + n].iter().enumerate() {
                self.extremes[row * n + column] += f64::from(*x) * f64::from(*term);
            }
        }
        Ok(())
    }

    /// Adds a weight of `columns` a row whose columns are rotated, in groups of the rotation's size.
    pub(crate) fn add_columns(&mut self, of: Rounded<'_>, columns: usize) -> Result<(), RotationError> {
        let n = self.products.size();
        let group = n * columns;
        for (index, x) in of.x.chunks(group).enumerate() {
            let range = index * group..index * group + x.len();
            let inside = of.terms.iter().filter(|(at, _)| range.contains(at));
            let terms: Vec<RangeTerm> = inside
                .map(|(at, term)| {
                    let at = at - range.start;
                    (at % columns * n + at / columns, *term)
                })
                .collect();
            let (rounded, gradient) = (&of.rounded[range.clone()], &of.gradient[range.clone()]);
            let turned = [transpose(x, columns), transpose(rounded, columns), transpose(gradient, columns)];
            self.add_rows(Rounded { x: &turned[0], rounded: &turned[1], gradient: &turned[2], terms: &terms })?;
        }
        Ok(())
    }

    /// The sum, which begins anew from zero.
    fn take(&mut self) -> Result<Square, RotationError> {
        let n = self.products.size();
        let products = std::mem::replace(&mut self.products, Square::new(n, vec![0.0; n * n])?);
        let extremes = std::mem::replace(&mut self.extremes, vec![0.0; n * n]);
        Square::new(n, products.values().iter().zip(extremes).map(|(a, b)| a + b).collect())
    }
}

/// Sums of R1 and of the R2 of each block, where they are learned.
pub(crate) struct Sums {
    pub(crate) hidden: Option<Shared>,
    pub(crate) values: Option<Vec<Shared>>,
}

impl Sums {
    /// `sizes` are those of R1 and R2, where they are learned.
    pub(crate) fn new(sizes: [Option<usize>; 2], blocks: usize) -> Result<Self, Error> {
        let values = sizes[1].map(|size| (0..blocks).map(|_| Sum::shared(size)).collect());
        Ok(Self { hidden: sizes[0].map(Sum::shared).transpose()?, values: values.transpose()? })
    }

    /// The sum of a block's R2.
    pub(crate) fn values(&self, block: usize) -> Option<&Shared> {
        self.values.as_ref().and_then(|values| values.get(block))
    }

    /// All sums, R1 first, and begins anew from zero.
    pub(crate) fn take(&self) -> Result<Vec<Square>, Error> {
        let all = self.hidden.iter().chain(self.values.iter().flatten());
        Ok(all.map(|sum| locked(sum, Sum::take)).collect::<Result<_, _>>()?)
    }
}

/// Does something with a sum.
pub(crate) fn locked<T>(sum: &Shared, f: impl FnOnce(&mut Sum) -> T) -> T {
    f(&mut sum.lock().unwrap_or_else(PoisonError::into_inner))
}
