//! Statistics per site, as transforms ask for them.

use std::collections::{BTreeMap, BTreeSet};

use workbench_api::job::Statistic;
use workbench_model::{
    Checkpoint, ModelConfig, Site,
    decoder::Block,
    statistics::{SiteStatistics, Wants},
};

use super::{Look, Pass, Room, Seen, SiteWork};
use crate::{
    error::{Error, Result},
    progress::Progress,
};

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

/// Collects the wanted statistics of the model as it is.
///
/// # Errors
/// An unknown site; a site that no token reached; an activation that is not finite.
pub fn statistics(
    checkpoint: &Checkpoint,
    wanted: &Wanted,
    sequences: &[Vec<u32>],
    room: Room,
    progress: &dyn Progress,
) -> Result<BTreeMap<String, SiteStatistics>> {
    let config = checkpoint.config();
    let mut gatherer = Gatherer { wanted, found: BTreeMap::new() };
    let mut pass = Pass::begin(checkpoint, sequences, room)?;
    for index in 0..config.num_layers {
        let mut block = pass.load(checkpoint, index)?;
        pass.at_once(index, &mut block, false, &mut gatherer)?;
        progress.progress(index as u64 + 1, config.num_layers as u64, "blocks");
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

struct Gatherer<'a> {
    wanted: &'a Wanted,
    found: BTreeMap<String, SiteStatistics>,
}

impl SiteWork for Gatherer<'_> {
    fn look(&mut self, site: Site, features: usize) -> Result<Option<Look>> {
        let kinds = self.wanted.get(&site.to_string());
        kinds.map(|kinds| Look::new(site, features, wants(kinds), &[])).transpose()
    }

    fn reached(&mut self, site: Site, seen: Option<Seen>, _: Option<&mut Block>) -> Result<()> {
        if let Some(seen) = seen {
            self.found.insert(site.to_string(), seen.statistics);
        }
        Ok(())
    }
}
