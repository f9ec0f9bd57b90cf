//! Statistics per site, as transforms ask for them.

use std::collections::{BTreeMap, BTreeSet};

use workbench_api::job::Statistic;
use workbench_model::{
    ActivationStorage, Activations, Checkpoint, ModelConfig, Site,
    decoder::Block,
    statistics::{SiteStatistics, Wants},
};

use super::{LayerwiseCalibration, Observation, SiteObserver, SiteVisitor};
use crate::error::{Error, Result};

/// Which statistics are wanted of which sites, by the sites' names.
pub type Wanted = BTreeMap<String, BTreeSet<Statistic>>;

/// What has to be gathered for some statistics.
pub fn wants<'a>(kinds: impl IntoIterator<Item = &'a Statistic>) -> Wants {
    kinds.into_iter().fold(Wants::default(), |wants, kind| match kind {
        Statistic::Gram => Wants { gram: true, ..wants },
        Statistic::Count => wants,
        _ => Wants { channels: true, ..wants },
    })
}

/// What was found, by the sites' names.
pub type Found = BTreeMap<String, SiteStatistics>;

/// Collects the wanted statistics of the model as it is. `kept` says how many blocks an interrupted walk has behind it, loads the hidden
/// states behind them, and is told of every block that is done.
///
/// # Errors
/// An unknown site; a site that no token reached; an activation that is not finite; what `kept` runs into.
pub fn statistics(
    checkpoint: &Checkpoint,
    wanted: &Wanted,
    sequences: &[Vec<u32>],
    storage: ActivationStorage,
    kept: &mut dyn Kept,
) -> Result<Found> {
    let config = checkpoint.config();
    let (done, found) = kept.found();
    let mut gatherer = Gatherer { wanted, found };
    let mut pass = match done {
        0 => LayerwiseCalibration::begin(checkpoint, sequences, storage)?,
        _ => {
            let mut pass = LayerwiseCalibration::empty(config, sequences, storage)?;
            kept.load(pass.hidden_mut())?;
            pass
        }
    };
    for index in done..config.num_layers {
        let mut block = pass.load(checkpoint, index)?;
        pass.whole_block(index, &mut block, false, &mut gatherer)?;
        kept.done(index + 1, pass.hidden(), &gatherer.found)?;
    }
    pass.head(checkpoint, &mut gatherer)?;
    let found = gatherer.found;
    match wanted.keys().find(|site| !found.contains_key(*site)) {
        Some(missing) if of_expert(config, missing) => {
            Err(Error::refused(format!("no calibration token was routed to the expert of `{missing}`"))
                .hint("calibrate with more tokens"))
        }
        Some(missing) => Err(Error::refused(format!("the model has no site `{missing}`"))),
        None => Ok(found),
    }
}

/// Whether a site of that name lies in an expert.
fn of_expert(config: &ModelConfig, name: &str) -> bool {
    config.linears().iter().any(|linear| linear.site.expert.is_some() && linear.site.to_string() == name)
}

/// Where a walk leaves what it has found, and goes on after an interruption.
pub trait Kept {
    /// Blocks that are done, and what was found in them.
    fn found(&self) -> (usize, Found);

    /// Loads the hidden states behind them.
    ///
    /// # Errors
    /// They are not what was left.
    fn load(&self, hidden: &mut Activations) -> Result<()>;

    /// So many blocks are done.
    ///
    /// # Errors
    /// It cannot be left; the node is to stop.
    fn done(&mut self, blocks: usize, hidden: &Activations, found: &Found) -> Result<()>;
}

struct Gatherer<'a> {
    wanted: &'a Wanted,
    found: Found,
}

impl SiteVisitor for Gatherer<'_> {
    fn observe(&mut self, site: Site, features: usize) -> Result<Option<SiteObserver>> {
        let kinds = self.wanted.get(&site.to_string());
        kinds.map(|kinds| SiteObserver::new(site, features, wants(kinds), &[])).transpose()
    }

    fn visit(&mut self, site: Site, observation: Option<Observation>, _: Option<&mut Block>) -> Result<()> {
        if let Some(observation) = observation {
            self.found.insert(site.to_string(), observation.statistics);
        }
        Ok(())
    }
}
