//! The rotations of one model.

use serde_json::{Value, json};
use workbench_api::sdk::Error;
use workbench_model::ModelConfig;
use workbench_model::config::{Gating, OnlineRotations};
use workbench_rotation::{Hadamard, Rotation, RotationError};

use crate::parameters::{Kind, Parameters, Place};

/// Streams of random numbers: one of each model, and one of each block from these on.
const HIDDEN: u64 = 0;
const VALUES: u64 = 1 << 32;
const DOWN: u64 = 2 << 32;

/// Every rotation that is folded into weights. Rows of activations x go to x R.
pub(crate) struct Rotations {
    /// R1, of the residual stream.
    pub(crate) hidden: Option<Rotation>,
    /// R2 of each block, of a head's values.
    pub(crate) values: Option<Vec<Rotation>>,
    /// R4 of each block. Signs, if any, are folded into the rows of `up_proj`; what is left for the forward pass is a Hadamard
    /// matrix without them.
    pub(crate) down: Option<Vec<Rotation>>,
    /// R3 and R4 as the forward pass carries them out.
    pub(crate) online: OnlineRotations,
}

impl Rotations {
    /// Draws what the parameters ask for.
    pub(crate) fn draw(parameters: &Parameters, config: &ModelConfig) -> Result<Self, Error> {
        let at = |place: Place| move |error| refused(place, error);
        let blocked = |place: Place, whole: usize| match parameters.block_size {
            Some(size) if size == 0 || !whole.is_multiple_of(size) => Err(Error::parameters(format!(
                "`block_size` {size} does not divide the {whole} channels that {place:?} rotates"
            ))),
            size => Ok(size.unwrap_or(whole)),
        };
        let draw = |place: Place, size: usize, stream: u64| draw(parameters, size, stream).map_err(at(place));
        let blocks = 0..config.num_layers as u64;

        let hidden = match parameters.has(Place::R1) {
            true => Some(draw(Place::R1, blocked(Place::R1, config.hidden_size)?, HIDDEN)?),
            false => None,
        };
        let values = match parameters.has(Place::R2) {
            true => {
                Some(blocks.clone().map(|b| draw(Place::R2, config.head_dim, VALUES + b)).collect::<Result<_, _>>()?)
            }
            false => None,
        };
        let mut online = config.online;
        if parameters.has(Place::R3) {
            vacant(Place::R3, online.heads)?;
            Hadamard::new(config.head_dim).map_err(at(Place::R3))?;
            online.heads = Some(config.head_dim);
        }
        let mut down = None;
        if parameters.has(Place::R4) {
            vacant(Place::R4, online.down)?;
            let takes_signs = config.blocks().all(|block| block.gating == Gating::Silu);
            if !takes_signs && parameters.kind != Kind::Hadamard {
                return Err(Error::unsupported(
                    "R4 has no random signs in this model: its experts clamp what would take them",
                )
                .with_hint(
                    "rotate by R4 alone with `kind: \"hadamard\"`, and by the others in a transform of their own",
                ));
            }
            // One size for dense blocks and experts: that of the whole row where all are equally wide.
            let widths = config.down_features();
            let size = blocked(Place::R4, widths.iter().copied().fold(0, gcd))?;
            let one = |block: u64| match parameters.kind {
                Kind::Hadamard => Rotation::hadamard(size),
                Kind::RandomHadamard | Kind::RandomOrthogonal => {
                    Rotation::random_hadamard(size, parameters.seed, DOWN + block)
                }
            };
            down = Some(blocks.map(one).collect::<Result<_, _>>().map_err(at(Place::R4))?);
            online.down = Some(size);
        }
        Ok(Self { hidden, values, down, online })
    }

    /// The sizes of R1 and R2, where there are any.
    pub(crate) fn sizes(&self) -> [Option<usize>; 2] {
        let values = self.values.as_ref().and_then(|values| values.first());
        [self.hidden.as_ref(), values].map(|rotation| rotation.map(Rotation::size))
    }

    /// Kinds, sizes, and how orthogonal the matrices are.
    pub(crate) fn facts(&self) -> Result<Value, Error> {
        let mut facts = serde_json::Map::new();
        let folded = [("R1", self.hidden.as_ref().map(std::slice::from_ref)), ("R2", self.values.as_deref())];
        for (name, rotations) in folded.into_iter().chain([("R4", self.down.as_deref())]) {
            if let Some(rotations) = rotations {
                facts.insert(name.to_owned(), describe(rotations)?);
            }
        }
        if let Some(size) = self.online.heads {
            facts.insert("R3".to_owned(), json!({ "size": size }));
        }
        Ok(facts.into())
    }
}

/// The greatest common divisor; of 0 and a number that number.
fn gcd(a: usize, b: usize) -> usize {
    if a == 0 { b } else { gcd(b % a, a) }
}

fn draw(parameters: &Parameters, size: usize, stream: u64) -> Result<Rotation, RotationError> {
    match parameters.kind {
        Kind::Hadamard => Rotation::hadamard(size),
        Kind::RandomHadamard => Rotation::random_hadamard(size, parameters.seed, stream),
        Kind::RandomOrthogonal => Rotation::random_orthogonal(size, parameters.seed, stream),
    }
}

fn refused(place: Place, error: RotationError) -> Error {
    let hint = match place {
        Place::R2 => Some("take `kind: \"random-orthogonal\"`, which exists for every size".to_owned()),
        Place::R3 => None,
        Place::R1 | Place::R4 => error.hint(),
    };
    let error = Error::parameters(format!("{place:?}: {error}"));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn vacant(place: Place, present: Option<usize>) -> Result<(), Error> {
    match present {
        None => Ok(()),
        Some(size) => Err(Error::parameters(format!("the model already has an online {place:?}, of size {size}"))
            .with_hint("leave it out of `rotations`")),
    }
}

fn describe(rotations: &[Rotation]) -> Result<Value, Error> {
    let Some(first) = rotations.first() else { return Ok(Value::Null) };
    Ok(match first {
        Rotation::Hadamard { hadamard, .. } => json!({ "size": hadamard.size(), "base": hadamard.base_order() }),
        Rotation::Dense(_) => {
            let mut largest: f64 = 0.0;
            for rotation in rotations {
                largest = largest.max(rotation.matrix()?.deviation());
            }
            json!({ "size": first.size(), "largest_deviation_from_orthogonality": largest })
        }
    })
}
