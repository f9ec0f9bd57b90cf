//! Statistics per site, as plugins ask for them.

use std::collections::{BTreeMap, BTreeSet};

use workbench_api::job::Statistic;
use workbench_model::{Checkpoint, Site, statistics::SiteStatistics};

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
            site.add(matrix.values());
            Ok(())
        })
    })?;
    if let Some((site, _)) = found.iter().find(|(_, statistics)| statistics.count() == 0) {
        return Err(Error::refused(format!("no calibration token reached {site}")));
    }
    match wanted.keys().find(|site| !found.contains_key(*site)) {
        Some(missing) => Err(Error::refused(format!("the model has no site `{missing}`"))),
        None => Ok(found),
    }
}
