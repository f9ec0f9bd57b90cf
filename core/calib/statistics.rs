//! Statistics per site, as plugins ask for them.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use workbench_api::job::Statistic;
use workbench_model::{Checkpoint, Site};
use workbench_quant::Matrix;

use super::{
    ranges::with_matrix,
    walk::{batches, walk},
};
use crate::{
    error::{Error, Result},
    exec::NodeReporter,
};

/// Which statistics are wanted of which sites, by the sites' names.
pub type Wanted = BTreeMap<String, BTreeSet<&'static str>>;

/// What was seen at one site.
#[derive(Clone, Debug, Default)]
pub struct SiteStatistics {
    pub features: usize,
    /// Tokens seen.
    pub count: u64,
    pub min: Vec<f32>,
    pub max: Vec<f32>,
    sum_abs: Vec<f64>,
    /// `XᵀX`, row by row; both halves.
    pub gram: Option<Vec<f32>>,
}

impl SiteStatistics {
    fn new(features: usize, gram: bool) -> Self {
        Self {
            features,
            count: 0,
            min: vec![f32::INFINITY; features],
            max: vec![f32::NEG_INFINITY; features],
            sum_abs: vec![0.0; features],
            gram: gram.then(|| vec![0.0; features * features]),
        }
    }

    /// The values of a statistic with their shape; `None` if it was not collected.
    pub fn values(&self, kind: Statistic) -> Option<(Vec<f32>, Vec<usize>)> {
        let vector = |values: Vec<f32>| Some((values, vec![self.features]));
        match kind {
            Statistic::Min => vector(self.min.clone()),
            Statistic::Max => vector(self.max.clone()),
            Statistic::Absmax => vector(self.min.iter().zip(&self.max).map(|(a, b)| a.abs().max(b.abs())).collect()),
            Statistic::MeanAbs => vector(self.sum_abs.iter().map(|s| (s / self.count.max(1) as f64) as f32).collect()),
            Statistic::Gram => self.gram.clone().map(|g| (g, vec![self.features, self.features])),
            Statistic::Count | Statistic::Rows => None,
        }
    }

    fn add(&mut self, x: Matrix<'_>) {
        self.count += x.rows() as u64;
        for row in x.values().chunks_exact(self.features) {
            for (j, &v) in row.iter().enumerate() {
                self.min[j] = self.min[j].min(v);
                self.max[j] = self.max[j].max(v);
                self.sum_abs[j] += f64::from(v.abs());
            }
        }
        if let Some(gram) = &mut self.gram {
            add_gram(gram, x.values(), self.features);
        }
    }

    /// The Gram matrix is symmetric: only one half is accumulated, the other copied at the end.
    fn finish(&mut self) {
        let n = self.features;
        if let Some(gram) = &mut self.gram {
            for i in 0..n {
                for j in i + 1..n {
                    gram[j * n + i] = gram[i * n + j];
                }
            }
        }
    }
}

/// Adds the upper half of `XᵀX`. Rows of the result are independent, so any number of threads gives the same sums.
fn add_gram(gram: &mut [f32], x: &[f32], n: usize) {
    gram.par_chunks_exact_mut(n).enumerate().for_each(|(i, out)| {
        for row in x.chunks_exact(n) {
            let factor = row[i];
            for (sum, &v) in out[i..].iter_mut().zip(&row[i..]) {
                *sum += factor * v;
            }
        }
    });
}

/// Collects the wanted statistics of the model as it is.
///
/// # Errors
/// An unknown site; a site that no token reached; an activation that is not finite.
pub fn statistics(
    checkpoint: &Checkpoint,
    wanted: &Wanted,
    sequences: &[Vec<u32>],
    reporter: &NodeReporter,
) -> Result<BTreeMap<String, SiteStatistics>> {
    let mut found: BTreeMap<String, SiteStatistics> = BTreeMap::new();
    let head = wanted.contains_key(&Site::head().to_string());
    walk(checkpoint, &batches(sequences)?, head, reporter, &mut |site, _, x| {
        let name = site.to_string();
        let Some(kinds) = wanted.get(&name) else { return Ok(()) };
        with_matrix(x, |matrix| {
            if let Some(bad) = matrix.values().iter().position(|v| !v.is_finite()) {
                let channel = bad % matrix.columns();
                return Err(Error::refused(format!("the activation at {name} is not finite in channel {channel}"))
                    .hint("look for weights that overflow, or evaluate the model first"));
            }
            let site = found
                .entry(name.clone())
                .or_insert_with(|| SiteStatistics::new(matrix.columns(), kinds.contains(Statistic::Gram.name())));
            site.add(matrix);
            Ok(())
        })
    })?;
    for (site, statistics) in &mut found {
        if statistics.count == 0 {
            return Err(Error::refused(format!("no calibration token reached {site}")));
        }
        statistics.finish();
    }
    match wanted.keys().find(|site| !found.contains_key(*site)) {
        Some(missing) => Err(Error::refused(format!("the model has no site `{missing}`"))),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_a_small_matrix() {
        let x = [1.0_f32, -2.0, 3.0, 0.0, 4.0, -1.0];
        let mut site = SiteStatistics::new(3, true);
        site.add(Matrix::new(&x[..3], 1, 3).unwrap());
        site.add(Matrix::new(&x[3..], 1, 3).unwrap());
        site.finish();
        assert_eq!(site.values(Statistic::Absmax).unwrap().0, [1.0, 4.0, 3.0]);
        assert_eq!(site.values(Statistic::Min).unwrap().0, [0.0, -2.0, -1.0]);
        assert_eq!(site.values(Statistic::MeanAbs).unwrap().0, [0.5, 3.0, 2.0]);
        // XᵀX by hand.
        assert_eq!(site.gram.unwrap(), [1.0, -2.0, 3.0, -2.0, 20.0, -10.0, 3.0, -10.0, 10.0]);
    }
}
