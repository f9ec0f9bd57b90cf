//! The way of the calibration set through the decoder.

use std::{collections::BTreeMap, path::PathBuf};

use candle_core::{Device, Tensor};
use workbench_model::{
    Activations, Checkpoint, ModelConfig, ModelError, Precision, Site, SiteKind, Taps, WeightSource,
    arch::EMBEDDINGS,
    decoder::{Block, Context, Embedding, FinalNorm},
};

use super::{Look, Seen};
use crate::error::Result;

/// What happens at the sites of a block.
pub trait SiteWork {
    /// What is to be gathered at a site of so many features; `None` where nothing is.
    ///
    /// # Errors
    /// The site cannot be looked at as it should be.
    fn look(&mut self, site: Site, features: usize) -> Result<Option<Look>>;

    /// All tokens have reached the site. Where `block` is given, the linears that read the site have not run yet, and what is
    /// done to them counts from here on.
    ///
    /// # Errors
    /// Whatever the work runs into.
    fn reached(&mut self, site: Site, seen: Option<Seen>, block: Option<&mut Block>) -> Result<()>;
}

/// Where activations are kept.
#[derive(Clone, Debug)]
pub struct Room {
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
pub struct Pass {
    hidden: Activations,
    /// The input of `o_proj` or `down_proj`: all tokens must be there before either runs.
    wide: Option<Activations>,
    /// Sequences and tokens of each batch.
    shapes: Vec<[usize; 2]>,
    widest: usize,
    attention: usize,
    inner: usize,
    /// Features of the keys of a token, and of its values.
    cached: usize,
    hidden_size: usize,
    config: ModelConfig,
    /// Whether every expert sees every token.
    all_experts: bool,
    room: Room,
}

impl Pass {
    /// Embeds the sequences.
    ///
    /// # Errors
    /// A malformed checkpoint; a full disk.
    pub fn begin(checkpoint: &Checkpoint, sequences: &[Vec<u32>], room: Room) -> Result<Self> {
        Self::begin_with(checkpoint, checkpoint, sequences, room)
    }

    /// The same with a table of embeddings that stands in for the checkpoint's.
    ///
    /// # Errors
    /// A malformed checkpoint; a full disk.
    pub fn begin_with(
        checkpoint: &Checkpoint,
        embeddings: &dyn WeightSource,
        sequences: &[Vec<u32>],
        room: Room,
    ) -> Result<Self> {
        let mut pass = Self::empty(checkpoint.config(), sequences, room)?;
        let config = checkpoint.config();
        // Rows of a table that is stored as it is are read one by one; another one is decoded once.
        let name = config.weight_of(EMBEDDINGS);
        let table = match embeddings.has_rows(&name) {
            true => None,
            false => Some(Embedding::load(config, embeddings, &pass.room.device)?),
        };
        let mut rest = sequences;
        for index in 0..pass.len() {
            let [batch, len] = pass.shapes[index];
            let (now, later) = rest.split_at(batch);
            let hidden = match &table {
                None => Embedding::look_up(config, embeddings, &now.concat(), batch)?,
                Some(table) => {
                    let ids = Tensor::from_vec(now.concat(), (batch, len), &pass.room.device);
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

    /// A pass whose hidden states are still to be [loaded](Self::hidden_mut).
    ///
    /// # Errors
    /// A full disk.
    pub fn empty(config: &ModelConfig, sequences: &[Vec<u32>], room: Room) -> Result<Self> {
        let shapes = batches(sequences, BATCH_TOKENS);
        let attention = config.num_heads * config.head_dim;
        let cached = config.num_kv_heads * config.head_dim;
        let widest = attention.max(config.intermediate_size);
        let hidden = make("hidden", &shapes, config.hidden_size, &room, config.hidden_size)?;
        let (inner, hidden_size) = (config.intermediate_size, config.hidden_size);
        Ok(Self {
            hidden,
            wide: None,
            shapes,
            widest,
            attention,
            inner,
            cached,
            hidden_size,
            config: config.clone(),
            all_experts: false,
            room,
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
        Ok(self.hidden.get(index)?.to_device(&self.room.device).map_err(ModelError::from)?)
    }

    fn context(&self, index: usize) -> Context {
        let [batch, len] = self.shapes[index];
        Context::full(batch, len, None)
    }

    /// Room for the inputs of a wide site, the same memory for all of them.
    fn wide(&mut self, width: usize) -> Result<&mut Activations> {
        if self.wide.is_none() {
            let together = self.hidden_size + self.widest;
            self.wide = Some(make("wide", &self.shapes, self.widest, &self.room, together)?);
        }
        let wide = self.wide.as_mut().ok_or_else(|| crate::error::Error::internal("no room was made"))?;
        wide.set_width(width);
        Ok(wide)
    }

    /// Makes a block that multiplies as this pass does.
    ///
    /// # Errors
    /// A malformed checkpoint.
    pub fn block(&self, config: &ModelConfig, source: &dyn WeightSource, index: usize) -> Result<Block> {
        let mut block = Block::load_for_scoring(config, source, index, self.room.compute_dtype, &self.room.device)?;
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

    fn look(&self, work: &mut dyn SiteWork, site: Site, features: usize) -> Result<Option<Look>> {
        Ok(work.look(site, features)?.map(|look| look.with_precision(self.room.compute_dtype)))
    }

    /// Passes a block in true sequential order. The block cannot be used any more afterwards.
    ///
    /// # Errors
    /// Whatever the work runs into.
    pub fn sequential(&mut self, index: usize, block: &mut Block, work: &mut dyn SiteWork) -> Result<()> {
        let site = |kind| Site::in_block(index, kind);
        let narrow = |x: &Self, work: &mut dyn SiteWork, block: &mut Block, kind| -> Result<()> {
            let Some(mut look) = x.look(work, site(kind), x.hidden_size)? else {
                return work.reached(site(kind), None, Some(block));
            };
            for i in 0..x.len() {
                let hidden = x.state(i)?;
                let input = match kind {
                    SiteKind::AttentionInput => block.attention_input(&hidden)?,
                    _ => block.mlp_input(&hidden)?,
                };
                look.add(&input)?;
            }
            work.reached(site(kind), Some(look.finish()?), Some(block))
        };
        narrow(self, work, block, SiteKind::AttentionInput)?;
        self.cached(index, block, work)?;
        self.piece(
            site(SiteKind::OutputInput),
            block,
            work,
            Piece { width: self.attention, make: mix, made: Block::let_go_of_mixing, end: project },
        )?;
        narrow(self, work, block, SiteKind::MlpInput)?;
        if self.config.experts_of(index).is_some() {
            return self.experts(index, block, work);
        }
        self.piece(
            site(SiteKind::DownInput),
            block,
            work,
            Piece { width: self.inner, make: inner, made: Block::let_go_of_all_but_down, end: down },
        )
    }

    /// Passes the experts of a block. All tokens are routed again for each kind of site: kept apart, what an expert sees would take
    /// as much memory as the weights of all.
    fn experts(&mut self, index: usize, block: &mut Block, work: &mut dyn SiteWork) -> Result<()> {
        for kind in [SiteKind::MlpInput, SiteKind::DownInput] {
            let sites = self.config.sites(index).into_iter();
            let sites: Vec<_> = sites.filter(|(site, _)| site.kind == kind && site.expert.is_some()).collect();
            let mut looks = BTreeMap::new();
            for (site, width) in &sites {
                looks.extend(self.look(work, *site, *width)?.map(|look| (*site, look)));
            }
            if !looks.is_empty() {
                for i in 0..self.len() {
                    let hidden = self.state(i)?;
                    watch(&mut looks, |tap| block.mlp(&hidden, tap))?;
                }
            }
            for (site, _) in sites {
                let seen = looks.remove(&site).map(Look::finish_routed).transpose()?.flatten();
                work.reached(site, seen, Some(block))?;
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
    fn cached(&self, index: usize, block: &mut Block, work: &mut dyn SiteWork) -> Result<()> {
        let sites = [SiteKind::Key, SiteKind::Value].map(|kind| Site::in_block(index, kind));
        let mut looks = BTreeMap::new();
        for site in sites {
            looks.extend(self.look(work, site, self.cached)?.map(|look| (site, look)));
        }
        if !looks.is_empty() {
            for i in 0..self.len() {
                let input = block.attention_input(&self.state(i)?)?;
                watch(&mut looks, |tap| block.mix(&input, &self.context(i), tap))?;
            }
        }
        for site in sites {
            let seen = looks.remove(&site).map(Look::finish).transpose()?;
            work.reached(site, seen, Some(block))?;
        }
        Ok(())
    }

    /// Makes the input of a wide site for all tokens, lets the work see it, and ends the piece with what it left.
    fn piece(&mut self, site: Site, block: &mut Block, work: &mut dyn SiteWork, piece: Piece) -> Result<()> {
        let Some(mut look) = self.look(work, site, piece.width)? else {
            work.reached(site, None, Some(block))?;
            for i in 0..self.len() {
                let hidden = self.state(i)?;
                let input = (piece.make)(block, &hidden, &self.context(i))?;
                self.hidden.set(i, &(piece.end)(block, &hidden, &input)?)?;
            }
            return Ok(());
        };
        for i in 0..self.len() {
            let input = (piece.make)(block, &self.state(i)?, &self.context(i))?;
            look.add(&self.wide(piece.width)?.set(i, &input)?)?;
        }
        (piece.made)(block);
        work.reached(site, Some(look.finish()?), Some(block))?;
        for i in 0..self.len() {
            let input = self.wide(piece.width)?.get(i)?;
            let input = input.to_device(&self.room.device).map_err(ModelError::from)?;
            let next = (piece.end)(block, &self.state(i)?, &input)?;
            self.hidden.set(i, &next)?;
        }
        Ok(())
    }

    /// Passes a block and looks at all its sites before anything is done to it. What the work does counts for what the next
    /// block receives if `feed_back` is set.
    ///
    /// # Errors
    /// Whatever the work runs into.
    pub fn at_once(&mut self, index: usize, block: &mut Block, feed_back: bool, work: &mut dyn SiteWork) -> Result<()> {
        let mut seen = self.gather(index, block, !feed_back, work)?;
        for (site, _) in self.config.sites(index) {
            work.reached(site, seen.remove(&site), feed_back.then_some(&mut *block))?;
        }
        if feed_back { self.forward(block) } else { Ok(()) }
    }

    /// Looks at all sites of a block as it is. The hidden states go on to the next block if `advance` is set.
    ///
    /// # Errors
    /// A site cannot be looked at; a malformed block; a full disk.
    pub fn gather(
        &mut self,
        index: usize,
        block: &Block,
        advance: bool,
        work: &mut dyn SiteWork,
    ) -> Result<BTreeMap<Site, Seen>> {
        let mut looks = BTreeMap::new();
        for (site, width) in self.config.sites(index) {
            if let Some(look) = self.look(work, site, width)? {
                looks.insert(site, look);
            }
        }
        if looks.is_empty() && !advance {
            return Ok(BTreeMap::new());
        }
        for i in 0..self.len() {
            let hidden = self.state(i)?;
            let next = watch(&mut looks, |tap| block.forward(&hidden, &self.context(i), tap))?;
            if advance {
                self.hidden.set(i, &next)?;
            }
        }
        let seen = looks.into_iter().map(|(site, look)| Ok(look.finish_routed()?.map(|seen| (site, seen))));
        seen.filter_map(Result::transpose).collect()
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
    pub fn head(&self, checkpoint: &Checkpoint, work: &mut dyn SiteWork) -> Result<()> {
        let site = Site::head();
        let Some(mut look) = self.look(work, site, self.hidden_size)? else {
            return work.reached(site, None, None);
        };
        let norm = FinalNorm::load(checkpoint.config(), checkpoint, &self.room.device)?;
        for i in 0..self.len() {
            look.add(&norm.forward(&self.state(i)?)?)?;
        }
        work.reached(site, Some(look.finish()?), None)
    }
}

/// Runs a part of a block and looks at the sites that it passes.
fn watch(
    looks: &mut BTreeMap<Site, Look>,
    run: impl FnOnce(&mut dyn Taps) -> Result<Tensor, ModelError>,
) -> Result<Tensor> {
    let mut failed = None;
    let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
        if let (Some(look), None) = (looks.get_mut(&site), &failed) {
            let x = if x.rank() == 4 { &x.flatten_from(2)? } else { x };
            failed = look.add(x).err();
        }
        Ok(())
    };
    let result = run(&mut tap)?;
    failed.map_or(Ok(result), Err)
}

/// A part of a block around a wide site.
struct Piece {
    width: usize,
    /// From hidden states to the site.
    make: fn(&Block, &Tensor, &Context) -> Result<Tensor, ModelError>,
    /// Frees what only `make` needs: where all tokens wait is where memory is at its largest.
    made: fn(&mut Block),
    /// From the hidden states and the site to the next hidden states.
    end: fn(&Block, &Tensor, &Tensor) -> Result<Tensor, ModelError>,
}

fn mix(block: &Block, hidden: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
    block.mix(&block.attention_input(hidden)?, context, &mut ())
}

fn project(block: &Block, hidden: &Tensor, mixed: &Tensor) -> Result<Tensor, ModelError> {
    block.attention_output(hidden, mixed)
}

fn inner(block: &Block, hidden: &Tensor, _: &Context) -> Result<Tensor, ModelError> {
    block.mlp_inner(&block.mlp_input(hidden)?)
}

fn down(block: &Block, hidden: &Tensor, inner: &Tensor) -> Result<Tensor, ModelError> {
    block.mlp_output(hidden, inner)
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
fn make(name: &str, shapes: &[[usize; 2]], width: usize, room: &Room, together: usize) -> Result<Activations> {
    let size = if room.precision == Precision::F32 { 4 } else { 2 };
    let tokens: usize = shapes.iter().map(|[batch, len]| batch * len).sum();
    let bytes = tokens as u64 * together as u64 * size;
    if bytes <= room.memory {
        return Ok(Activations::in_memory(shapes, width, room.precision));
    }
    Ok(Activations::in_file(&room.folder.join(format!("{name}.activations")), shapes, width, room.precision)?)
}
