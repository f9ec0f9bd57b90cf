//! Rotations folded into weights, in f64.
//!
//! Activations are rows: h' = h R. A linear y = x Wᵀ + b with W `[outputs, inputs]` keeps its function if what comes in is
//! rotated back by its weight, and rotates what goes out by Rᵀ W and b R:
//!
//! ```text
//! R1   E ← E R1          W ← W diag(γ) R1     of q, k, v, gate, up, lm_head, with γ the gain of the norm before them
//!                        W ← R1ᵀ W, b ← b R1  of o and down
//! R2   per kv head of v  W_h ← R2ᵀ W_h, b_h ← b_h R2      per head of o  W_h ← W_h R2
//! R4   u ← diag(s) u     rows of up_proj      W ← W R4 of down, R4 = diag(s) Hᵀ / √n, and H while the model runs
//! ```
//!
//! An RMSNorm commutes with R1 once its gain is 1: it divides by the length of a row, which a rotation leaves alone. Nothing is
//! centred: that would only be right for norms that subtract a mean. (Ashkboos et al. 2024, QuaRot, arXiv:2404.00456; Liu et
//! al. 2024, SpinQuant, arXiv:2405.16406.)

use rayon::prelude::*;
use workbench_api::sdk::Error;
use workbench_model::arch::{BlockLayout, EMBEDDINGS, FINAL_NORM, LM_HEAD, Role};
use workbench_model::{ModelConfig, WeightSource};
use workbench_plugin_model::model_error;
use workbench_rotation::Rotation;

use crate::rotations::Rotations;

/// What is done with the folded model.
pub(crate) trait Sink {
    /// Takes a tensor that the fold changed.
    fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<(), Error>;

    /// Called before each part of the model; an error ends the fold.
    fn progress(&mut self, _done: u64, _total: u64) -> Result<(), Error> {
        Ok(())
    }
}

/// Folds rotations into a model and puts every tensor that changes.
pub(crate) fn fold(
    source: &dyn WeightSource,
    config: &ModelConfig,
    rotations: &Rotations,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    Fold { source, config, rotations, sink }.run()
}

/// Rows of an embedding that are rotated together.
const TABLE_ROWS: usize = 64;

/// A model's tensors on their way through the fold.
struct Fold<'a> {
    source: &'a dyn WeightSource,
    config: &'a ModelConfig,
    rotations: &'a Rotations,
    sink: &'a mut dyn Sink,
}

/// A weight `[outputs, inputs]` or a row.
struct Values {
    name: String,
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Values {
    fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Each row times the gain of the norm before the linear.
    fn gain(&mut self, gain: &[f64]) {
        for row in self.values.chunks_exact_mut(gain.len()) {
            row.iter_mut().zip(gain).for_each(|(weight, gain)| *weight *= gain);
        }
    }

    fn inputs(&mut self, rotation: &Rotation) -> Result<(), Error> {
        rotation.rows(&mut self.values).map_err(|error| Error::input(format!("`{}`: {error}", self.name)))
    }

    fn outputs(&mut self, rotation: &Rotation) -> Result<(), Error> {
        let columns = if self.shape.len() == 1 { 1 } else { self.columns() };
        rotation.columns(&mut self.values, columns).map_err(|error| Error::input(format!("`{}`: {error}", self.name)))
    }

    /// The signs of a rotation on its outputs: rows times ±1.
    fn output_signs(&mut self, rotation: &Rotation) {
        let Rotation::Hadamard { negative: Some(negative), .. } = rotation else { return };
        let columns = if self.shape.len() == 1 { 1 } else { self.columns() };
        for (row, negative) in self.values.chunks_exact_mut(columns).zip(negative.iter().cycle()) {
            if *negative {
                row.iter_mut().for_each(|weight| *weight = -*weight);
            }
        }
    }
}

impl Fold<'_> {
    fn run(&mut self) -> Result<(), Error> {
        let total = self.config.num_layers as u64 + 1;
        for block in self.config.blocks() {
            self.sink.progress(block.index as u64, total)?;
            self.block(&block).map_err(|error| error.context(format!("rotating `{}`", block.name)))?;
        }
        self.sink.progress(total - 1, total)?;
        self.ends()
    }

    fn block(&mut self, block: &BlockLayout) -> Result<(), Error> {
        let attention = self.take_gain(&format!("{}.weight", block.attention_norm.name))?;
        let mlp = self.take_gain(&format!("{}.weight", block.mlp_norm.name))?;
        let values = self.rotations.values.as_ref().map(|values| &values[block.index]);
        let down = self.rotations.down.as_ref().map(|down| &down[block.index]);
        for linear in block.linears.iter().chain(&block.router) {
            let mut weight = self.get(&linear.weight())?;
            let mut bias = linear.bias().map(|bias| self.get(&bias)).transpose()?;
            let changed = match linear.role {
                Role::Query | Role::Key => self.reads_hidden(&mut weight, attention.as_deref())?,
                Role::Value => {
                    let rotated = each(values, &mut weight, bias.as_mut(), Values::outputs)?;
                    self.reads_hidden(&mut weight, attention.as_deref())? || rotated
                }
                Role::Output => {
                    let rotated = each(values, &mut weight, None, Values::inputs)?;
                    self.writes_hidden(&mut weight, bias.as_mut())? || rotated
                }
                Role::Gate | Role::Router => self.reads_hidden(&mut weight, mlp.as_deref())?,
                Role::Up => {
                    let signed = each(down, &mut weight, bias.as_mut(), |values, rotation| {
                        values.output_signs(rotation);
                        Ok(())
                    })?;
                    self.reads_hidden(&mut weight, mlp.as_deref())? || signed
                }
                Role::Down => {
                    let rotated = each(down, &mut weight, None, Values::inputs)?;
                    self.writes_hidden(&mut weight, bias.as_mut())? || rotated
                }
                Role::Head => return Err(Error::unsupported(format!("no rule says how `{}` is rotated", linear.name))),
            };
            if changed {
                self.put(weight)?;
                bias.map_or(Ok(()), |bias| self.put(bias))?;
            }
        }
        Ok(())
    }

    /// The embedding, the last norm and the head, which gets a weight of its own.
    fn ends(&mut self) -> Result<(), Error> {
        if self.rotations.hidden.is_none() {
            return Ok(());
        }
        let embedding = self.config.weight_of(EMBEDDINGS);
        self.table(&embedding, &embedding, None)?;
        let gain = self.take_gain(&format!("{FINAL_NORM}.weight"))?;
        self.table(&self.config.weight_of(LM_HEAD), &format!("{LM_HEAD}.weight"), gain.as_deref())
    }

    /// Rotates the rows of the largest matrices, of which no whole copy in f64 should exist.
    fn table(&mut self, source: &str, name: &str, gain: Option<&[f64]>) -> Result<(), Error> {
        let Some(rotation) = &self.rotations.hidden else { return Ok(()) };
        let mut values = self.source.values(source).map_err(model_error)?;
        let columns = self.config.hidden_size;
        let shape = [values.len() / columns, columns];
        values.par_chunks_mut(TABLE_ROWS * columns).try_for_each_init(Vec::new, |wide, rows| {
            wide.clear();
            wide.extend(rows.iter().map(|value| f64::from(*value)));
            for row in wide.chunks_exact_mut(columns) {
                row.iter_mut().zip(gain.into_iter().flatten()).for_each(|(value, gain)| *value *= gain);
            }
            rotation.rows(wide).map_err(|error| Error::input(format!("`{name}`: {error}")))?;
            rows.iter_mut().zip(wide).for_each(|(value, wide)| *value = *wide as f32);
            Ok::<_, Error>(())
        })?;
        self.sink.put(name, &shape, values)
    }

    /// Folds the gain of the norm before it and R1 into a linear; returns whether there is an R1.
    fn reads_hidden(&self, weight: &mut Values, gain: Option<&[f64]>) -> Result<bool, Error> {
        let (Some(rotation), Some(gain)) = (&self.rotations.hidden, gain) else { return Ok(false) };
        weight.gain(gain);
        weight.inputs(rotation)?;
        Ok(true)
    }

    fn writes_hidden(&self, weight: &mut Values, bias: Option<&mut Values>) -> Result<bool, Error> {
        each(self.rotations.hidden.as_ref(), weight, bias, Values::outputs)
    }

    /// The gain of a norm, which becomes 1; `None` without R1, which alone needs that.
    fn take_gain(&mut self, name: &str) -> Result<Option<Vec<f64>>, Error> {
        if self.rotations.hidden.is_none() {
            return Ok(None);
        }
        let gain = self.get(name)?;
        self.put(Values { name: gain.name, shape: gain.shape, values: vec![1.0; gain.values.len()] })?;
        Ok(Some(gain.values))
    }

    fn get(&self, name: &str) -> Result<Values, Error> {
        let values = self.source.values(name).map_err(model_error)?;
        let shape = self.source.shape(name).unwrap_or_else(|| vec![values.len()]);
        Ok(Values { name: name.to_owned(), shape, values: values.into_par_iter().map(f64::from).collect() })
    }

    fn put(&mut self, tensor: Values) -> Result<(), Error> {
        let values = tensor.values.par_iter().map(|value| *value as f32).collect();
        self.sink.put(&tensor.name, &tensor.shape, values)
    }
}

/// Applies a rotation, if there is one, to a weight and its bias; returns whether there is one.
fn each(
    rotation: Option<&Rotation>,
    weight: &mut Values,
    bias: Option<&mut Values>,
    apply: impl Fn(&mut Values, &Rotation) -> Result<(), Error>,
) -> Result<bool, Error> {
    let Some(rotation) = rotation else { return Ok(false) };
    apply(weight, rotation)?;
    bias.map_or(Ok(()), |bias| apply(bias, rotation))?;
    Ok(true)
}
