//! The way of the calibration set through the decoder.

use std::{collections::BTreeMap, path::PathBuf};

use candle_core::{Device, Tensor};
use workbench_model::{
    Activations, Checkpoint, ModelConfig, ModelError, Precision, Site, SiteKind, Taps, WeightSource,
    arch::EMBEDDINGS,
    decoder::{Block, Context, Embedding, FinalNorm},
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

/// Where activations are kept.
#[derive(Clone, Debug)]
pub struct ActivationStorage {
    pub precision: Precision,
    /// Of the operands of matrix products: those of linears and of Gram matrices. Sums are f32.
    pub compute_dtype: Precision,
    /// On which blocks compute.
    pub device: Device,
    /// Bytes of memory that they may take; what is more lies in files.
    pub memory: u64,
    /// For the files.
    pub folder: PathBuf,
}

/// The calibration set between two blocks of a decoder.
pub struct LayerwiseCalibration {
    hidden: Activations,
    /// The input of `o_proj` or `down_proj`: all tokens must be there before either runs.
    wide: Option<Activations>,
    /// Sequences and tokens of each batch.
    shapes: Vec<[usize; 2]>,
    widest: usize,
    attention: usize,
    intermediate: usize,
    /// Features of the keys of a token, and of its values.
    cached: usize,
    hidden_size: usize,
    config: ModelConfig,
    /// Whether every expert sees every token.
    all_experts: bool,
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
        let mut pass = Self::empty(checkpoint.config(), sequences, storage)?;
        let config = checkpoint.config();
        // Rows of a table that is stored as it is are read one by one; another one is decoded once.
        let name = config.weight_of(EMBEDDINGS);
        let table = match embeddings.has_rows(&name) {
            true => None,
            false => Some(Embedding::load(config, embeddings, &pass.storage.device)?),
        };
        let mut rest = sequences;
        for index in 0..pass.len() {
            let [batch, len] = pass.shapes[index];
            let (now, later) = rest.split_at(batch);
            let hidden = match &table {
                None => Embedding::look_up(config, embeddings, &now.concat(), batch)?,
                Some(table) => {
                    let ids = Tensor::from_vec(now.concat(), (batch, len), &pass.storage.device);
                    let ids = ids.map_err(ModelError::from)?;
                    table.forward(&ids)?
                }
            };
            pass.hidden.set(index, &hidden)?;
            rest = later;
        }
        checkpoint.drop_pages([name.as_str()]);
        Ok(pass)
    }

    /// A calibration whose hidden states are still to be [loaded](Self::hidden_mut).
    ///
    /// # Errors
    /// A full disk.
    pub fn empty(config: &ModelConfig, sequences: &[Vec<u32>], storage: ActivationStorage) -> Result<Self> {
        let shapes = batches(sequences, BATCH_TOKENS);
        let attention = config.num_heads * config.head_dim;
        let cached = config.num_kv_heads * config.head_dim;
        let widest = attention.max(config.intermediate_size);
        let hidden = make("hidden", &shapes, config.hidden_size, &storage, config.hidden_size)?;
        let (intermediate, hidden_size) = (config.intermediate_size, config.hidden_size);
        Ok(Self {
            hidden,
            wide: None,
            shapes,
            widest,
            attention,
            intermediate,
            cached,
            hidden_size,
            config: config.clone(),
            all_experts: false,
            storage,
        })
    }

    /// Lets every expert see every token, not only those that are routed to it.
    pub fn show_all_to_experts(&mut self, all: bool) {
        self.all_experts = all;
    }

    /// Batches of sequences.
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    /// The hidden states before the next block.
    pub fn hidden(&self) -> &Activations {
        &self.hidden
    }

    /// The same, for loading.
    pub fn hidden_mut(&mut self) -> &mut Activations {
        &mut self.hidden
    }

    /// The hidden states of a batch, where blocks compute.
    fn state(&self, index: usize) -> Result<Tensor> {
        Ok(self.hidden.get(index)?.to_device(&self.storage.device).map_err(ModelError::from)?)
    }

    fn context(&self, index: usize) -> Context {
        let [batch, len] = self.shapes[index];
        Context::full(batch, len, None)
    }

    /// Room for the inputs of a wide site, the same memory for all of them.
    fn wide(&mut self, width: usize) -> Result<&mut Activations> {
        if self.wide.is_none() {
            let together = self.hidden_size + self.widest;
            self.wide = Some(make("wide", &self.shapes, self.widest, &self.storage, together)?);
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

    fn observe(&self, work: &mut dyn SiteVisitor, site: Site, features: usize) -> Result<Option<SiteObserver>> {
        Ok(work.observe(site, features)?.map(|observer| observer.with_precision(self.storage.compute_dtype)))
    }

    /// Passes a block in true sequential order. The block cannot be used any more afterwards.
    ///
    /// # Errors
    /// Whatever the work runs into.
    pub fn sequential(&mut self, index: usize, block: &mut Block, work: &mut dyn SiteVisitor) -> Result<()> {
        let site = |kind| Site::in_block(index, kind);
        let narrow = |x: &Self, work: &mut dyn SiteVisitor, block: &mut Block, kind| -> Result<()> {
            let Some(mut observer) = x.observe(work, site(kind), x.hidden_size)? else {
                return work.visit(site(kind), None, Some(block));
            };
            for i in 0..x.len() {
                let hidden = x.state(i)?;
                let input = match kind {
                    SiteKind::AttentionInput => block.attention_input(&hidden)?,
                    _ => block.mlp_input(&hidden)?,
                };
                observer.add(&input)?;
            }
            work.visit(site(kind), Some(observer.finish()?), Some(block))
        };
        narrow(self, work, block, SiteKind::AttentionInput)?;
        self.cached(index, block, work)?;
        self.sublayer(
            site(SiteKind::OutputInput),
            block,
            work,
            Sublayer { width: self.attention, to_site: attend, free_inputs: Block::free_qkv, from_site: project },
        )?;
        narrow(self, work, block, SiteKind::MlpInput)?;
        if self.config.experts_of(index).is_some() {
            return self.experts(index, block, work);
        }
        self.sublayer(
            site(SiteKind::DownInput),
            block,
            work,
            Sublayer {
                width: self.intermediate,
                to_site: intermediate,
                free_inputs: Block::free_all_but_down,
                from_site: down,
            },
        )
    }

    /// Passes the experts of a block. All tokens are routed again for each kind of site: kept apart, what an expert sees would take
    /// as much memory as the weights of all.
    fn experts(&mut self, index: usize, block: &mut Block, work: &mut dyn SiteVisitor) -> Result<()> {
        for kind in [SiteKind::MlpInput, SiteKind::DownInput] {
            let sites = self.config.sites(index).into_iter();
            let sites: Vec<_> = sites.filter(|(site, _)| site.kind == kind && site.expert.is_some()).collect();
            let mut observers = BTreeMap::new();
            for (site, width) in &sites {
                observers.extend(self.observe(work, *site, *width)?.map(|observer| (*site, observer)));
            }
            if !observers.is_empty() {
                for i in 0..self.len() {
                    let hidden = self.state(i)?;
                    watch(&mut observers, |tap| block.mlp(&hidden, tap))?;
                }
            }
            for (site, _) in sites {
                let observation = observers.remove(&site).map(SiteObserver::finish_routed).transpose()?.flatten();
                work.visit(site, observation, Some(block))?;
            }
        }
        for i in 0..self.len() {
            let hidden = self.state(i)?;
            let added = block.mlp(&hidden, &mut ())?;
            self.hidden.set(i, &(hidden + added).map_err(ModelError::from)?)?;
        }
        Ok(())
    }

    /// Lets the work see keys and values, before attention mixes them.
    fn cached(&self, index: usize, block: &mut Block, work: &mut dyn SiteVisitor) -> Result<()> {
        let sites = [SiteKind::Key, SiteKind::Value].map(|kind| Site::in_block(index, kind));
        let mut observers = BTreeMap::new();
        for site in sites {
            observers.extend(self.observe(work, site, self.cached)?.map(|observer| (site, observer)));
        }
        if !observers.is_empty() {
            for i in 0..self.len() {
                let input = block.attention_input(&self.state(i)?)?;
                watch(&mut observers, |tap| block.attend(&input, &self.context(i), tap))?;
            }
        }
        for site in sites {
            let observation = observers.remove(&site).map(SiteObserver::finish).transpose()?;
            work.visit(site, observation, Some(block))?;
        }
        Ok(())
    }

    /// Makes the input of a wide site for all tokens, lets the visitor observe it, and ends the sublayer with what it left.
    fn sublayer(
        &mut self,
        site: Site,
        block: &mut Block,
        work: &mut dyn SiteVisitor,
        sublayer: Sublayer,
    ) -> Result<()> {
        let Some(mut observer) = self.observe(work, site, sublayer.width)? else {
            work.visit(site, None, Some(block))?;
            for i in 0..self.len() {
                let hidden = self.state(i)?;
                let input = (sublayer.to_site)(block, &hidden, &self.context(i))?;
                self.hidden.set(i, &(sublayer.from_site)(block, &hidden, &input)?)?;
            }
            return Ok(());
        };
        for i in 0..self.len() {
            let input = (sublayer.to_site)(block, &self.state(i)?, &self.context(i))?;
            observer.add(&self.wide(sublayer.width)?.set(i, &input)?)?;
        }
        (sublayer.free_inputs)(block);
        work.visit(site, Some(observer.finish()?), Some(block))?;
        for i in 0..self.len() {
            let input = self.wide(sublayer.width)?.get(i)?;
            let input = input.to_device(&self.storage.device).map_err(ModelError::from)?;
            let next = (sublayer.from_site)(block, &self.state(i)?, &input)?;
            self.hidden.set(i, &next)?;
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
            let hidden = self.state(i)?;
            let next = watch(&mut observers, |tap| block.forward(&hidden, &self.context(i), tap))?;
            if advance {
                self.hidden.set(i, &next)?;
            }
        }
        let observation = observers
            .into_iter()
            .map(|(site, observer)| Ok(observer.finish_routed()?.map(|observation| (site, observation))));
        observation.filter_map(Result::transpose).collect()
    }

    /// Passes a block without looking at anything.
    ///
    /// # Errors
    /// A malformed block; a full disk.
    pub fn forward(&mut self, block: &Block) -> Result<()> {
        for i in 0..self.len() {
            let next = block.forward(&self.state(i)?, &self.context(i), &mut ())?;
            self.hidden.set(i, &next)?;
        }
        Ok(())
    }

    /// Looks at the input of `lm_head`, behind the last block.
    ///
    /// # Errors
    /// Whatever the work runs into.
    pub fn head(&self, checkpoint: &Checkpoint, work: &mut dyn SiteVisitor) -> Result<()> {
        let site = Site::head();
        let Some(mut observer) = self.observe(work, site, self.hidden_size)? else {
            return work.visit(site, None, None);
        };
        let norm = FinalNorm::load(checkpoint.config(), checkpoint, &self.storage.device)?;
        for i in 0..self.len() {
            observer.add(&norm.forward(&self.state(i)?)?)?;
        }
        work.visit(site, Some(observer.finish()?), None)
    }
}

/// Runs a part of a block and observes the sites that it passes.
fn watch(
    observers: &mut BTreeMap<Site, SiteObserver>,
    run: impl FnOnce(&mut dyn Taps) -> Result<Tensor, ModelError>,
) -> Result<Tensor> {
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
struct Sublayer {
    width: usize,
    /// From hidden states to the site.
    to_site: fn(&Block, &Tensor, &Context) -> Result<Tensor, ModelError>,
    /// Frees what only `make` needs: where all tokens wait is where memory is at its largest.
    free_inputs: fn(&mut Block),
    /// From the hidden states and the site to the next hidden states.
    from_site: fn(&Block, &Tensor, &Tensor) -> Result<Tensor, ModelError>,
}

fn attend(block: &Block, hidden: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
    block.attend(&block.attention_input(hidden)?, context, &mut ())
}

fn project(block: &Block, hidden: &Tensor, mixed: &Tensor) -> Result<Tensor, ModelError> {
    block.attention_output(hidden, mixed)
}

fn intermediate(block: &Block, hidden: &Tensor, _: &Context) -> Result<Tensor, ModelError> {
    block.mlp_inner(&block.mlp_input(hidden)?)
}

fn down(block: &Block, hidden: &Tensor, intermediate: &Tensor) -> Result<Tensor, ModelError> {
    block.mlp_output(hidden, intermediate)
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

/// Room for activations, in a file where `together` features a token do not fit into the memory.
fn make(
    name: &str,
    shapes: &[[usize; 2]],
    width: usize,
    storage: &ActivationStorage,
    together: usize,
) -> Result<Activations> {
    let size = if storage.precision == Precision::F32 { 4 } else { 2 };
    let tokens: usize = shapes.iter().map(|[batch, len]| batch * len).sum();
    let bytes = tokens as u64 * together as u64 * size;
    if bytes <= storage.memory {
        return Ok(Activations::in_memory(shapes, width, storage.precision));
    }
    Ok(Activations::in_file(&storage.folder.join(format!("{name}.activations")), shapes, width, storage.precision)?)
}
