//! Quantization nodes: the decoder is passed block by block, and each linear is quantized when its input is known.

mod block;
mod embeddings;
mod kv_cache;
mod progress;
mod rounded;
mod state;

use serde_json::{Map, Value, json};
use workbench_model::{
    ActivationStorage, ChatTemplate, Checkpoint, ModelConfig, Precision, Site, Tokenizer, arch::EMBEDDINGS,
    checkpoint::Dtype, decoder::keep_pages, device, matmul::Kernel,
};

use self::{
    embeddings::RoundedEmbeddingsAndHead, kv_cache::KvCache, progress::Progress, rounded::Rounded,
    state::QuantizationState,
};
use super::{
    common::{self, StepOutput, When},
    host::Plugin,
    schemes,
};
use crate::{
    calib::{LayerwiseCalibration, Order},
    data::sequences,
    error::{Error, Result},
    exec::{Job, NodeReporter},
    graph::params::{self, CalibrationDtype, TokenOptions},
    plugin::Scope,
    progress::Progress as _,
    store::Scratch,
};

/// Where an interrupted quantization goes on.
type Resume = common::Resume<Progress>;

pub(super) fn run(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<StepOutput> {
    let params::Quantize {
        groups,
        kv_cache,
        untie_word_embeddings,
        observe,
        hidden_states,
        compute_dtype,
        calibrate_all_experts,
        min_expert_tokens,
        calibration: tokens,
        parameters,
    } = job.typed()?;
    let order = observe.unwrap_or_default();
    let checkpoint = Checkpoint::open(job.model("model")?)?;
    checkpoint.check_finite()?;
    let targets = schemes::targets(&groups, (&checkpoint).into())?;
    let plugin = Plugin::open(job, &parameters, scratch, reporter, "layers")?;
    let embeddings_and_head = RoundedEmbeddingsAndHead::new(
        &groups,
        untie_word_embeddings,
        &checkpoint,
        &job.method,
        plugin.scope() == Scope::Block,
    )?;
    let mut facts = Map::new();
    let sequences = calibration(job, tokens.as_ref(), &checkpoint, &mut facts)?;
    facts.insert("layers".into(), schemes::layers(&targets, checkpoint.config()));
    if !embeddings_and_head.quantized.is_empty() || embeddings_and_head.unties {
        facts.insert(
            "embeddings_and_head".into(),
            json!({ "quantized": embeddings_and_head.quantized, "untied": embeddings_and_head.unties }),
        );
    }
    facts.insert("grids".into(), schemes::grids(&targets, embeddings_and_head.embeddings.as_ref().map(Rounded::grid)));
    let warnings = schemes::warnings(&groups, (&checkpoint).into());
    let warnings: Vec<String> = warnings.into_iter().chain(embeddings_and_head.remarks.iter().cloned()).collect();

    let mut resume = Resume::open(scratch, "quantize.json")?;
    resume.take_back(scratch)?;
    let cache = kv_cache.as_ref().map(|given| KvCache::new(given, &checkpoint));
    let mut state = QuantizationState::new(
        &checkpoint,
        plugin,
        reporter,
        (targets, embeddings_and_head),
        cache.transpose()?,
        &mut resume,
    )?;
    state.require_tokens(min_expert_tokens.unwrap_or_default().max(1));
    let passes = state.observes()? || state.plugin.scope() == Scope::Block;
    let state = match (&sequences, passes) {
        (None, true) => {
            return Err(Error::refused(format!("`{}` needs calibration data", job.method))
                .hint("pass calibration: dataset(…).tokens(#{ … })"));
        }
        (Some(sequences), true) => {
            let kept = precision(hidden_states, &checkpoint);
            let storage = ActivationStorage {
                precision: kept,
                compute_dtype: precision(compute_dtype, &checkpoint),
                device: device::chosen(),
                memory: job.memory_limit / 2,
                folder: scratch.work_folder()?,
            };
            let name = |precision: Precision| format!("{precision:?}").to_lowercase();
            let (hidden_states, compute) = (name(storage.precision), name(storage.compute_dtype));
            let kernel = Kernel::of(storage.compute_dtype).name();
            let observed =
                json!({ "order": order, "hidden_states": hidden_states, "compute_dtype": compute, "kernel": kernel });
            facts.insert("observed".into(), observed);
            let walk = Walk { checkpoint: &checkpoint, sequences, order, all_experts: calibrate_all_experts, reporter };
            walk.run(storage, state, &mut resume)?
        }
        (_, false) => without_data(&checkpoint, state, &mut resume, reporter)?,
    };
    if !warnings.is_empty() {
        facts.insert("warnings".into(), json!(warnings));
    }
    state.finish(scratch, &mut facts)?;
    Ok(StepOutput { values: json!({}), facts: Value::Object(facts) })
}

/// The sites of a block that linears read, in forward order.
fn sites(config: &ModelConfig, block: usize) -> Vec<Site> {
    let mut sites: Vec<Site> = config.block(block).linears.into_iter().map(|linear| linear.site).collect();
    sites.dedup();
    sites
}

/// Quantizes linears that need to know nothing about their inputs.
fn without_data<'a>(
    checkpoint: &Checkpoint,
    mut state: QuantizationState<'a>,
    resume: &mut Resume,
    reporter: &NodeReporter,
) -> Result<QuantizationState<'a>> {
    // For the plugin: the host has an allocator of its own. Where data are passed, memory matters more than page faults.
    keep_pages();
    let blocks = checkpoint.config().num_layers;
    let held = reporter.hold()?;
    for index in resume.blocks()..blocks {
        for site in sites(checkpoint.config(), index) {
            state.quantize_site(site, None, None)?;
        }
        state.finish_block(index)?;
        resume.save(index + 1, None, &state.record(), When::Now)?;
        reporter.progress(index as u64 + 1, blocks as u64, "blocks");
        held.check()?;
    }
    drop(held);
    state.quantize_site(Site::head(), None, None)?;
    Ok(state)
}

/// The way through the decoder with calibration data.
struct Walk<'a> {
    checkpoint: &'a Checkpoint,
    sequences: &'a [Vec<u32>],
    order: Order,
    /// Whether every expert sees every token.
    all_experts: bool,
    reporter: &'a NodeReporter,
}

impl Walk<'_> {
    fn run<'m>(
        &self,
        storage: ActivationStorage,
        mut state: QuantizationState<'m>,
        resume: &mut Resume,
    ) -> Result<QuantizationState<'m>> {
        let config = self.checkpoint.config();
        if state.plugin.scope() == Scope::Block {
            return block::run(self, storage, state, resume);
        }
        let mut pass = match resume.blocks() {
            0 => self.begin(storage, &state, self.order)?,
            _ => {
                let mut pass = LayerwiseCalibration::empty(config, self.sequences, storage)?;
                resume.load(&mut [pass.hidden_mut()])?;
                pass
            }
        };
        let held = self.reporter.hold()?;
        pass.show_all_to_experts(self.all_experts);
        for index in resume.blocks()..config.num_layers {
            let mut block = pass.load(self.checkpoint, index)?;
            match self.order {
                Order::Sequential => pass.sequential(index, &mut block, &mut state)?,
                Order::Block => pass.whole_block(index, &mut block, true, &mut state)?,
                Order::FullPrecision => pass.whole_block(index, &mut block, false, &mut state)?,
            }
            state.finish_block(index)?;
            let stop = held.check();
            resume.save(index + 1, Some(&[pass.hidden()]), &state.record(), When::before(&stop))?;
            self.reporter.progress(index as u64 + 1, config.num_layers as u64, "blocks");
            stop?;
        }
        drop(held);
        pass.head(self.checkpoint, &mut state)?;
        Ok(state)
    }

    /// Embeds the sequences: with the embeddings that the order says.
    fn begin(
        &self,
        storage: ActivationStorage,
        state: &QuantizationState<'_>,
        order: Order,
    ) -> Result<LayerwiseCalibration> {
        match &state.embeddings_and_head.embeddings {
            Some(rounded) if order != Order::FullPrecision => LayerwiseCalibration::begin_with(
                self.checkpoint,
                &rounded.over(self.checkpoint),
                self.sequences,
                storage,
            ),
            _ => LayerwiseCalibration::begin(self.checkpoint, self.sequences, storage),
        }
    }
}

/// The precision that was asked for: bfloat16 for a model that has no more than that.
fn precision(asked: Option<CalibrationDtype>, checkpoint: &Checkpoint) -> Precision {
    match asked {
        Some(CalibrationDtype::Float32) => Precision::F32,
        Some(CalibrationDtype::Bfloat16) => Precision::Bf16,
        None if checkpoint.dtype(&checkpoint.config().weight_of(EMBEDDINGS)) == Some(Dtype::BF16) => Precision::Bf16,
        None => Precision::F32,
    }
}

fn calibration(
    job: &Job,
    options: Option<&TokenOptions>,
    checkpoint: &Checkpoint,
    facts: &mut Map<String, Value>,
) -> Result<Option<Vec<Vec<u32>>>> {
    let Some(options) = options else { return Ok(None) };
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let template = ChatTemplate::from_checkpoint(checkpoint)?;
    let found = sequences(job.source("calibration")?, options, &tokenizer, template.as_ref())?;
    facts.insert("calibration".into(), found.facts);
    Ok(Some(found.ids))
}
