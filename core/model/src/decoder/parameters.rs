//! Where the decoder's tensors come from: weights that are only read, or variables that are trained.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::ops::View;
use crate::arch::{Initial, TensorSpec};
use crate::device::HOST;
use crate::{ModelConfig, ModelError, Precision, WeightSource, matmul};

/// Tensors by name.
pub trait TensorSource {
    /// The tensor of that name; an error unless it exists and has that shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError>;

    /// The weight `[outputs, inputs]` of a linear in the form that products read, from a source that has them so.
    fn packed(&self, _name: &str, _shape: [usize; 2]) -> Result<Option<matmul::Weight>, ModelError> {
        Ok(None)
    }
}

/// Makes tensors on a device out of weights.
pub(super) struct Loading<'a> {
    pub(super) source: &'a dyn WeightSource,
    pub(super) device: &'a Device,
}

impl TensorSource for Loading<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        // A missing tensor is the source's to explain: it knows the file.
        let values = self.source.values(name)?;
        let found = self.source.shape(name).unwrap_or_else(|| vec![values.len()]);
        if found != shape || values.len() != shape.iter().product::<usize>() {
            return Err(misshapen(name, &found, shape));
        }
        Ok(Tensor::from_vec(values, shape, self.device)?)
    }
}

/// The same on the CPU, with the weights of linears packed for products in a precision: there is no backward pass.
pub(super) struct PackedLoading<'a> {
    pub(super) source: &'a dyn WeightSource,
    pub(super) precision: Precision,
}

impl TensorSource for PackedLoading<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        Loading { source: self.source, device: &HOST }.tensor(name, shape)
    }

    fn packed(&self, name: &str, shape: [usize; 2]) -> Result<Option<matmul::Weight>, ModelError> {
        let ([outputs, inputs], found) = (shape, self.source.shape(name));
        let weight = match self.source.stored_bf16(name)? {
            Some(stored) if found.is_some_and(|found| found == shape) && stored.len() == outputs * inputs => {
                matmul::Weight::stored(stored, outputs, inputs, self.precision)
            }
            _ => matmul::Weight::new(View::new(&self.tensor(name, &shape)?)?.values(), outputs, inputs, self.precision),
        };
        Ok(Some(weight))
    }
}

fn misshapen(tensor: &str, found: &[usize], expected: &[usize]) -> ModelError {
    ModelError::Tensor {
        file: PathBuf::from("weights"),
        tensor: tensor.to_owned(),
        message: format!("shape {found:?}, but the configuration asks for {expected:?}"),
        hint: Some("check that config.json belongs to these weights".to_owned()),
    }
}

fn missing(tensor: &str) -> ModelError {
    ModelError::Tensor {
        file: PathBuf::from("weights"),
        tensor: tensor.to_owned(),
        message: "there is no tensor of this name".to_owned(),
        hint: None,
    }
}

/// Tensors of another source that lead to no variable: what a decoder over them computes builds no graph, and holds of a forward pass
/// only what it needs next. They share their values with the source's, and follow when those change in place.
pub struct Detached<'a>(pub &'a dyn TensorSource);

impl TensorSource for Detached<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(self.0.tensor(name, shape)?.detach())
    }

    fn packed(&self, name: &str, shape: [usize; 2]) -> Result<Option<matmul::Weight>, ModelError> {
        self.0.packed(name, shape)
    }
}

/// The variables of a model in training, by name. Those of them that are frozen keep their values and get no gradient.
#[derive(Clone)]
pub struct TrainableParams {
    vars: BTreeMap<String, Var>,
    frozen: BTreeSet<String>,
}

impl TrainableParams {
    /// Copies all weights that the architecture needs into variables.
    pub fn load(config: &ModelConfig, source: &dyn WeightSource, device: &Device) -> Result<Self, ModelError> {
        Self::load_where(config, source, device, |_| true)
    }

    /// The same for those of them that `wanted` names: what is held otherwise takes no memory here.
    pub fn load_where(
        config: &ModelConfig,
        source: &dyn WeightSource,
        device: &Device,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self, ModelError> {
        let loading = Loading { source, device };
        let tensors = config.tensors().into_iter().filter(|spec| wanted(&spec.name)).collect();
        Self::collect(tensors, |spec| loading.tensor(&spec.name, &spec.shape))
    }

    /// Copies the weights of block `index` into variables.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_block(
        config: &ModelConfig,
        source: &dyn WeightSource,
        index: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let loading = Loading { source, device };
        Self::collect(config.block(index).tensors(), |spec| loading.tensor(&spec.name, &spec.shape))
    }

    /// Fresh weights: normal with standard deviation `deviation` for matrices (as the models of this family were begun
    /// with; .02 is the usual value), ones for norms, zeros for biases and sinks. Each tensor draws from a stream of its own, so
    /// that its values depend on the seed and its place in the model alone.
    pub fn random(config: &ModelConfig, deviation: f64, seed: u64, device: &Device) -> Result<Self, ModelError> {
        let mut stream = 0;
        Self::collect(config.tensors(), |spec| {
            stream += 1;
            let count = spec.shape.iter().product();
            let values = match spec.initial {
                Initial::Normal => normal(count, deviation, seed, stream),
                Initial::Zeros => vec![0.0; count],
                Initial::Ones => vec![1.0; count],
            };
            Ok(Tensor::from_vec(values, spec.shape.as_slice(), device)?)
        })
    }

    fn collect(
        tensors: Vec<TensorSpec>,
        mut make: impl FnMut(&TensorSpec) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut vars = BTreeMap::new();
        for spec in tensors {
            let tensor = make(&spec)?;
            vars.insert(spec.name, Var::from_tensor(&tensor)?);
        }
        Ok(Self { vars, frozen: BTreeSet::new() })
    }

    /// Adds a variable that the architecture does not know, with a tensor's values: a scale that is learned, for example.
    ///
    /// # Errors
    /// There is a variable of that name; the tensor is not f32.
    pub fn insert(&mut self, name: &str, tensor: &Tensor) -> Result<(), ModelError> {
        if tensor.dtype() != DType::F32 {
            let message = format!("the variable `{name}` is of {:?}: variables are f32", tensor.dtype());
            return Err(candle_core::Error::Msg(message).into());
        }
        if self.vars.contains_key(name) {
            return Err(candle_core::Error::Msg(format!("there is a variable `{name}` already")).into());
        }
        self.vars.insert(name.to_owned(), Var::from_tensor(&tensor.detach())?);
        Ok(())
    }

    /// Freezes variables: decoders that are built from now on take them for constants, so that no gradient is computed for them, and
    /// none is asked for.
    ///
    /// # Errors
    /// There is no variable of a name. Then none is frozen.
    pub fn freeze<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> Result<(), ModelError> {
        let names: Vec<&str> = names.into_iter().collect();
        if let Some(unknown) = names.iter().find(|name| !self.vars.contains_key(**name)) {
            return Err(missing(unknown));
        }
        self.frozen.extend(names.into_iter().map(str::to_owned));
        Ok(())
    }

    /// Whether a variable is frozen.
    pub fn is_frozen(&self, name: &str) -> bool {
        self.frozen.contains(name)
    }

    /// Names and variables of what is not frozen, in the order of the names.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.iter().filter(|(name, _)| !self.is_frozen(name))
    }

    /// Names and variables in the order of the names, frozen ones too.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The variable of that name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.vars.get(name)
    }

    /// How many numbers are trained: those of frozen variables are not.
    pub fn count(&self) -> usize {
        self.trainable().map(|(_, var)| var.elem_count()).sum()
    }

    /// Changes a variable's values in place; the decoders built over it see the new values. CPU only.
    pub fn update(&self, name: &str, change: impl FnOnce(&mut [f32])) -> Result<(), ModelError> {
        let var = self.vars.get(name).ok_or_else(|| missing(name))?;
        Ok(var.inplace_op1(&Change(Mutex::new(Some(change))))?)
    }

    /// Overwrites a variable in place; the decoders built over it see the new values.
    pub fn set(&self, name: &str, values: Vec<f32>) -> Result<(), ModelError> {
        let var = self.vars.get(name).ok_or_else(|| missing(name))?;
        if values.len() != var.elem_count() {
            return Err(misshapen(name, &[values.len()], var.dims()));
        }
        Ok(var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?)
    }
}

/// A function that changes values in place, as candle calls it.
struct Change<F>(Mutex<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("expected a contiguous tensor of f32")
        };
        if let Some(change) = self.0.lock().ok().and_then(|mut change| change.take()) {
            change(&mut values[start..end]);
        }
        Ok(())
    }
}

impl TensorSource for TrainableParams {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let var = self.vars.get(name).ok_or_else(|| missing(name))?;
        if var.dims() != shape {
            return Err(misshapen(name, var.dims(), shape));
        }
        Ok(if self.is_frozen(name) { var.as_detached_tensor() } else { var.as_tensor().clone() })
    }
}

impl WeightSource for TrainableParams {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.vars.get(name).map(|var| var.dims().to_vec())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let var = self.vars.get(name).ok_or_else(|| missing(name))?;
        let tensor = var.as_tensor().to_device(&HOST)?;
        Ok(View::new(&tensor)?.values().to_vec())
    }
}

/// Normal deviates by the Box-Muller transform from a seeded stream.
fn normal(count: usize, deviation: f64, seed: u64, stream: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = deviation * (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (2.0 * std::f64::consts::PI * rng.random::<f64>()).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    values.truncate(count);
    values
}
