//! What a quantization has made so far, and how the next linear is made.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::Tensor;
use serde_json::{Map, Value, json};
use workbench_api::job::{self, Facts};
use workbench_model::{
    Checkpoint, ModelConfig, ModelError, Site, SiteKind,
    config::EMBEDDINGS,
    decoder::{ActivationQuantizer, Block, GridQuantizer},
    device::HOST,
    statistics::Wants,
};
use workbench_quant::{Dynamic, Grid, QuantParams, QuantizedWeight, preset};

use super::progress::{INPUTS, KEYS_AND_VALUES, Progress, parsed, silent_sites};
use super::{
    super::{
        artifact::{Artifact, DenseTensor},
        host::{self, Plugin},
        schemes::{self, Target},
    },
    Resume, RoundedEmbeddingsAndHead,
    kv_cache::KvCache,
    rounded::Rounded,
};
use crate::{
    calib::{self, InputScale, Observation, SiteObserver, SiteVisitor},
    error::{Error, Result},
    exec::{NodeReporter, return_freed_memory},
    plugin::Scope,
    store::Scratch,
};

/// A quantized model in the making.
pub(super) struct QuantizationState<'a> {
    pub plugin: Plugin<'a>,
    pub checkpoint: &'a Checkpoint,
    reporter: &'a NodeReporter,
    pub targets: BTreeMap<Site, Vec<Target>>,
    pub embeddings_and_head: RoundedEmbeddingsAndHead,
    wants: BTreeMap<Site, Wants>,
    data_is_due: bool,
    /// Tokens below which an expert's linears are rounded to nearest.
    min_expert_tokens: usize,
    cache: Option<KvCache>,
    artifact: Artifact,
    progress: Progress,
}

impl<'a> QuantizationState<'a> {
    /// Takes over what `resume` found.
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        plugin: Plugin<'a>,
        reporter: &'a NodeReporter,
        (all, embeddings_and_head): (Vec<Target>, RoundedEmbeddingsAndHead),
        cache: Option<KvCache>,
        resume: &mut Resume,
    ) -> Result<Self> {
        let mut data_is_due = cache.as_ref().is_some_and(KvCache::is_static);
        let mut wants = BTreeMap::new();
        data_is_due |= all.iter().any(|target| target.calibrated_inputs().is_some());
        let by_plugin = |target: &&Target| embeddings_and_head.of_linear(&target.info.name).is_none();
        for target in all.iter().filter(|_| plugin.scope() == Scope::Linear).filter(by_plugin) {
            let needs = plugin.needs(&job::Job::Linear(target.linear(checkpoint.config())?))?;
            let wanted = calib::wants(needs.statistics.iter().map(|need| &need.kind));
            data_is_due |= needs.statistics.iter().any(|need| !need.optional);
            let entry: &mut Wants = wants.entry(target.info.site).or_default();
            (entry.channels, entry.gram) = (entry.channels | wanted.channels, entry.gram | wanted.gram);
        }
        let calibrated = all.iter().filter_map(|t| Some((t.info.name.as_str(), t.calibrated_inputs()?))).collect();
        if let Some(fault) = resume.progress().fault(&calibrated, cache.as_ref().and_then(KvCache::calibrated)) {
            let message = format!("what an interrupted run left is not taken over, and its work done again: {fault}");
            reporter.log("warn", message);
            resume.start_over()?;
        }
        let coded_experts =
            embeddings_and_head.quantized.is_empty() && cache.is_none() && are_coded_experts(&all, checkpoint.config());
        let inputs = schemes::inputs(&all);
        let resumed = |resume: &Resume| {
            let folder = resume.model_folder();
            Artifact::resume(&folder, checkpoint, &inputs, (embeddings_and_head.unties, coded_experts), resume.blocks())
        };
        let mut artifact = match resumed(resume)? {
            Some(artifact) => artifact,
            None => {
                resume.start_over()?;
                resumed(resume)?.ok_or_else(|| Error::internal("an empty folder cannot be begun"))?
            }
        };
        if let Some(cache) = &cache {
            artifact.put_kv_cache(cache.grid());
        }
        let mut targets: BTreeMap<Site, Vec<Target>> = BTreeMap::new();
        for target in all {
            targets.entry(target.info.site).or_default().push(target);
        }
        let progress = resume.progress().clone();
        let min_expert_tokens = 0;
        let mut state = Self {
            plugin,
            checkpoint,
            reporter,
            targets,
            embeddings_and_head,
            wants,
            data_is_due,
            min_expert_tokens,
            cache,
            artifact,
            progress,
        };
        for (module, stored) in state.progress.scales.clone() {
            state.artifact.put_input_scale(&module, &QuantParams::from(&stored))?;
        }
        for (block, [key, value]) in &state.progress.kv_scales {
            state.artifact.put_kv_scales(*block, &key.into(), &value.into())?;
        }
        Ok(state)
    }

    /// Lets the plugin have linears of experts that so many tokens reach.
    pub(super) fn require_tokens(&mut self, min_expert_tokens: usize) {
        self.min_expert_tokens = min_expert_tokens;
    }

    /// Whether anything has to be observed. Statistics that a plugin can do without are gathered where there is another
    /// reason to pass the model.
    pub(super) fn observes(&self) -> Result<bool> {
        Ok(self.data_is_due)
    }

    /// What the plugin may read of the model.
    pub(super) fn inputs(&self) -> host::Inputs<'a> {
        host::Inputs::of(host::Model::Weights(self.checkpoint))
    }

    /// The part of the record that a resumed run needs.
    pub(super) fn record(&self) -> Progress {
        self.progress.clone()
    }

    /// The grids of a site's inputs whose scales are calibrated, each once.
    pub(super) fn calibrated_inputs(&self, site: Site) -> Vec<Grid> {
        let mut grids: Vec<Grid> = Vec::new();
        for grid in self.targets.get(&site).into_iter().flatten().filter_map(Target::calibrated_inputs) {
            if !grids.contains(grid) {
                grids.push(grid.clone());
            }
        }
        grids
    }

    /// What is to be gathered of keys or values.
    pub(super) fn observe_cache(&self, site: Site) -> Result<Option<SiteObserver>> {
        self.cache.as_ref().map_or(Ok(None), |cache| cache.observe(site))
    }

    /// Keys or values have passed: from here on the block caches them rounded.
    pub(super) fn cache_site(
        &mut self,
        site: Site,
        observation: Option<Observation>,
        block: Option<&mut Block>,
    ) -> Result<()> {
        let (Some(cache), Some(index)) = (&mut self.cache, site.block) else { return Ok(()) };
        let Some(scales) = cache.visit(site, observation, block)? else { return Ok(()) };
        self.artifact.put_kv_scales(index, &scales.key, &scales.value)?;
        self.progress.kv_scales.insert(index, [(&scales.key).into(), (&scales.value).into()]);
        let ranges = scales.ranges.into_iter().map(|(site, range)| (site.to_string(), range.to_string()));
        self.progress.kv_ranges.extend(ranges);
        for site in scales.silent {
            self.note_silent(KEYS_AND_VALUES, site);
        }
        Ok(())
    }

    /// Quantizes the linears that read a site, one after the other. What was made of them counts in `block`.
    pub(super) fn quantize_site(
        &mut self,
        site: Site,
        observation: Option<Observation>,
        mut block: Option<&mut Block>,
    ) -> Result<()> {
        let tokens = observation.as_ref().map_or(0, |observation| observation.statistics.count());
        let too_few = site.expert.is_some() && self.observes_for_plugin(site) && tokens < self.min_expert_tokens as u64;
        let (statistics, scales) = match observation {
            Some(Observation { statistics, input_scales }) => (Some(statistics), input_scales),
            None => (None, Vec::new()),
        };
        let targets = self.targets.remove(&site).unwrap_or_default();
        if statistics.is_some() {
            return_freed_memory();
        }
        for target in &targets {
            if self.rounded_here(target)? {
                continue;
            }
            if too_few {
                self.round_to_nearest(target, block.as_deref_mut())?;
                continue;
            }
            let mut inputs = self.inputs();
            inputs.statistics = statistics.iter().map(|found| (site.to_string(), found)).collect();
            let (weight, report) = self.plugin.quantize(target.linear(self.checkpoint.config())?, inputs)?;
            self.take(target, &weight, block.as_deref_mut())?;
            self.checkpoint.drop_pages([self.checkpoint.config().weight_of(&target.info.name).as_str()]);
            self.report(&target.info.name, &report);
        }
        drop(statistics);
        self.set_inputs(site, &targets, &scales, block)?;
        self.targets.insert(site, targets);
        Ok(())
    }

    /// Whether the plugin looks at a site.
    fn observes_for_plugin(&self, site: Site) -> bool {
        self.wants.get(&site).is_some_and(|wants| *wants != Wants::default())
    }

    /// Rounds a linear of an expert that too few tokens reached for the plugin to go by them, and notes it.
    fn round_to_nearest(&mut self, target: &Target, block: Option<&mut Block>) -> Result<()> {
        let name = &target.info.name;
        let weight = self.checkpoint.config().weight_of(name);
        let rounded = Rounded::new(self.checkpoint, weight.clone(), &target.weights)?;
        self.take(target, &rounded.codes(self.checkpoint)?, block)?;
        self.checkpoint.drop_pages([weight.as_str()]);
        let reason = format!("fewer than {} calibration tokens reached their expert", self.min_expert_tokens);
        self.report(name, &Facts::from_iter([("rounded_to_nearest".to_owned(), reason.into())]));
        Ok(())
    }

    /// Stores the codes of a linear that the host itself rounds to nearest, if it is one.
    pub(super) fn rounded_here(&mut self, target: &Target) -> Result<bool> {
        let Some(rounded) = self.embeddings_and_head.of_linear(&target.info.name) else { return Ok(false) };
        self.artifact.put_quantized(&target.info.name, &rounded.codes(self.checkpoint)?)?;
        Ok(true)
    }

    /// Stores a quantized linear, and lets the block compute with it.
    pub(super) fn take(&mut self, target: &Target, weight: &QuantizedWeight, block: Option<&mut Block>) -> Result<()> {
        let name = &target.info.name;
        self.artifact.put_quantized(name, weight)?;
        let Some(block) = block else { return Ok(()) };
        let values = weight
            .dequantize()
            .map_err(|e| Error::internal(format!("the codes of `{name}` cannot be read back")).cause(e.to_string()))?;
        let weight = Tensor::from_vec(values, weight.shape.to_vec(), &HOST).map_err(ModelError::from)?;
        Ok(block.set_weight(name, weight)?)
    }

    /// Stores calibrated input scales, and switches the site's quantizers on in the block.
    pub(super) fn set_inputs(
        &mut self,
        site: Site,
        targets: &[Target],
        scales: &[InputScale],
        mut block: Option<&mut Block>,
    ) -> Result<()> {
        let mut shared: Vec<(&Grid, Arc<dyn ActivationQuantizer>)> = Vec::new();
        for target in targets {
            let Some(grid) = &target.inputs else { continue };
            let scale = scales.iter().find(|s| s.grid == *grid);
            if grid.args().dynamic != Dynamic::Yes {
                let Some(InputScale { parameters, range, .. }) = scale else {
                    return Err(Error::internal(format!("the input of `{}` was not observed", target.info.name)));
                };
                self.artifact.put_input_scale(&target.info.name, parameters)?;
                self.progress.scales.insert(target.info.name.clone(), parameters.into());
                let name = site.to_string();
                if self.progress.ranges.last().is_none_or(|(last, _)| *last != name) {
                    self.progress.ranges.push((name, range.to_string()));
                    if let Some(site) = scale.and_then(|scale| scale.silent_site(site)) {
                        self.note_silent(INPUTS, site);
                    }
                }
            }
            let Some(block) = block.as_deref_mut() else { continue };
            let quantizer = match shared.iter().find(|(known, _)| *known == grid) {
                Some((_, quantizer)) => quantizer.clone(),
                None => {
                    let parameters = scale.map(|s| s.parameters.clone());
                    let state = GridQuantizer::new(grid.clone(), parameters, target.info.in_features)?;
                    let state: Arc<dyn ActivationQuantizer> = Arc::new(state);
                    shared.push((grid, state.clone()));
                    state
                }
            };
            block.set_input_quantizer(&target.info.name, Some(quantizer))?;
        }
        Ok(())
    }

    /// Notes a site whose static scale stands for nothing, and says so at once.
    fn note_silent(&mut self, of: usize, site: String) {
        let message = format!("{site} is zero for every calibration token: its static scale is the least there is");
        self.reporter.log("warn", &message);
        self.progress.silent[of].push(site);
    }

    /// Puts a dense tensor of the block in place of the model's.
    pub(super) fn put_dense(&mut self, name: &str, tensor: &DenseTensor) -> Result<()> {
        let bytes = tensor.bytes.all().map_err(|e| Error::internal(format!("`{name}` cannot be read again: {e}")))?;
        self.artifact.put_dense(name, tensor.dtype, &tensor.shape, &bytes)
    }

    /// Notes what the plugin reported about a module or a block.
    pub(super) fn report(&mut self, name: &str, report: &Facts) {
        if !report.is_empty() {
            self.progress.reports.push((name.to_owned(), Value::Object(report.clone()).to_string()));
        }
    }

    /// Copies whatever of the block is not quantized: its shard is then complete and on disk.
    pub(super) fn finish_block(&mut self, index: usize) -> Result<()> {
        self.artifact.copy_block(self.checkpoint, index)?;
        self.checkpoint.drop_block_pages(index);
        Ok(())
    }

    /// Finishes the folder and tells what is in it.
    pub(super) fn finish(mut self, scratch: &Scratch, facts: &mut Map<String, Value>) -> Result<()> {
        if let Some(embeddings) = &self.embeddings_and_head.embeddings {
            self.artifact.put_quantized(EMBEDDINGS, &embeddings.codes(self.checkpoint)?)?;
        }
        self.artifact.copy_rest(self.checkpoint)?;
        facts.insert("written".into(), self.artifact.finish(scratch)?);
        if !self.progress.ranges.is_empty() {
            let mut grids = self.targets.values().flatten().filter_map(Target::calibrated_inputs);
            let observer = grids.next().and_then(|g| g.args().observer.clone());
            let observed = json!({ "mode": facts["observed"]["order"], "ranges": parsed(self.progress.ranges)? });
            let mut fact = json!({ "observer": observer, "observed": observed });
            silent_sites(&mut fact, &self.progress.silent[INPUTS]);
            facts.insert("input_scales".into(), fact);
        }
        if let Some(cache) = &self.cache {
            let mut fact = cache.fact(
                &facts.get("observed").map_or(Value::Null, |o| o["order"].clone()),
                parsed(self.progress.kv_ranges)?,
            );
            silent_sites(&mut fact, &self.progress.silent[KEYS_AND_VALUES]);
            facts.insert("kv_cache".into(), fact);
        }
        if !self.progress.reports.is_empty() {
            facts.insert("plugin".into(), parsed(self.progress.reports)?);
        }
        Ok(())
    }
}

impl SiteVisitor for QuantizationState<'_> {
    fn observe(&mut self, site: Site, features: usize) -> Result<Option<SiteObserver>> {
        if matches!(site.kind, SiteKind::Key | SiteKind::Value) {
            return self.observe_cache(site);
        }
        let wants = self.wants.get(&site).copied().unwrap_or_default();
        let inputs = self.calibrated_inputs(site);
        if wants == Wants::default() && inputs.is_empty() {
            return Ok(None);
        }
        Ok(Some(SiteObserver::new(site, features, wants, &inputs)?))
    }

    fn visit(&mut self, site: Site, observation: Option<Observation>, block: Option<&mut Block>) -> Result<()> {
        match site.kind {
            SiteKind::Key | SiteKind::Value => self.cache_site(site, observation, block),
            _ => self.quantize_site(site, observation, block),
        }
    }
}

/// Whether these targets are the linears of all experts of a family that publishes them as MXFP4 codes, and become such codes.
fn are_coded_experts(targets: &[Target], config: &ModelConfig) -> bool {
    let wanted = preset("MXFP4A16").and_then(|scheme| scheme.weights);
    let coded = |target: &Target| {
        target.info.site.expert.is_some() && target.inputs.is_none() && wanted.as_ref() == Some(target.weights.args())
    };
    let experts = config.linears().into_iter().filter(|linear| linear.site.expert.is_some()).count();
    config.publishes_coded_experts() && experts == targets.len() && targets.iter().all(coded)
}
