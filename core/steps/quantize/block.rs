//! Methods that quantize a block at a time, with its inputs on both paths at hand.

use std::collections::{BTreeMap, BTreeSet};

use workbench_api::job::{Block as BlockJob, Job as Work};
use workbench_model::{
    Site, SiteKind,
    arch::{block_name, block_of},
    decoder::Block,
    statistics::{SiteStatistics, Wants},
};

use super::{
    super::{
        artifact::Put,
        host::{self, BlockInputs},
    },
    Resume, Walk, When, linear,
    made::Made,
    sites,
};
use crate::{
    calib::{self, Look, Order, Pass, Room, Seen, SiteWork},
    error::{Error, Result},
    graph::selector::select,
    progress::Progress as _,
};

/// The stream of a block's inputs.
const INPUTS: &str = "inputs";

/// Quantizes block after block: `full` carries the hidden states of the model as it was given, `quantized` those of what was
/// made of it.
pub(super) fn run<'m>(walk: &Walk<'_>, room: Room, mut made: Made<'m>, resume: &mut Resume) -> Result<Made<'m>> {
    let config = walk.checkpoint.config();
    let (mut full, mut quantized) = begin(walk, &room, &made, resume)?;
    let held = walk.reporter.hold()?;
    quantized.show_all_to_experts(walk.all_experts);
    for index in resume.blocks()..config.num_layers {
        let original = full.load(walk.checkpoint, index)?;
        let job = job(&made, index, full.len())?;
        let mut gatherer = Statistics { wants: wants(&made, &job, index)?, found: BTreeMap::new() };
        for (site, seen) in quantized.gather(index, &original, false, &mut gatherer)? {
            gatherer.found.insert(site.to_string(), seen.statistics);
        }
        let mut inputs = made.inputs();
        inputs.statistics = gatherer.found.iter().map(|(site, found)| (site.clone(), found)).collect();
        inputs.streams.insert(INPUTS, BlockInputs::new(full.hidden(), quantized.hidden()).into());
        let (put, report) = made.plugin.run(&Work::Block(job), inputs)?;
        made.report(&block_name(index), &report);

        let mut block = full.block(config, &put.over(walk.checkpoint), index)?;
        store(&mut made, index, put)?;
        quantized.sequential(index, &mut block, &mut Inputs { made: &mut made })?;
        full.forward(&original)?;
        made.finish_block(index)?;
        let stop = held.check();
        let hidden = [full.hidden(), quantized.hidden()];
        resume.save(index + 1, Some(&hidden), &made.record(), When::before(&stop))?;
        walk.reporter.progress(index as u64 + 1, config.num_layers as u64, "blocks");
        stop?;
    }
    drop(held);
    quantized.head(walk.checkpoint, &mut Inputs { made: &mut made })?;
    Ok(made)
}

fn begin(walk: &Walk<'_>, room: &Room, made: &Made<'_>, resume: &Resume) -> Result<(Pass, Pass)> {
    let config = walk.checkpoint.config();
    let own = |name: &str| -> Result<Room> {
        let folder = room.folder.join(name);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create the folder", &folder, &e))?;
        Ok(Room { folder, memory: room.memory / 2, ..room.clone() })
    };
    let (a, b) = (own("full")?, own("quantized")?);
    if resume.blocks() == 0 {
        return Ok((walk.begin(a, made, Order::FullPrecision)?, walk.begin(b, made, Order::Sequential)?));
    }
    let (mut full, mut quantized) = (Pass::empty(config, walk.sequences, a)?, Pass::empty(config, walk.sequences, b)?);
    resume.load(&mut [full.hidden_mut(), quantized.hidden_mut()])?;
    Ok((full, quantized))
}

/// What the plugin is told about a block: all its linears, those that are left alone without a grid.
fn job(made: &Made<'_>, index: usize, batches: usize) -> Result<BlockJob> {
    let config = made.checkpoint.config();
    let layout = config.block(index);
    let mut linears = Vec::new();
    for info in &layout.linears {
        let target = made.targets.get(&info.site).into_iter().flatten().find(|t| t.info.name == info.name);
        linears.push(match target {
            Some(target) => linear(target, made.checkpoint)?,
            None => host::linear(info, config, serde_json::Value::Null),
        });
    }
    let tensors = layout.tensors().into_iter().map(|tensor| tensor.name).collect();
    Ok(BlockJob { block: index, prefix: layout.name, linears, tensors, batches })
}

/// The statistics that the plugin asks for, by site.
fn wants(made: &Made<'_>, job: &BlockJob, index: usize) -> Result<BTreeMap<Site, Wants>> {
    let sites = sites(made.checkpoint.config(), index);
    let names: Vec<String> = sites.iter().map(Site::to_string).collect();
    let mut kinds: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for need in made.plugin.needs(&Work::Block(job.clone()))?.statistics {
        let patterns = if need.sites.is_empty() { vec!["*".to_owned()] } else { need.sites };
        for name in select(&patterns, &names)? {
            kinds.entry(name.to_owned()).or_default().insert(need.kind);
        }
    }
    Ok(sites.into_iter().filter_map(|site| Some((site, calib::wants(kinds.get(&site.to_string())?)))).collect())
}

/// Stores what the plugin put for a block.
fn store(made: &mut Made<'_>, index: usize, mut put: Put) -> Result<()> {
    if let Some(stray) = put.stray(|name| block_of(name) == Some(index)) {
        return Err(Error::refused(format!("the plugin put `{stray}`, which is not of block {index}")));
    }
    for (name, tensor) in &put.tensors {
        made.put_dense(name, tensor)?;
    }
    for site in sites(made.checkpoint.config(), index) {
        let targets = made.targets.remove(&site).unwrap_or_default();
        for target in &targets {
            let name = &target.info.name;
            let weight = put.weights.remove(name);
            let weight = weight.ok_or_else(|| Error::internal(format!("no codes of `{name}` arrived")))?;
            made.take(target, &weight, None)?;
        }
        made.targets.insert(site, targets);
    }
    Ok(())
}

/// Gathers statistics.
struct Statistics {
    wants: BTreeMap<Site, Wants>,
    found: BTreeMap<String, SiteStatistics>,
}

impl SiteWork for Statistics {
    fn look(&mut self, site: Site, features: usize) -> Result<Option<Look>> {
        self.wants.get(&site).map(|wants| Look::new(site, features, *wants, &[])).transpose()
    }

    fn reached(&mut self, _: Site, _: Option<Seen>, _: Option<&mut Block>) -> Result<()> {
        Ok(())
    }
}

/// Calibrates input scales of a block whose weights are quantized already. An `lm_head` is rounded to nearest when it is reached:
/// the plugin takes blocks.
struct Inputs<'m, 'a> {
    made: &'m mut Made<'a>,
}

impl SiteWork for Inputs<'_, '_> {
    fn look(&mut self, site: Site, features: usize) -> Result<Option<Look>> {
        if matches!(site.kind, SiteKind::Key | SiteKind::Value) {
            return self.made.look_at_cache(site);
        }
        let grids = self.made.calibrated_inputs(site);
        if grids.is_empty() {
            return Ok(None);
        }
        Ok(Some(Look::new(site, features, Wants::default(), &grids)?))
    }

    fn reached(&mut self, site: Site, seen: Option<Seen>, block: Option<&mut Block>) -> Result<()> {
        if matches!(site.kind, SiteKind::Key | SiteKind::Value) {
            return self.made.cache_site(site, seen, block);
        }
        let targets = self.made.targets.remove(&site).unwrap_or_default();
        for target in &targets {
            self.made.rounded_here(target)?;
        }
        let scales = seen.map(|s| s.input_scales).unwrap_or_default();
        self.made.set_inputs(site, &targets, &scales, block)?;
        self.made.targets.insert(site, targets);
        Ok(())
    }
}
