//! Mixtures of experts: a router sends each token through a few of many MLPs.
//!
//! Tokens are grouped by expert, so that an expert multiplies all of its tokens at once, and what the experts make of a token is added
//! up in their order. Which experts a token passes is decided on the values of the router's logits, the largest first and of equal ones
//! the first; how much each counts is differentiable.

use candle_core::{D, DType, Tensor};
use workbench_rotation::Hadamard;

use super::layers::Linear;
use super::mlp::GatedMlp;
use super::parameters::TensorSource;
use super::taps::Taps;
use crate::arch::{BlockLayout, LinearInfo};
use crate::config::{Experts, Routing};
use crate::device::HOST;
use crate::{ModelError, Site, SiteKind};

/// A router and its experts.
pub(super) struct Mixture {
    router: Linear,
    experts: Vec<GatedMlp>,
    per_token: usize,
    routing: Routing,
    /// Whether the taps of every expert see every token.
    shows_all: bool,
}

/// Where tokens go.
struct Routes {
    /// For each expert the tokens that pass it, and where in `weights` each of them counts.
    tokens: Vec<Vec<u32>>,
    slots: Vec<Vec<u32>>,
    /// How much the experts of a token count, `[tokens * per_token]`.
    weights: Tensor,
}

impl Routes {
    /// The tokens of `flat` `[tokens, hidden]` that pass an expert: which, and what they are. `None` without any.
    fn tokens_of(&self, expert: usize, flat: &Tensor) -> Result<Option<(Tensor, Tensor)>, ModelError> {
        let tokens = &self.tokens[expert];
        if tokens.is_empty() {
            return Ok(None);
        }
        let rows = Tensor::from_slice(tokens, tokens.len(), flat.device())?;
        let own = flat.index_select(&rows, 0)?;
        Ok(Some((rows, own)))
    }
}

impl Mixture {
    pub(super) fn new(
        layout: &BlockLayout,
        router: &LinearInfo,
        experts: &Experts,
        rotation: Option<&Hadamard>,
        source: &dyn TensorSource,
    ) -> Result<Self, ModelError> {
        let expert = |index: usize| {
            let own = layout.linears.iter().filter(move |linear| linear.site.expert == Some(index));
            GatedMlp::new(own, experts.gating, rotation.cloned(), source)
        };
        Ok(Self {
            router: Linear::new(router, source)?,
            experts: (0..experts.count).map(expert).collect::<Result<_, _>>()?,
            per_token: experts.per_token,
            routing: experts.routing,
            shows_all: false,
        })
    }

    /// Whether taps see all tokens at the sites of each expert, also those that are routed elsewhere. The output stays.
    pub(super) fn show_all(&mut self, all: bool) {
        self.shows_all = all;
    }

    pub(super) fn linears(&mut self) -> Vec<&mut Linear> {
        self.experts.iter_mut().flat_map(GatedMlp::linears).collect()
    }

    /// What is added to the hidden states, of their norm `x` `[batch, len, hidden]`. The taps see the router's logits, and at the sites
    /// of each expert the tokens that are routed to it, `[1, tokens, features]`; those that see all see them by their sequences,
    /// `[batch, len, features]`.
    pub(super) fn forward(&self, x: &Tensor, block: usize, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        let (batch, len, hidden) = x.dims3()?;
        let flat = x.reshape((batch * len, hidden))?;
        let logits = self.router.forward(&flat)?;
        let shown = logits.reshape((batch, len, self.experts.len()))?;
        taps.observe(Site::in_block(block, SiteKind::Routing), &shown)?;
        let routes = self.routes(&logits)?;
        let shows_all = self.shows_all && taps.are_watched();
        let mut sum = flat.zeros_like()?;
        for (index, expert) in self.experts.iter().enumerate() {
            let sites = [SiteKind::MlpInput, SiteKind::DownInput].map(|kind| Site::in_expert(block, index, kind));
            if shows_all {
                taps.observe(sites[0], x)?;
                taps.observe(sites[1], &expert.intermediate(x)?)?;
            }
            let Some((rows, own)) = routes.tokens_of(index, &flat)? else { continue };
            let intermediate = expert.intermediate(&own)?;
            if !shows_all {
                taps.observe(sites[0], &own.unsqueeze(0)?)?;
                taps.observe(sites[1], &intermediate.unsqueeze(0)?)?;
            }
            let slots = &routes.slots[index];
            let slots = Tensor::from_slice(slots, slots.len(), x.device())?;
            let weights = routes.weights.index_select(&slots, 0)?.unsqueeze(1)?;
            let weighted = expert.down.forward(&intermediate)?.broadcast_mul(&weights)?;
            sum = sum.index_add(&rows, &weighted, 0)?;
        }
        Ok(sum.reshape((batch, len, hidden))?)
    }

    /// Shows the taps one site of some experts as [`forward`](Self::forward) does, and computes no more than that takes.
    pub(super) fn show(
        &self,
        x: &Tensor,
        (block, kind): (usize, SiteKind),
        experts: &[usize],
        taps: &mut dyn Taps,
    ) -> Result<(), ModelError> {
        let (batch, len, hidden) = x.dims3()?;
        let flat = x.reshape((batch * len, hidden))?;
        let routes = match self.shows_all {
            true => None,
            false => Some(self.routes(&self.router.forward(&flat)?)?),
        };
        for &index in experts {
            let own = match &routes {
                None => x.clone(),
                Some(routes) => match routes.tokens_of(index, &flat)? {
                    Some((_, own)) => own.unsqueeze(0)?,
                    None => continue,
                },
            };
            let shown = if kind == SiteKind::DownInput { self.experts[index].intermediate(&own)? } else { own };
            taps.observe(Site::in_expert(block, index, kind), &shown)?;
        }
        Ok(())
    }

    /// Routes tokens by their logits `[tokens, experts]`.
    fn routes(&self, logits: &Tensor) -> Result<Routes, ModelError> {
        let (count, experts) = logits.dims2()?;
        let values: Vec<Vec<f32>> = logits.detach().to_device(&HOST)?.to_dtype(DType::F32)?.to_vec2()?;
        let (mut tokens, mut slots) = (vec![Vec::new(); experts], vec![Vec::new(); experts]);
        let mut chosen = Vec::with_capacity(count * self.per_token);
        for (token, logits) in values.iter().enumerate() {
            let mut order: Vec<usize> = (0..experts).collect();
            // A stable order: of equal logits the first expert's.
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            for expert in order.into_iter().take(self.per_token) {
                tokens[expert].push(token as u32);
                slots[expert].push(chosen.len() as u32);
                chosen.push(expert as u32);
            }
        }
        let chosen = Tensor::from_vec(chosen, (count, self.per_token), logits.device())?;
        let weights = match self.routing {
            Routing::TopKSoftmax => candle_nn::ops::softmax(&logits.gather(&chosen, 1)?, D::Minus1)?,
            Routing::SoftmaxTopK { renormalize } => {
                let taken = candle_nn::ops::softmax(logits, D::Minus1)?.gather(&chosen, 1)?;
                match renormalize {
                    true => taken.broadcast_div(&taken.sum_keepdim(D::Minus1)?)?,
                    false => taken,
                }
            }
        };
        Ok(Routes { tokens, slots, weights: weights.flatten_all()? })
    }
}
