//! What the calibration tokens say about a site.

use candle_core::{D, Tensor};
use serde_json::json;
use workbench_api::job::Facts;
use workbench_api::sdk::{Error, note_left_alone};

/// Sums over the tokens that passed one site, in f64 and in the order of the tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    tokens: u64,
    /// Whether the site is an expert's, which tokens reach only where they are routed to it.
    of_expert: bool,
    sum_abs: Vec<f64>,
    /// `XᵀX`, row by row, where it is wanted.
    gram: Option<Vec<f64>>,
}

impl Observed {
    /// Nothing seen yet; `gram` asks for `XᵀX`, `of_expert` says whose site it is.
    pub(crate) fn new(gram: bool, of_expert: bool) -> Self {
        Self { gram: gram.then(Vec::new), of_expert, ..Self::default() }
    }

    /// What is to be said of the site of an expert that fewer tokens reached than a search should go by, and than one.
    pub(crate) fn too_little(&self, least: u64) -> Option<Facts> {
        let least = least.max(1);
        (self.of_expert && self.tokens < least).then(|| {
            let mut facts = Facts::from_iter([("tokens".to_owned(), json!(self.tokens))]);
            note_left_alone(&mut facts, &format!("fewer than {least} calibration tokens reached their expert"));
            facts
        })
    }

    /// Adds the tokens of `x` `[.., features]`.
    ///
    /// # Errors
    /// A value is not finite.
    pub(crate) fn add(&mut self, x: &Tensor) -> Result<(), Error> {
        let features = x.dim(D::Minus1)?;
        let rows = x.reshape(((), features))?;
        let values: Vec<f32> = rows.flatten_all()?.to_vec1()?;
        if let Some(bad) = values.iter().position(|v| !v.is_finite()) {
            let message = format!("the activation is {} in channel {}", values[bad], bad % features);
            return Err(
                Error::numeric(message).with_hint("look for weights that overflow, or evaluate the model first")
            );
        }
        self.sum_abs.resize(features, 0.0);
        for row in values.chunks_exact(features) {
            self.sum_abs.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(v.abs()));
            self.tokens += 1;
        }
        if let Some(gram) = &mut self.gram {
            gram.resize(features * features, 0.0);
            let product: Vec<f32> = rows.t()?.contiguous()?.matmul(&rows)?.flatten_all()?.to_vec1()?;
            gram.iter_mut().zip(product).for_each(|(sum, v)| *sum += f64::from(v));
        }
        Ok(())
    }

    /// Mean magnitude per channel.
    ///
    /// # Errors
    /// No token passed.
    pub(crate) fn mean_abs(&self) -> Result<Vec<f64>, Error> {
        if self.tokens == 0 {
            return Err(Error::input("no calibration token reached it"));
        }
        Ok(self.sum_abs.iter().map(|sum| sum / self.tokens as f64).collect())
    }

    /// Mean squared error that a change `E` of a weight, `[rows, features]`, makes in the linear's output:
    ///
    /// ```text
    /// mean over tokens x and outputs i of (E x)_i²  =  Σ_i e_i (XᵀX) e_iᵀ / (tokens · rows)        e_i: row i of E
    /// ```
    ///
    /// # Errors
    /// The Gram matrix was not asked for, or the shapes do not fit.
    pub(crate) fn output_error(&self, change: &Tensor) -> Result<f64, Error> {
        let (rows, features) = change.dims2()?;
        let gram = self.gram.as_ref().ok_or_else(|| Error::input("its Gram matrix was not collected"))?;
        let gram: Vec<f32> = gram.iter().map(|v| *v as f32).collect();
        let gram = Tensor::from_vec(gram, (features, features), change.device())?;
        let product: Vec<f32> = change.matmul(&gram)?.flatten_all()?.to_vec1()?;
        let change: Vec<f32> = change.flatten_all()?.to_vec1()?;
        let sum: f64 = product.iter().zip(&change).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        // Rounding of f32 products may leave an error of nothing a hair below zero.
        Ok(sum.max(0.0) / (self.tokens * rows as u64) as f64)
    }
}

/// The sum of squared differences of two tensors of one shape, and how many there are.
pub(crate) fn squared_difference(a: &Tensor, b: &Tensor) -> Result<(f64, u64), Error> {
    let (a, b): (Vec<f32>, Vec<f32>) = (a.flatten_all()?.to_vec1()?, b.flatten_all()?.to_vec1()?);
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    Ok((a.iter().zip(&b).map(square).sum(), a.len() as u64))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn noise(seed: f64, count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i as f64 + 1.3) * (seed + 0.77)).sin() as f32).collect()
    }

    #[test]
    fn the_gram_matrix_gives_the_error_over_all_tokens() {
        let (tokens, features, rows) = (37, 6, 4);
        let x = noise(1.0, tokens * features);
        let e = noise(2.0, rows * features);
        let mut observed = Observed::new(true, false);
        for part in [&x[..10 * features], &x[10 * features..]] {
            let count = part.len() / features;
            observed.add(&Tensor::from_slice(part, (1, count, features), &Device::Cpu).unwrap()).unwrap();
        }
        let found = observed.output_error(&Tensor::from_slice(&e, (rows, features), &Device::Cpu).unwrap()).unwrap();
        let mut brute = 0.0;
        for x in x.chunks(features) {
            for e in e.chunks(features) {
                brute += x.iter().zip(e).map(|(x, e)| f64::from(*x) * f64::from(*e)).sum::<f64>().powi(2);
            }
        }
        brute /= (tokens * rows) as f64;
        assert!((found - brute).abs() < 1e-6 * brute, "{found} {brute}");
        let mean = observed.mean_abs().unwrap();
        let by_hand = x.chunks(features).map(|row| f64::from(row[2].abs())).sum::<f64>() / tokens as f64;
        assert!((mean[2] - by_hand).abs() < 1e-12);
    }

    #[test]
    fn a_site_without_tokens_and_bad_activations_are_refused() {
        assert!(Observed::new(false, false).mean_abs().unwrap_err().to_string().contains("no calibration token"));
        let x = Tensor::new(&[[0.0_f32, 1.0], [f32::NAN, 2.0]], &Device::Cpu).unwrap();
        let error = Observed::new(false, false).add(&x).unwrap_err();
        assert!(error.to_string().contains("NaN in channel 0"), "{error}");
    }
}
