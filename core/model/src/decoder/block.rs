//! One decoder layer.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use workbench_rotation::Hadamard;

use super::Context;
use super::cache::LayerCache;
use super::layers::{Linear, Norm, only_f32};
use super::mlp::{Mlp, refused};
use super::ops::{self, Attention};
use super::parameters::{Loading, PackedLoading, TensorSource};
use super::quantizer::ActivationQuantizer;
use super::rope::Rope;
use super::taps::Taps;
use crate::arch::{NormInfo, Role, block_name};
use crate::device::OnHost;
use crate::{ModelConfig, ModelError, Precision, Site, SiteKind, WeightSource};

/// One decoder layer: attention and an MLP or a mixture of experts, each behind an RMSNorm and added to the hidden states.
pub struct Block {
    index: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Of the operands of matrix products.
    precision: Precision,
    rope: Arc<Rope>,
    /// Of queries and keys, after RoPE.
    head_rotation: Option<Hadamard>,
    attention_norm: Norm,
    /// On keys and on values, before they are cached.
    kv_quantizers: [Option<Arc<dyn ActivationQuantizer>>; 2],
    /// On queries and keys per head.
    head_norms: Option<(Norm, Norm)>,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// How many keys a query sees at most.
    window: Option<usize>,
    /// A score for each query head that takes a share of the attention.
    sinks: Option<Tensor>,
    mlp_norm: Norm,
    mlp: Mlp,
}

impl Block {
    /// Loads block `index` standing alone, for walking a model that does not fit into memory.
    pub fn load(
        config: &ModelConfig,
        source: &dyn WeightSource,
        index: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Self::new(config, &Loading { source, device }, index, &Arc::new(Rope::new(config)))
    }

    /// Loads block `index` for products in a precision: inputs of linears, and queries, keys, probabilities and values are rounded
    /// to it, sums are f32. What lies between the products stays f32. There is no backward pass.
    pub fn load_packed(
        config: &ModelConfig,
        source: &dyn WeightSource,
        index: usize,
        precision: Precision,
        _: OnHost,
    ) -> Result<Self, ModelError> {
        let block = Self::new(config, &PackedLoading { source, precision }, index, &Arc::new(Rope::new(config)))?;
        Ok(Self { precision, ..block })
    }

    /// Loads block `index` as scoring and calibration want it: packed where it can be.
    ///
    /// # Errors
    /// A malformed source; a precision that the device does not have.
    pub fn load_for_scoring(
        config: &ModelConfig,
        source: &dyn WeightSource,
        index: usize,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, ModelError> {
        match OnHost::of(device) {
            Some(host) => Self::load_packed(config, source, index, precision, host),
            None => only_f32(precision, device).and_then(|()| Self::load(config, source, index, device)),
        }
    }

    /// Builds block `index` over tensors, for example the variables of a model in training.
    pub fn over(config: &ModelConfig, source: &dyn TensorSource, index: usize) -> Result<Self, ModelError> {
        Self::new(config, source, index, &Arc::new(Rope::new(config)))
    }

    pub(super) fn new(
        config: &ModelConfig,
        source: &dyn TensorSource,
        index: usize,
        rope: &Arc<Rope>,
    ) -> Result<Self, ModelError> {
        let layout = config.block(index);
        let norm = |info: &NormInfo| Norm::new(&info.name, info.size, config.rms_norm_eps, source);
        let linear = |role| {
            Linear::new(
                layout.linear(role).ok_or_else(|| refused(format!("`{}` has no {role:?}", layout.name)))?,
                source,
            )
        };
        let head_norms = match &layout.head_norms {
            Some([q, k]) => Some((norm(q)?, norm(k)?)),
            None => None,
        };
        Ok(Self {
            index,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            precision: Precision::F32,
            rope: rope.clone(),
            kv_quantizers: [None, None],
            head_rotation: rotation(config.online.heads)?,
            attention_norm: norm(&layout.attention_norm)?,
            head_norms,
            q: linear(Role::Query)?,
            k: linear(Role::Key)?,
            v: linear(Role::Value)?,
            o: linear(Role::Output)?,
            mlp_norm: norm(&layout.mlp_norm)?,
            window: layout.window,
            sinks: layout.sinks.as_ref().map(|(name, heads)| source.tensor(name, &[*heads])).transpose()?,
            mlp: Mlp::new(config, &layout, rotation(config.online.down)?, source)?,
        })
    }

    /// Puts a quantizer on the input of a linear (`self_attn.q_proj` or the full module name), or takes it away. Linears
    /// that share a site should share the `Arc`: the input is then quantized once.
    pub fn set_input_quantizer(
        &mut self,
        module: &str,
        quantizer: Option<Arc<dyn ActivationQuantizer>>,
    ) -> Result<(), ModelError> {
        self.linear_mut(module)?.set_quantizer(quantizer);
        Ok(())
    }

    /// Puts quantizers on keys (after RoPE) and values, seen as `[batch, len, kv_heads * head_dim]`, or takes them away. Both
    /// the tokens at hand and those that are cached are read through them.
    pub fn set_kv_quantizers(
        &mut self,
        key: Option<Arc<dyn ActivationQuantizer>>,
        value: Option<Arc<dyn ActivationQuantizer>>,
    ) {
        self.kv_quantizers = [key, value];
    }

    /// Lets the taps see all tokens at the sites of each expert, also those that are routed elsewhere, or ends that. The output stays.
    pub fn show_all_to_experts(&mut self, all: bool) {
        if let Mlp::Sparse(mixture) = &mut self.mlp {
            mixture.show_all(all);
        }
    }

    /// Shows the taps one site of some experts, of [`mlp_input`](Self::mlp_input): what gate and up of each read ([`SiteKind::MlpInput`]),
    /// or down ([`SiteKind::DownInput`]), as [`mlp`](Self::mlp) shows it.
    ///
    /// # Errors
    /// The block has no experts.
    pub fn show_experts(
        &self,
        x: &Tensor,
        kind: SiteKind,
        experts: &[usize],
        taps: &mut dyn Taps,
    ) -> Result<(), ModelError> {
        match &self.mlp {
            Mlp::Sparse(mixture) => mixture.show(x, (self.index, kind), experts, taps),
            Mlp::Dense(_) => Err(refused(format!("block {} has no experts", self.index))),
        }
    }

    /// Replaces the weight of a linear.
    pub fn set_weight(&mut self, module: &str, weight: Tensor) -> Result<(), ModelError> {
        self.linear_mut(module)?.set_weight(weight)
    }

    /// Frees the weights that [`attend`](Self::attend) uses, for a caller through whom all tokens have passed.
    pub fn free_qkv(&mut self) {
        [&mut self.q, &mut self.k, &mut self.v].into_iter().for_each(Linear::free);
    }

    /// Frees the weights of all linears but `down_proj`, for a caller with [`mlp_inner`](Self::mlp_inner) of all tokens.
    pub fn free_all_but_down(&mut self) {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o].into_iter().for_each(Linear::free);
        if let Mlp::Dense(mlp) = &mut self.mlp {
            [&mut mlp.gate, &mut mlp.up].into_iter().for_each(Linear::free);
        }
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let mut linears = vec![&mut self.q, &mut self.k, &mut self.v, &mut self.o];
        linears.extend(self.mlp.linears());
        linears
    }

    fn linear_mut(&mut self, module: &str) -> Result<&mut Linear, ModelError> {
        let prefix = format!("{}.", block_name(self.index));
        let index = self.index;
        self.linears()
            .into_iter()
            .find(|linear| linear.name == module || linear.name.strip_prefix(&prefix) == Some(module))
            .ok_or_else(|| refused(format!("block {index} has no linear `{module}`")))
    }

    /// The block's output for `hidden` `[batch, len, hidden]`.
    pub fn forward(&self, hidden: &Tensor, context: &Context, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        self.run(hidden, context, None, taps)
    }

    /// What attention adds to `hidden` `[batch, len, hidden]`, norm and o included. For methods that score this part alone.
    pub fn attention(&self, hidden: &Tensor, context: &Context, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        self.o.forward(&self.mixed(hidden, context, None, taps)?)
    }

    /// What the MLP adds to `hidden` `[batch, len, hidden]`, which attention has been added to; norm and down included.
    pub fn mlp(&self, hidden: &Tensor, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        let x = self.mlp_input(hidden)?;
        taps.observe(self.site(SiteKind::MlpInput), &x)?;
        self.mlp.forward(&x, self.index, taps)
    }

    pub(super) fn run(
        &self,
        hidden: &Tensor,
        context: &Context,
        cache: Option<&mut LayerCache>,
        taps: &mut dyn Taps,
    ) -> Result<Tensor, ModelError> {
        let mixed = self.mixed(hidden, context, cache, taps)?;
        let hidden = self.attention_output(hidden, &mixed)?;
        let x = self.mlp_input(&hidden)?;
        taps.observe(self.site(SiteKind::MlpInput), &x)?;
        self.mlp.forward_onto(&hidden, &x, self.index, taps)
    }

    /// What `o_proj` reads.
    fn mixed(
        &self,
        hidden: &Tensor,
        context: &Context,
        cache: Option<&mut LayerCache>,
        taps: &mut dyn Taps,
    ) -> Result<Tensor, ModelError> {
        let x = self.attention_input(hidden)?;
        taps.observe(self.site(SiteKind::AttentionInput), &x)?;
        let mixed = self.mix_with(&x, context, cache, taps)?;
        taps.observe(self.site(SiteKind::OutputInput), &mixed)?;
        Ok(mixed)
    }

    fn site(&self, kind: SiteKind) -> Site {
        Site::in_block(self.index, kind)
    }

    /// What queries, keys and values are made of: the normed hidden states `[batch, len, hidden]`.
    ///
    /// This and the next five methods are the block in the pieces between which a site lies. Calibration lets all tokens
    /// pass one piece before it goes on to the next, so that every linear can be quantized before it runs.
    pub fn attention_input(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        self.attention_norm.forward(hidden)
    }

    /// The input `[batch, len, heads * head_dim]` of `o_proj`, of [`attention_input`](Self::attention_input). The taps see
    /// queries, keys and values.
    pub fn attend(&self, x: &Tensor, context: &Context, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        self.mix_with(x, context, None, taps)
    }

    /// The hidden states after attention.
    pub fn attention_output(&self, hidden: &Tensor, mixed: &Tensor) -> Result<Tensor, ModelError> {
        self.o.forward_onto(hidden, mixed)
    }

    /// What gate and up are made of: the normed hidden states after attention.
    pub fn mlp_input(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        self.mlp_norm.forward(hidden)
    }

    /// The input `[batch, len, intermediate]` of `down_proj`, of [`mlp_input`](Self::mlp_input).
    pub fn mlp_inner(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        self.mlp.dense()?.intermediate(x)
    }

    /// The block's output, of the hidden states after attention and [`mlp_inner`](Self::mlp_inner).
    pub fn mlp_output(&self, hidden: &Tensor, intermediate: &Tensor) -> Result<Tensor, ModelError> {
        self.mlp.dense()?.down.forward_onto(hidden, intermediate)
    }

    /// The keys and values `[batch, len, kv_heads, head_dim]` of [`attention_input`](Self::attention_input), as they are before a cache
    /// rounds them. The taps see both.
    pub fn keys_values(&self, x: &Tensor, context: &Context, taps: &mut dyn Taps) -> Result<[Tensor; 2], ModelError> {
        let [k, v] = Linear::forward_together([&self.k, &self.v], x)?;
        let (k, v) = (self.positioned(&k, self.kv_heads, self.key_norm(), context)?, self.by_head(&v, self.kv_heads)?);
        taps.observe(self.site(SiteKind::Key), &k)?;
        taps.observe(self.site(SiteKind::Value), &v)?;
        Ok([k, v])
    }

    /// The same as [`attend`](Self::attend) with [`keys_values`](Self::keys_values) that are there already.
    pub fn attend_to(&self, x: &Tensor, [k, v]: [Tensor; 2], context: &Context) -> Result<Tensor, ModelError> {
        let [q] = Linear::forward_together([&self.q], x)?;
        let q = self.positioned(&q, self.heads, self.query_norm(), context)?;
        self.attended(&q, k, v, context, None)
    }

    fn mix_with(
        &self,
        x: &Tensor,
        context: &Context,
        cache: Option<&mut LayerCache>,
        taps: &mut dyn Taps,
    ) -> Result<Tensor, ModelError> {
        let (batch, len, _) = x.dims3()?;
        context.check(batch, len)?;
        let [q, k, v] = Linear::forward_together([&self.q, &self.k, &self.v], x)?;
        let q = self.positioned(&q, self.heads, self.query_norm(), context)?;
        let k = self.positioned(&k, self.kv_heads, self.key_norm(), context)?;
        let v = self.by_head(&v, self.kv_heads)?;
        for (kind, x) in [(SiteKind::Query, &q), (SiteKind::Key, &k), (SiteKind::Value, &v)] {
            taps.observe(self.site(kind), x)?;
        }
        self.attended(&q, k, v, context, cache)
    }

    fn query_norm(&self) -> Option<&Norm> {
        self.head_norms.as_ref().map(|(q, _)| q)
    }

    fn key_norm(&self) -> Option<&Norm> {
        self.head_norms.as_ref().map(|(_, k)| k)
    }

    /// `[batch, len, heads * head_dim]` as `[batch, len, heads, head_dim]`.
    fn by_head(&self, x: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
        let (batch, len, _) = x.dims3()?;
        Ok(x.reshape((batch, len, heads, self.head_dim))?)
    }

    /// Queries or keys by head: normed, at their positions, and rotated where the model says so.
    fn positioned(
        &self,
        x: &Tensor,
        heads: usize,
        norm: Option<&Norm>,
        context: &Context,
    ) -> Result<Tensor, ModelError> {
        let mut x = self.by_head(x, heads)?;
        if let Some(norm) = norm {
            x = norm.forward(&x)?;
        }
        x = ops::rotate(&x, &self.rope.angles(context.end()), context)?;
        match &self.head_rotation {
            Some(rotation) => Ok(ops::hadamard(&x, rotation)?),
            None => Ok(x),
        }
    }

    /// Attention `[batch, len, heads * head_dim]` over keys and values, which are rounded as the cache rounds them.
    fn attended(
        &self,
        q: &Tensor,
        k: Tensor,
        v: Tensor,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor, ModelError> {
        let [key_quantizer, value_quantizer] = &self.kv_quantizers;
        let (k, v) = (quantize_heads(key_quantizer, k)?, quantize_heads(value_quantizer, v)?);
        let (k, v) = match cache {
            Some(cache) => cache.extend(&k, &v, context)?,
            None => (k, v),
        };
        let (scale, precision) = (1.0 / (self.head_dim as f32).sqrt(), self.precision);
        let (window, sinks) = (self.window, self.sinks.clone());
        let attention = Attention { context: context.clone(), scale, window, sinks, precision };
        Ok(ops::attention(q, &k, &v, attention)?.flatten_from(2)?)
    }
}

/// Rounds `[batch, len, heads, head_dim]`.
fn quantize_heads(quantizer: &Option<Arc<dyn ActivationQuantizer>>, x: Tensor) -> Result<Tensor, ModelError> {
    match quantizer {
        None => Ok(x),
        Some(quantizer) => Ok(quantizer.apply(&x.flatten_from(2)?)?.reshape(x.shape())?),
    }
}

fn rotation(size: Option<usize>) -> Result<Option<Hadamard>, ModelError> {
    let made = size.map(Hadamard::new).transpose();
    made.map_err(|error| candle_core::Error::Msg(error.to_string()).into())
}
