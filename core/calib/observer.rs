//! What is gathered while the tokens of the calibration set pass a site.

use candle_core::Tensor;
use serde_json::{Value, json};
use workbench_model::{
    ModelError, Precision, Site,
    activations::with_values,
    statistics::{SiteStatistics, Wants},
};
use workbench_quant::{Grid, GridError, Matrix, QuantParams, observer, observer::RangeObserver};

use crate::error::{Error, Result};

/// Statistics and ranges of one site.
pub struct SiteObserver {
    site: Site,
    wants: Wants,
    statistics: SiteStatistics,
    observers: Vec<(Grid, Box<dyn RangeObserver>)>,
}

/// A static input scale.
pub struct InputScale {
    pub grid: Grid,
    pub parameters: QuantParams,
    /// Smallest and largest value that was observed, for the record.
    pub range: Value,
    /// How many of its scales stand for values that were all zero, and how many scales there are.
    pub silent: (usize, usize),
}

impl InputScale {
    /// The site's name where some of it was silent, with the share.
    pub fn silent_site(&self, site: Site) -> Option<String> {
        match self.silent {
            (0, _) => None,
            (silent, all) if silent == all => Some(site.to_string()),
            (silent, all) => Some(format!("{site} ({silent} of {all} groups)")),
        }
    }
}

/// What an observer found.
pub struct Observation {
    pub statistics: SiteStatistics,
    /// One for each grid that was asked for.
    pub input_scales: Vec<InputScale>,
}

impl SiteObserver {
    /// Nothing seen yet at a site of `features` features; `inputs` are the grids whose static scales are wanted.
    ///
    /// # Errors
    /// A grid has no static scale for activations.
    pub fn new(site: Site, features: usize, wants: Wants, inputs: &[Grid]) -> Result<Self> {
        let observe = |grid: &Grid| {
            let made = observer::for_activations(grid, "minmax").map_err(|e| refused(site, &e))?;
            Ok::<_, Error>((grid.clone(), made))
        };
        let observers = inputs.iter().map(observe).collect::<Result<_>>()?;
        Ok(Self { site, wants, statistics: SiteStatistics::new(features, wants), observers })
    }

    /// The same with products in another precision, before anything is seen.
    pub(super) fn with_precision(mut self, precision: Precision) -> Self {
        self.wants.precision = precision;
        self.statistics = SiteStatistics::new(self.statistics.features(), self.wants);
        self
    }

    /// Adds the activation `[batch, len, features]` of some sequences. To an observer each sequence is a batch of its own, as in
    /// the peers: that decides a moving average.
    ///
    /// # Errors
    /// A value is not finite.
    pub fn add(&mut self, x: &Tensor) -> Result<()> {
        let batch = x.dim(0).map_err(ModelError::from)?;
        with_values(x, |values| self.add_values(values, batch))?
    }

    fn add_values(&mut self, values: &[f32], batch: usize) -> Result<()> {
        self.statistics.add(values);
        let features = self.statistics.features();
        for (_, observer) in &mut self.observers {
            for sequence in values.chunks(values.len() / batch.max(1)) {
                let matrix = Matrix::new(sequence, sequence.len() / features.max(1), features);
                matrix.and_then(|m| observer.observe(m)).map_err(|e| refused(self.site, &e))?;
            }
        }
        Ok(())
    }

    /// What it gathers, where that is the same at every site that the same tokens pass: a static scale belongs to its site.
    pub(super) fn shareable(&self) -> Option<Wants> {
        self.observers.is_empty().then_some(self.wants)
    }

    /// Whether no token has passed.
    pub fn is_empty(&self) -> bool {
        self.statistics.count() == 0
    }

    /// Ends the observation; `None` at the site of an expert that no token was routed to.
    ///
    /// # Errors
    /// No token passed any other site; a value was not finite.
    pub fn finish_routed(self) -> Result<Option<Observation>> {
        if self.site.expert.is_some() && self.is_empty() { Ok(None) } else { self.finish().map(Some) }
    }

    /// Ends the observation.
    ///
    /// # Errors
    /// No token passed; a value was not finite.
    pub fn finish(mut self) -> Result<Observation> {
        let site = self.site;
        if self.statistics.count() == 0 {
            return Err(Error::refused(format!("no calibration token reached {site}")));
        }
        if let Some(channel) = self.statistics.finish() {
            return Err(Error::refused(format!(
                "the activation at {site}, or the sum of its squares, is not finite in channel {channel}"
            ))
            .hint("look for weights that overflow, or evaluate the model first"));
        }
        let scale = |(grid, observer): (Grid, Box<dyn RangeObserver>)| {
            let (min, max) =
                observer.range().ok_or_else(|| Error::refused(format!("no calibration token reached {site}")))?;
            let parameters = grid.parameters_from_range(&min, &max).map_err(|e| refused(site, &e))?;
            grid.check_parameters(&parameters).map_err(|e| refused(site, &e))?;
            let extreme = |values: &[f32], pick: fn(f32, f32) -> f32| values.iter().copied().reduce(pick);
            let range = json!([extreme(&min, f32::min), extreme(&max, f32::max)]);
            let silent = min.iter().zip(&max).filter(|(min, max)| **min == 0.0 && **max == 0.0).count();
            Ok(InputScale { grid, parameters, range, silent: (silent, min.len()) })
        };
        let input_scales = self.observers.into_iter().map(scale).collect::<Result<_>>()?;
        Ok(Observation { statistics: self.statistics, input_scales })
    }
}

fn refused(site: Site, error: &GridError) -> Error {
    Error::refused(format!("cannot observe {site}")).cause(error.to_string()).maybe_hint(error.hint())
}
