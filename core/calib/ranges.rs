//! Static scales of the model as it is.

use std::collections::BTreeMap;

use workbench_model::{Checkpoint, Site, decoder::Block, statistics::Wants};
use workbench_quant::Grid;

use super::{InputScale, Look, Pass, Room, Seen, SiteWork};
use crate::{
    error::{Error, Result},
    exec::NodeReporter,
};

/// Observes sites of the model as it was given, and derives their static scales.
///
/// # Errors
/// A site that was never reached; an activation that is not finite, with its site.
pub fn scales(
    checkpoint: &Checkpoint,
    sites: &BTreeMap<Site, Grid>,
    sequences: &[Vec<u32>],
    room: Room,
    reporter: &NodeReporter,
) -> Result<BTreeMap<Site, InputScale>> {
    let config = checkpoint.config();
    let mut observer = Observer { sites, found: BTreeMap::new() };
    let mut pass = Pass::begin(checkpoint, sequences, room)?;
    for index in 0..config.num_layers {
        let mut block = pass.load(checkpoint, index)?;
        pass.at_once(index, &mut block, false, &mut observer)?;
        reporter.progress(index as u64 + 1, config.num_layers as u64, "blocks");
    }
    match sites.keys().find(|site| !observer.found.contains_key(site)) {
        Some(missing) => Err(Error::refused(format!("no calibration token reached {missing}"))),
        None => Ok(observer.found),
    }
}

struct Observer<'a> {
    sites: &'a BTreeMap<Site, Grid>,
    found: BTreeMap<Site, InputScale>,
}

impl SiteWork for Observer<'_> {
    fn look(&mut self, site: Site, features: usize) -> Result<Option<Look>> {
        let grid = self.sites.get(&site);
        grid.map(|grid| Look::new(site, features, Wants::default(), std::slice::from_ref(grid))).transpose()
    }

    fn reached(&mut self, site: Site, seen: Option<Seen>, _: Option<&mut Block>) -> Result<()> {
        if let Some(scale) = seen.and_then(|seen| seen.input_scales.into_iter().next()) {
            self.found.insert(site, scale);
        }
        Ok(())
    }
}
