//! How calibration passes the experts of a block.

use std::collections::BTreeMap;

use candle_core::Tensor;
use workbench_model::{
    ModelError, Site, SiteKind,
    decoder::{Block, Context},
    statistics::{SiteStatistics, Wants},
};

use super::{
    LayerwiseCalibration, Observation, SiteObserver, SiteVisitor,
    layerwise::{finished, watch},
};
use crate::error::Result;

impl LayerwiseCalibration {
    /// Passes the experts of a block in sequential order. Kept apart, what the experts see would take as much memory as the weights of
    /// all: tokens are routed again for each group of experts that is observed together.
    pub(super) fn experts(&mut self, index: usize, block: &mut Block, work: &mut dyn SiteVisitor) -> Result<()> {
        for kind in [SiteKind::MlpInput, SiteKind::DownInput] {
            let sites = self.config.sites(index).into_iter();
            let sites: Vec<_> = sites.filter(|(site, _)| site.kind == kind && site.expert.is_some()).collect();
            match kind == SiteKind::MlpInput && self.all_experts {
                true => self.alike(&sites, block, work)?,
                false => self.apart(&sites, block, work)?,
            }
        }
        let add = |_, hidden: &Tensor, _: &Context| Ok((hidden + block.mlp(hidden, &mut ())?)?);
        Ok(self.states.advance::<ModelError>(add)?)
    }

    /// Sites of one kind at which each expert sees something else.
    fn apart(&self, sites: &[(Site, usize)], block: &mut Block, work: &mut dyn SiteVisitor) -> Result<()> {
        let width = sites.first().map_or(1, |(_, width)| *width);
        for sites in sites.chunks(at_once(width)) {
            let mut observers = BTreeMap::new();
            for (site, width) in sites {
                observers.extend(self.observe(work, *site, *width)?.map(|observer| (*site, observer)));
            }
            let mut seen = self.show(block, observers)?;
            for (site, _) in sites {
                work.visit(*site, seen.remove(site), Some(block))?;
            }
        }
        Ok(())
    }

    /// Sites at which every expert sees every token: what one observer found is the same for all that ask for the same.
    fn alike(&self, sites: &[(Site, usize)], block: &mut Block, work: &mut dyn SiteVisitor) -> Result<()> {
        let mut known: Option<(Wants, SiteStatistics)> = None;
        for (site, width) in sites {
            let Some(observer) = self.observe(work, *site, *width)? else {
                work.visit(*site, None, Some(block))?;
                continue;
            };
            let wants = observer.shareable();
            let observation = match &known {
                Some((of, statistics)) if Some(*of) == wants => {
                    Some(Observation { statistics: statistics.clone(), input_scales: Vec::new() })
                }
                _ => self.show(block, BTreeMap::from([(*site, observer)]))?.remove(site),
            };
            if let (Some(wants), Some(observation), None) = (wants, &observation, &known) {
                known = Some((wants, observation.statistics.clone()));
            }
            work.visit(*site, observation, Some(block))?;
        }
        Ok(())
    }

    /// Shows all tokens to the observers of experts, all at sites of one kind.
    fn show(&self, block: &Block, mut observers: BTreeMap<Site, SiteObserver>) -> Result<BTreeMap<Site, Observation>> {
        let experts: Vec<usize> = observers.keys().filter_map(|site| site.expert).collect();
        let Some(kind) = observers.keys().next().map(|site| site.kind) else { return Ok(BTreeMap::new()) };
        for i in 0..self.len() {
            let x = block.mlp_input(&self.states.get(i)?)?;
            watch(&mut observers, |tap| block.show_experts(&x, kind, &experts, tap))?;
        }
        finished(observers)
    }
}

/// How many experts are observed together: as many Gram matrices of so many features, and tokens that wait for them, as half a GiB holds.
fn at_once(features: usize) -> usize {
    const TOGETHER: usize = 512 << 20;
    (TOGETHER / (4 * features * (features + 512))).max(1)
}
