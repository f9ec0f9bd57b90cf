//! Methods that quantize a block at a time, with its inputs on both paths at hand.

use std::collections::{BTreeMap, BTreeSet};

use workbench_api::job::{self, Block as BlockJob};
use workbench_model::{
    ActivationStorage, Site, SiteKind,
    arch::{block_name, block_of},
    decoder::Block,
    statistics::{SiteStatistics, Wants},
};

use super::{
    super::{
        artifact::Put,
        host::{self, BlockInputs},
    },
    Resume, Walk, When, sites,
    state::QuantizationState,
};
use crate::{
    calib::{self, LayerwiseCalibration, Observation, Order, SiteObserver, SiteVisitor},
    error::{Error, Result},
    graph::selector::select,
    progress::Progress as _,
};

/// The stream of a block's inputs.
const INPUTS: &str = "inputs";

/// Quantizes block after block: `full` carries the hidden states of the model as it was given, `quantized` those of what was
/// made of it.
pub(super) fn run<'m>(
    walk: &Walk<'_>,
    storage: ActivationStorage,
    mut state: QuantizationState<'m>,
    resume: &mut Resume,
) -> Result<QuantizationState<'m>> {
    let config = walk.checkpoint.config();
    let (mut full, mut quantized) = begin(walk, &storage, &state, resume)?;
    let held = walk.reporter.hold()?;
    // Blocks are made by either.
    full.show_all_to_experts(walk.all_experts);
    quantized.show_all_to_experts(walk.all_experts);
    for index in resume.blocks()..config.num_layers {
        let original = full.load(walk.checkpoint, index)?;
        let job = job(&state, index, full.len())?;
        let mut gatherer = Statistics { wants: wants(&state, &job, index)?, found: BTreeMap::new() };
        for (site, observation) in quantized.gather(index, &original, false, &mut gatherer)? {
            gatherer.found.insert(site.to_string(), observation.statistics);
        }
        let mut inputs = state.inputs();
        inputs.statistics = gatherer.found.iter().map(|(site, found)| (site.clone(), found)).collect();
        inputs.streams.insert(INPUTS, BlockInputs::new(full.hidden(), quantized.hidden()).into());
        let (put, report) = state.plugin.run(&job::Job::Block(job), inputs)?;
        state.report(&block_name(index), &report);

        let mut block = full.block(config, &put.over(walk.checkpoint), index)?;
        store(&mut state, index, put)?;
        quantized.sequential(index, &mut block, &mut Inputs { state: &mut state })?;
        full.forward(&original)?;
        state.finish_block(index)?;
        let stop = held.check();
        let hidden = [full.hidden(), quantized.hidden()];
        resume.save(index + 1, Some(&hidden), &state.record(), When::before(&stop))?;
        walk.reporter.progress(index as u64 + 1, config.num_layers as u64, "blocks");
        stop?;
    }
    drop(held);
    quantized.head(walk.checkpoint, &mut Inputs { state: &mut state })?;
    Ok(state)
}

fn begin(
    walk: &Walk<'_>,
    storage: &ActivationStorage,
    state: &QuantizationState<'_>,
    resume: &Resume,
) -> Result<(LayerwiseCalibration, LayerwiseCalibration)> {
    let config = walk.checkpoint.config();
    let own = |name: &str| -> Result<ActivationStorage> {
        let folder = storage.folder.join(name);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create the folder", &folder, &e))?;
        Ok(ActivationStorage { folder, memory: storage.memory / 2, ..storage.clone() })
    };
    let (a, b) = (own("full")?, own("quantized")?);
    if resume.blocks() == 0 {
        return Ok((walk.begin(a, state, Order::FullPrecision)?, walk.begin(b, state, Order::Sequential)?));
    }
    let (mut full, mut quantized) = (
        LayerwiseCalibration::empty(config, walk.sequences, a)?,
        LayerwiseCalibration::empty(config, walk.sequences, b)?,
    );
    resume.load(&mut [full.hidden_mut(), quantized.hidden_mut()])?;
    Ok((full, quantized))
}

/// What the plugin is told about a block: all its linears, those that are left alone without a grid.
fn job(state: &QuantizationState<'_>, index: usize, batches: usize) -> Result<BlockJob> {
    let config = state.checkpoint.config();
    let layout = config.block(index);
    let mut linears = Vec::new();
    for info in &layout.linears {
        let target = state.targets.get(&info.site).into_iter().flatten().find(|t| t.info.name == info.name);
        linears.push(match target {
            Some(target) => target.linear(config)?,
            None => host::linear(info, config),
        });
    }
    let tensors = layout.tensors().into_iter().map(|tensor| tensor.name).collect();
    Ok(BlockJob { block: index, prefix: layout.name, linears, tensors, batches })
}

/// The statistics that the plugin asks for, by site.
fn wants(state: &QuantizationState<'_>, job: &BlockJob, index: usize) -> Result<BTreeMap<Site, Wants>> {
    let sites = sites(state.checkpoint.config(), index);
    let names: Vec<String> = sites.iter().map(Site::to_string).collect();
    let mut kinds: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for need in state.plugin.needs(&job::Job::Block(job.clone()))?.statistics {
        let patterns = if need.sites.is_empty() { vec!["*".to_owned()] } else { need.sites };
        for name in select(&patterns, &names)? {
            kinds.entry(name.to_owned()).or_default().insert(need.kind);
        }
    }
    Ok(sites.into_iter().filter_map(|site| Some((site, calib::wants(kinds.get(&site.to_string())?)))).collect())
}

/// Stores what the plugin put for a block.
fn store(state: &mut QuantizationState<'_>, index: usize, mut put: Put) -> Result<()> {
    if let Some(stray) = put.stray(|name| block_of(name) == Some(index)) {
        return Err(Error::refused(format!("the plugin put `{stray}`, which is not of block {index}")));
    }
    for (name, tensor) in &put.tensors {
        state.put_dense(name, tensor)?;
    }
    for site in sites(state.checkpoint.config(), index) {
        let targets = state.targets.remove(&site).unwrap_or_default();
        for target in &targets {
            let name = &target.info.name;
            let weight = put.weights.remove(name);
            let weight = weight.ok_or_else(|| Error::internal(format!("no codes of `{name}` arrived")))?;
            state.take(target, &weight, None)?;
        }
        state.targets.insert(site, targets);
    }
    Ok(())
}

/// Gathers statistics.
struct Statistics {
    wants: BTreeMap<Site, Wants>,
    found: BTreeMap<String, SiteStatistics>,
}

impl SiteVisitor for Statistics {
    fn observe(&mut self, site: Site, features: usize) -> Result<Option<SiteObserver>> {
        self.wants.get(&site).map(|wants| SiteObserver::new(site, features, *wants, &[])).transpose()
    }

    fn visit(&mut self, _: Site, _: Option<Observation>, _: Option<&mut Block>) -> Result<()> {
        Ok(())
    }
}

/// Calibrates input scales of a block whose weights are quantized already. An `lm_head` is rounded to nearest when it is reached:
/// the plugin takes blocks.
struct Inputs<'m, 'a> {
    state: &'m mut QuantizationState<'a>,
}

impl SiteVisitor for Inputs<'_, '_> {
    fn observe(&mut self, site: Site, features: usize) -> Result<Option<SiteObserver>> {
        if matches!(site.kind, SiteKind::Key | SiteKind::Value) {
            return self.state.observe_cache(site);
        }
        let grids = self.state.calibrated_inputs(site);
        if grids.is_empty() {
            return Ok(None);
        }
        Ok(Some(SiteObserver::new(site, features, Wants::default(), &grids)?))
    }

    fn visit(&mut self, site: Site, observation: Option<Observation>, block: Option<&mut Block>) -> Result<()> {
        if matches!(site.kind, SiteKind::Key | SiteKind::Value) {
            return self.state.cache_site(site, observation, block);
        }
        let targets = self.state.targets.remove(&site).unwrap_or_default();
        for target in &targets {
            self.state.rounded_here(target)?;
        }
        let scales = observation.map(|s| s.input_scales).unwrap_or_default();
        self.state.set_inputs(site, &targets, &scales, block)?;
        self.state.targets.insert(site, targets);
        Ok(())
    }
}
