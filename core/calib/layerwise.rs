//! The way of the calibration set through the decoder.

use std::{borrow::Cow, collections::BTreeMap};

use candle_core::Tensor;
use workbench_model::{
    ActivationStorage, Activations, Checkpoint, HiddenStates, ModelConfig, ModelError, Precision, Site, SiteKind, Taps,
    WeightSource,
    arch::EMBEDDINGS,
    decoder::{Block, FinalNorm},
};

use super::{Observation, SiteObserver};
use crate::error::Result;

/// What happens at the sites of a block.
pub trait SiteVisitor {
    /// The observer to install at a site of so many features; `None` skips it.
    ///
    /// # Errors
    /// The site cannot be observed as it should be.
    fn observe(&mut self, site: Site, features: usize) -> Result<Option<SiteObserver>>;

    /// All tokens have reached the site. Where `block` is given, the linears that read the site have not run yet, and what is
    /// done to them counts from here on.
    ///
    /// # Errors
    /// Whatever the work runs into.
    fn visit(&mut self, site: Site, observation: Option<Observation>, block: Option<&mut Block>) -> Result<()>;
}

/// The calibration set between two blocks of a decoder.
pub struct LayerwiseCalibration {
    pub(super) states: HiddenStates,
    /// The input of `o_proj` or `down_proj`: all tokens must be there before either runs.
    wide: Option<Activations>,
    /// Keys and values, side by side: all tokens must be there before any is attended to, where static scales of a cache are wanted.
    cached: Option<Activations>,
    /// Sequences and tokens of each batch.
    shapes: Vec<[usize; 2]>,
    pub(super) config: ModelConfig,
    /// Whether every expert sees every token.
    pub(super) all_experts: bool,
    storage: ActivationStorage,
}

impl LayerwiseCalibration {
    /// Embeds the sequences.
    ///
    /// # Errors
    /// A malformed checkpoint; a full disk.
    pub fn begin(checkpoint: &Checkpoint, sequences: &[Vec<u32>], storage: ActivationStorage) -> Result<Self> {
        Self::begin_with(checkpoint, checkpoint, sequences, storage)
    }

    /// The same with a table of embeddings that stands in for the checkpoint's.
    ///
    /// # Errors
    /// A malformed checkpoint; a full disk.
    pub fn begin_with(
        checkpoint: &Checkpoint,
        embeddings: &dyn WeightSource,
        sequences: &[Vec<u32>],
        storage: ActivationStorage,
    ) -> Result<Self> {
        let config = checkpoint.config();
        let mut pass = Self::empty(config, sequences, storage)?;
        let mut rest = sequences;
        let shapes = &pass.shapes;
        pass.states.embed(config, embeddings, |index| {
            let (now, later) = rest.split_at(shapes[index][0]);
            rest = later;
            Cow::Owned(now.concat())
        })?;
        checkpoint.drop_pages([config.weight_of(EMBEDDINGS).as_str()]);
        Ok(pass)
    }

    /// A calibration whose hidden states are still to be [loaded](Self::hidden_mut).
    ///
    /// # Errors
    /// A full disk.
    pub fn empty(config: &ModelConfig, sequences: &[Vec<u32>], storage: ActivationStorage) -> Result<Self> {
        let shapes = batches(sequences, BATCH_TOKENS);
        let hidden = storage.make("hidden", &shapes, config.hidden_size, config.hidden_size)?;
        let states = HiddenStates::new(hidden, &storage.device);
        let config = config.clone();
        Ok(Self { states, wide: None, cached: None, shapes, config, all_experts: false, storage })
    }

    /// Lets every expert see every token, not only those that are routed to it.
    pub fn show_all_to_experts(&mut self, all: bool) {
        self.all_experts = all;
    }

    /// Batches of sequences.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The hidden states before the next block.
    pub fn hidden(&self) -> &Activations {
        self.states.kept()
    }

    /// The same, for loading.
    pub fn hidden_mut(&mut self) -> &mut Activations {
        self.states.kept_mut()
    }

    /// Features of the widest site whose inputs are kept.
    fn widest(&self) -> usize {
        self.attention().max(self.config.intermediate_size)
    }

    /// Features of the input of `o_proj`.
    fn attention(&self) -> usize {
        self.config.num_heads * self.config.head_dim
    }

    /// Features of the keys of a token, and of its values.
    fn kv_features(&self) -> usize {
        self.config.num_kv_heads * self.config.head_dim
    }

    /// Room for the inputs of a wide site, the same memory for all of them.
    fn wide(&mut self, width: usize) -> Result<&mut Activations> {
        if self.wide.is_none() {
            let (widest, hidden) = (self.widest(), self.config.hidden_size);
            self.wide = Some(self.storage.make("wide", &self.shapes, widest, hidden + widest)?);
        }
        let wide = self.wide.as_mut().ok_or_else(|| crate::error::Error::internal("no room was made"))?;
        wide.set_width(width);
        Ok(wide)
    }

    /// Makes a block that multiplies in the compute dtype.
    ///
    /// # Errors
    /// A malformed checkpoint.
    pub fn block(&self, config: &ModelConfig, source: &dyn WeightSource, index: usize) -> Result<Block> {
        let mut block =
            Block::load_for_scoring(config, source, index, self.storage.compute_dtype, &self.storage.device)?;
        block.show_all_to_experts(self.all_experts);
        Ok(block)
    }

    /// Loads a block of a checkpoint, whose pages are not needed while all tokens pass.
    ///
    /// # Errors
    /// A malformed checkpoint.
    pub fn load(&self, checkpoint: &Checkpoint, index: usize) -> Result<Block> {
        let block = self.block(checkpoint.config(), checkpoint, index)?;
        checkpoint.drop_block_pages(index);
        Ok(block)
    }

    pub(super) fn observe(
        &self,
        work: &mut dyn SiteVisitor,
        site: Site,
        features: usize,
    ) -> Result<Option<SiteObserver>> {
        Ok(work.observe(site, features)?.map(|observer| observer.with_precision(self.storage.compute_dtype)))
    }

    /// Passes a block in true sequential order: all tokens pass a site, then what reads it is visited, then it runs. The block cannot
    /// be used any more afterwards.
    ///
    /// # Errors
    /// Whatever the work runs into.
    pub fn sequential(&mut self, index: usize, block: &mut Block, work: &mut dyn SiteVisitor) -> Result<()> {
        let sites = self.config.sites(index).into_iter().map(|(site, _)| site);
        for site in sites.filter(|site| site.expert.is_none()) {
            match site.kind {
                SiteKind::AttentionInput => self.narrow(site, block, work, Block::attention_input)?,
                SiteKind::MlpInput => self.narrow(site, block, work, Block::mlp_input)?,
                SiteKind::Key => self.keys_values(index, block, work)?,
                SiteKind::OutputInput => self.sublayer(site, block, work, Sublayer::Attention)?,
                SiteKind::DownInput => self.sublayer(site, block, work, Sublayer::Mlp)?,
                // Values are seen with keys; nothing is observed at the others.
                _ => {}
            }
        }
        match self.config.experts_of(index) {
            Some(_) => self.experts(index, block, work),
            None => Ok(()),
        }
    }

    /// Observes a norm's output, which is made again whenever it is needed.
    fn narrow(
        &mut self,
        site: Site,
        block: &mut Block,
        work: &mut dyn SiteVisitor,
        norm: fn(&Block, &Tensor) -> Result<Tensor, ModelError>,
    ) -> Result<()> {
        let Some(mut observer) = self.observe(work, site, self.config.hidden_size)? else {
            return work.visit(site, None, Some(block));
        };
        for i in 0..self.len() {
            observer.add(&norm(block, &self.states.get(i)?)?)?;
        }
        work.visit(site, Some(observer.finish()?), Some(block))
    }

    /// Lets the work see keys and values before attention does: where it looks, they are kept, so that no linear runs twice.
    fn keys_values(&mut self, index: usize, block: &mut Block, work: &mut dyn SiteVisitor) -> Result<()> {
        let sites = [SiteKind::Key, SiteKind::Value].map(|kind| Site::in_block(index, kind));
        let features = self.kv_features();
        let mut observers = BTreeMap::new();
        for site in sites {
            observers.extend(self.observe(work, site, features)?.map(|observer| (site, observer)));
        }
        if observers.is_empty() {
            self.cached = None;
        } else {
            if self.cached.is_none() {
                // In f32: what is attended to has the bits of what attention would have made itself.
                let storage = ActivationStorage { precision: Precision::F32, ..self.storage.clone() };
                let together = self.config.hidden_size + self.widest() + 2 * features;
                self.cached = Some(storage.make("cached", &self.shapes, 2 * features, together)?);
            }
            for i in 0..self.len() {
                let input = block.attention_input(&self.states.get(i)?)?;
                let both = watch(&mut observers, |tap| {
                    let both = block.keys_values(&input, self.states.context(i), tap)?;
                    Ok(Tensor::cat(&both.map(|x| x.flatten_from(2)).into_iter().collect::<Result<Vec<_>, _>>()?, 2)?)
                })?;
                self.cached.as_mut().map_or(Ok(()), |cached| cached.set(i, &both).map(drop))?;
            }
        }
        for site in sites {
            let observation = observers.remove(&site).map(SiteObserver::finish).transpose()?;
            work.visit(site, observation, Some(block))?;
        }
        Ok(())
    }

    /// Keys and values of a batch that were [kept](Self::keys_values).
    fn kept_keys_values(&self, index: usize) -> Result<Option<[Tensor; 2]>> {
        let Some(cached) = &self.cached else { return Ok(None) };
        let read = || -> Result<[Tensor; 2], ModelError> {
            let (both, features) = (cached.get(index)?.to_device(&self.storage.device)?, self.kv_features());
            let [batch, len] = self.shapes[index];
            let heads = (batch, len, self.config.num_kv_heads, self.config.head_dim);
            let part = |start| both.narrow(2, start, features)?.contiguous()?.reshape(heads);
            Ok([part(0)?, part(features)?])
        };
        Ok(Some(read()?))
    }

    /// The input of a wide site for a batch.
    fn to_site(&self, sublayer: Sublayer, block: &Block, index: usize, hidden: &Tensor) -> Result<Tensor> {
        Ok(match sublayer {
            Sublayer::Attention => {
                let (x, context) = (block.attention_input(hidden)?, self.states.context(index));
                match self.kept_keys_values(index)? {
                    Some(kept) => block.attend_to(&x, kept, context)?,
                    None => block.attend(&x, context, &mut ())?,
                }
            }
            Sublayer::Mlp => block.mlp_inner(&block.mlp_input(hidden)?)?,
        })
    }

    /// Makes the input of a wide site for all tokens, lets the visitor observe it, and ends the sublayer with what it left.
    fn sublayer(
        &mut self,
        site: Site,
        block: &mut Block,
        work: &mut dyn SiteVisitor,
        sublayer: Sublayer,
    ) -> Result<()> {
        let width = match sublayer {
            Sublayer::Attention => self.attention(),
            Sublayer::Mlp => self.config.intermediate_size,
        };
        let Some(mut observer) = self.observe(work, site, width)? else {
            work.visit(site, None, Some(block))?;
            for i in 0..self.len() {
                let hidden = self.states.get(i)?;
                let input = self.to_site(sublayer, block, i, &hidden)?;
                self.states.set(i, &sublayer.output(block, &hidden, &input)?)?;
            }
            return Ok(());
        };
        for i in 0..self.len() {
            let input = self.to_site(sublayer, block, i, &self.states.get(i)?)?;
            observer.add(&self.wide(width)?.set(i, &input)?)?;
        }
        // Where all tokens wait is where memory is at its largest.
        match sublayer {
            Sublayer::Attention => block.free_qkv(),
            Sublayer::Mlp => block.free_all_but_down(),
        }
        work.visit(site, Some(observer.finish()?), Some(block))?;
        for i in 0..self.len() {
            let input = self.wide(width)?.get(i)?;
            let input = input.to_device(&self.storage.device).map_err(ModelError::from)?;
            self.states.set(i, &sublayer.output(block, &self.states.get(i)?, &input)?)?;
        }
        Ok(())
    }

    /// Passes a block and observes all its sites before anything is done to it. What the work does counts for what the next
    /// block receives if `feed_back` is set.
    ///
    /// # Errors
    /// Whatever the work runs into.
    pub fn whole_block(
        &mut self,
        index: usize,
        block: &mut Block,
        feed_back: bool,
        work: &mut dyn SiteVisitor,
    ) -> Result<()> {
        let mut observation = self.gather(index, block, !feed_back, work)?;
        for (site, _) in self.config.sites(index) {
            work.visit(site, observation.remove(&site), feed_back.then_some(&mut *block))?;
        }
        if feed_back { self.forward(block) } else { Ok(()) }
    }

    /// Looks at all sites of a block as it is. The hidden states go on to the next block if `advance` is set.
    ///
    /// # Errors
    /// A site cannot be observed; a malformed block; a full disk.
    pub fn gather(
        &mut self,
        index: usize,
        block: &Block,
        advance: bool,
        work: &mut dyn SiteVisitor,
    ) -> Result<BTreeMap<Site, Observation>> {
        let mut observers = BTreeMap::new();
        for (site, width) in self.config.sites(index) {
            if let Some(observer) = self.observe(work, site, width)? {
                observers.insert(site, observer);
            }
        }
        if observers.is_empty() && !advance {
            return Ok(BTreeMap::new());
        }
        for i in 0..self.len() {
            let hidden = self.states.get(i)?;
            let next = watch(&mut observers, |tap| block.forward(&hidden, self.states.context(i), tap))?;
            if advance {
                self.states.set(i, &next)?;
            }
        }
        finished(observers)
    }

    /// Passes a block without looking at anything.
    ///
    /// # Errors
    /// A malformed block; a full disk.
    pub fn forward(&mut self, block: &Block) -> Result<()> {
        Ok(self.states.forward(block)?)
    }

    /// Looks at the input of `lm_head`, behind the last block.
    ///
    /// # Errors
    /// Whatever the work runs into.
    pub fn head(&self, checkpoint: &Checkpoint, work: &mut dyn SiteVisitor) -> Result<()> {
        let site = Site::head();
        let Some(mut observer) = self.observe(work, site, self.config.hidden_size)? else {
            return work.visit(site, None, None);
        };
        let norm = FinalNorm::load(checkpoint.config(), checkpoint, &self.storage.device)?;
        for i in 0..self.len() {
            observer.add(&norm.forward(&self.states.get(i)?)?)?;
        }
        work.visit(site, Some(observer.finish()?), None)
    }
}

/// What was observed, but at sites of experts that no token was routed to.
pub(super) fn finished(observers: BTreeMap<Site, SiteObserver>) -> Result<BTreeMap<Site, Observation>> {
    let found = observers
        .into_iter()
        .map(|(site, observer)| Ok(observer.finish_routed()?.map(|observation| (site, observation))));
    found.filter_map(Result::transpose).collect()
}

/// Runs a part of a block and observes the sites that it passes.
pub(super) fn watch<T>(
    observers: &mut BTreeMap<Site, SiteObserver>,
    run: impl FnOnce(&mut dyn Taps) -> Result<T, ModelError>,
) -> Result<T> {
    let mut failed = None;
    let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
        if let (Some(observer), None) = (observers.get_mut(&site), &failed) {
            let x = if x.rank() == 4 { &x.flatten_from(2)? } else { x };
            failed = observer.add(x).err();
        }
        Ok(())
    };
    let result = run(&mut tap)?;
    failed.map_or(Ok(result), Err)
}

/// A part of a block around a wide site.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sublayer {
    Attention,
    Mlp,
}

impl Sublayer {
    /// From hidden states and the input of its last linear to the next hidden states.
    fn output(self, block: &Block, hidden: &Tensor, input: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            Self::Attention => block.attention_output(hidden, input),
            Self::Mlp => block.mlp_output(hidden, input),
        }
    }
}

/// Tokens of a batch, unless one sequence has more: enough for products at their full rate, and more take more memory.
const BATCH_TOKENS: usize = 512;

/// Neighbouring sequences of equal length in batches: how many, and how long.
fn batches(sequences: &[Vec<u32>], tokens: usize) -> Vec<[usize; 2]> {
    let mut shapes: Vec<[usize; 2]> = Vec::new();
    for ids in sequences {
        match shapes.last_mut() {
            Some([batch, len]) if *len == ids.len() && (*batch + 1) * *len <= tokens => *batch += 1,
            _ => shapes.push([1, ids.len()]),
        }
    }
    shapes
}
