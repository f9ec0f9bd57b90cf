//! What follows attention in a block: an MLP, or a mixture of them.

use candle_core::Tensor;
use workbench_rotation::Hadamard;

use super::experts::Mixture;
use super::layers::Linear;
use super::ops;
use super::parameters::TensorSource;
use super::taps::Taps;
use crate::arch::{BlockLayout, LinearInfo, Role};
use crate::config::Gating;
use crate::{ModelConfig, ModelError, Site, SiteKind};

/// A gated MLP, dense or of one expert.
pub(super) struct GatedMlp {
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
    gating: Gating,
    /// Of the input of the last linear.
    rotation: Option<Hadamard>,
}

impl GatedMlp {
    /// The MLP of these linears, one of each role.
    pub(super) fn new<'a>(
        linears: impl Iterator<Item = &'a LinearInfo> + Clone,
        gating: Gating,
        rotation: Option<Hadamard>,
        source: &dyn TensorSource,
    ) -> Result<Self, ModelError> {
        let linear = |role| {
            let info = linears.clone().find(|linear| linear.role == role);
            Linear::new(info.ok_or_else(|| refused(format!("an MLP has no {role:?}")))?, source)
        };
        Ok(Self { gate: linear(Role::Gate)?, up: linear(Role::Up)?, down: linear(Role::Down)?, gating, rotation })
    }

    pub(super) fn linears(&mut self) -> [&mut Linear; 3] {
        [&mut self.gate, &mut self.up, &mut self.down]
    }

    /// The input of the last linear, of that of the others.
    pub(super) fn intermediate(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let [gate, up] = Linear::forward_together([&self.gate, &self.up], x)?;
        let intermediate = match self.gating {
            Gating::Silu => ops::silu_times(&gate, &up)?,
            Gating::Clamped { alpha, limit } => ops::clamped_silu_times(&gate, &up, [alpha, limit])?,
        };
        match &self.rotation {
            Some(rotation) => Ok(ops::hadamard(&intermediate, rotation)?),
            None => Ok(intermediate),
        }
    }

    /// The same, which the taps see.
    fn observed(&self, x: &Tensor, block: usize, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        let intermediate = self.intermediate(x)?;
        taps.observe(Site::in_block(block, SiteKind::DownInput), &intermediate)?;
        Ok(intermediate)
    }
}

/// What stands in a block behind attention.
pub(super) enum Mlp {
    Dense(Box<GatedMlp>),
    Sparse(Box<Mixture>),
}

impl Mlp {
    pub(super) fn new(
        config: &ModelConfig,
        layout: &BlockLayout,
        rotation: Option<Hadamard>,
        source: &dyn TensorSource,
    ) -> Result<Self, ModelError> {
        match (&layout.router, config.experts_of(layout.index)) {
            (Some(router), Some(experts)) => {
                Mixture::new(layout, router, experts, rotation.as_ref(), source).map(Box::new).map(Self::Sparse)
            }
            _ => GatedMlp::new(layout.linears.iter(), layout.gating, rotation, source).map(Box::new).map(Self::Dense),
        }
    }

    /// The linears that can be quantized, in the order of the forward pass.
    pub(super) fn linears(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Dense(mlp) => mlp.linears().into(),
            Self::Sparse(mixture) => mixture.linears(),
        }
    }

    /// What is added to the hidden states, of their norm `x` `[batch, len, hidden]`.
    pub(super) fn forward(&self, x: &Tensor, block: usize, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        match self {
            Self::Dense(mlp) => mlp.down.forward(&mlp.observed(x, block, taps)?),
            Self::Sparse(mixture) => mixture.forward(x, block, taps),
        }
    }

    /// The same, added to the hidden states.
    pub(super) fn forward_onto(
        &self,
        hidden: &Tensor,
        x: &Tensor,
        block: usize,
        taps: &mut dyn Taps,
    ) -> Result<Tensor, ModelError> {
        match self {
            Self::Dense(mlp) => mlp.down.forward_onto(hidden, &mlp.observed(x, block, taps)?),
            Self::Sparse(mixture) => Ok((hidden + mixture.forward(x, block, taps)?)?),
        }
    }

    /// The MLP of a block that has no experts.
    pub(super) fn dense(&self) -> Result<&GatedMlp, ModelError> {
        match self {
            Self::Dense(mlp) => Ok(mlp),
            Self::Sparse(_) => Err(refused("the block is a mixture of experts and has no single MLP".into())),
        }
    }
}

pub(super) fn refused(message: String) -> ModelError {
    candle_core::Error::Msg(message).into()
}
