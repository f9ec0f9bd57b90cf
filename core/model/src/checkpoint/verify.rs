//! Holds the tensors of the weight files against the configuration.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Map;
use workbench_quant::{Conventions, Dynamic, Grid, QuantizationArgs, Scheme, Strategy};

use super::Dtype;
use super::compressed::{CompressedLinear, StoredInputScale, Unclaimed};
use super::kv_cache::StoredKv;
use super::quantization::QuantizationConfig;
use super::safetensors::StoredTensor;
use super::scales::storage_dtype;
use super::stacked::Stacks;
use super::stored::Stored;
use crate::arch::{EMBEDDINGS, FREQUENCIES, LM_HEAD, TensorSpec};
use crate::{ModelConfig, ModelError};

/// What the configuration calls for, in its stored form.
pub(crate) struct Matched {
    pub(crate) tensors: BTreeMap<String, Stored>,
    pub(crate) inputs: BTreeMap<String, Input>,
    /// One for each block, or none at all.
    pub(crate) kv_cache: Vec<StoredKv>,
}

/// A quantized input of a linear.
pub(crate) struct Input {
    pub(crate) grid: Grid,
    pub(crate) scale: Option<StoredInputScale>,
}

/// Everything that decides how tensors are stored.
pub(crate) struct Layout<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) folder: &'a Path,
    pub(crate) quantization: Option<&'a QuantizationConfig>,
    pub(crate) weight_grids: &'a BTreeMap<String, Grid>,
    pub(crate) input_grids: &'a BTreeMap<String, Grid>,
    pub(crate) kv_grid: Option<&'a Grid>,
    /// Whether weights of experts are MXFP4 codes, stacked.
    pub(crate) coded_experts: bool,
}

impl Layout<'_> {
    /// Gives every tensor that the configuration calls for its stored form; anything missing, misshapen or left over is
    /// an error.
    pub(crate) fn match_tensors(&self, mut stored: BTreeMap<String, StoredTensor>) -> Result<Matched, ModelError> {
        let mut matched = Matched { tensors: BTreeMap::new(), inputs: BTreeMap::new(), kv_cache: Vec::new() };
        let mut unclaimed = Unclaimed { tensors: &mut stored, folder: self.folder };
        let mut missing = Vec::new();
        let mut stacks = Stacks::new(self.config, self.folder, self.coded_experts);
        for spec in self.config.tensors() {
            if let Some(linear) = self.quantized(&spec, &mut unclaimed, &mut matched.inputs)? {
                matched.tensors.insert(spec.name, Stored::Compressed(Box::new(linear)));
                continue;
            }
            match unclaimed.tensors.remove(&spec.name) {
                Some(tensor) => {
                    check_dense(&spec.name, &spec.shape, &tensor)?;
                    matched.tensors.insert(spec.name, Stored::Dense(tensor));
                }
                None => match stacks.claim(&spec, &mut unclaimed)? {
                    Some(stored) => drop(matched.tensors.insert(spec.name, stored)),
                    None => missing.push(spec.name),
                },
            }
        }
        if let Some(args) = self.quantization.and_then(QuantizationConfig::kv_cache) {
            let claim = |block| StoredKv::claim(block, self.config, args, self.kv_grid, &mut unclaimed);
            matched.kv_cache = (0..self.config.num_layers).map(claim).collect::<Result<_, _>>()?;
        }
        if let Some(first) = missing.first() {
            let codes =
                stored.contains_key(&format!("{first}_packed")) || stored.contains_key(&format!("{first}_scale"));
            return Err(missing_error(self.config, self.folder, first, missing.len(), codes));
        }
        stacks.finish()?;
        refuse_leftovers(self.config, &matched.tensors, &stored)?;
        Ok(matched)
    }

    /// The codes of a linear's weight, where the quantization configuration says that it has some; its input scale is
    /// claimed on the way.
    fn quantized(
        &self,
        spec: &TensorSpec,
        unclaimed: &mut Unclaimed<'_>,
        inputs: &mut BTreeMap<String, Input>,
    ) -> Result<Option<CompressedLinear>, ModelError> {
        let module = spec.name.strip_suffix(".weight");
        let (Some(quantization), Some(module), &[rows, columns]) = (self.quantization, module, &spec.shape[..]) else {
            return Ok(None);
        };
        let Some((scheme, format)) = quantization.scheme(module) else { return Ok(None) };
        let noted = self.weight_grids.get(module);
        if module == EMBEDDINGS {
            self.check_embeddings(scheme)?;
            let table = CompressedLinear::claim(module, [rows, columns], scheme, format, noted, unclaimed)?;
            if table.is_some() && self.config.tie_word_embeddings {
                self.tied_head(quantization, scheme, unclaimed, inputs)?;
            }
            return Ok(table);
        }
        if let Some(args) = &scheme.input_activations {
            inputs.insert(module.into(), self.input(module, args, unclaimed)?);
        }
        CompressedLinear::claim(module, [rows, columns], scheme, format, noted, unclaimed)
    }

    /// Embeddings are looked up by token ids, of which nothing is to be rounded.
    fn check_embeddings(&self, scheme: &Scheme) -> Result<(), ModelError> {
        if scheme.input_activations.is_none() {
            return Ok(());
        }
        let message = "has a scheme with `input_activations`, but embeddings are given token ids";
        let hint = "a scheme for embeddings quantizes weights alone";
        Err(ModelError::tensor(self.folder, EMBEDDINGS, message, hint))
    }

    /// A head that shares a quantized table has a scheme of its own, which says how its inputs are rounded.
    fn tied_head(
        &self,
        quantization: &QuantizationConfig,
        table: &Scheme,
        unclaimed: &mut Unclaimed<'_>,
        inputs: &mut BTreeMap<String, Input>,
    ) -> Result<(), ModelError> {
        let Some((scheme, _)) = quantization.scheme(LM_HEAD) else { return Ok(()) };
        // How a scale was found does not matter any more.
        let codes = |scheme: &Scheme| {
            let weights = scheme.weights.clone()?;
            Some(QuantizationArgs { observer: None, observer_kwargs: Map::new(), actorder: None, ..weights })
        };
        if codes(scheme) != codes(table) {
            let message = "is quantized otherwise than the embeddings although `tie_word_embeddings` is true";
            let hint = "set `tie_word_embeddings` to false if the head is meant to have its own weight";
            return Err(ModelError::tensor(self.folder, LM_HEAD, message, hint));
        }
        if let Some(args) = &scheme.input_activations {
            inputs.insert(LM_HEAD.into(), self.input(LM_HEAD, args, unclaimed)?);
        }
        Ok(())
    }

    fn input(&self, module: &str, args: &QuantizationArgs, unclaimed: &mut Unclaimed<'_>) -> Result<Input, ModelError> {
        let suffix = if args.strategy == Strategy::TensorGroup { "input_global_scale" } else { "input_scale" };
        let name = format!("{module}.{suffix}");
        let error = |message: &str, hint: &str| ModelError::tensor(self.folder, &name, message, hint);
        let scale = StoredInputScale::claim(module, args, unclaimed)?;
        match (args.dynamic, &scale) {
            (Dynamic::No | Dynamic::Local, None) => {
                return Err(error("is missing, but the inputs are quantized with a static scale", ""));
            }
            (Dynamic::Yes, Some(_)) => return Err(error("is there, but the inputs are quantized dynamically", "")),
            (Dynamic::No | Dynamic::Local, Some(_)) | (Dynamic::Yes, None) => {}
        }
        let stored = storage_dtype(scale.as_ref().map_or(Dtype::F32, |stored| stored.scale.dtype));
        let grid = match self.input_grids.get(module).filter(|grid| grid.args() == args) {
            Some(grid) => grid.clone(),
            None => Grid::new(args, stored, Conventions::default())
                .map_err(|cause| error(&cause.to_string(), &cause.hint().unwrap_or_default()))?,
        };
        if let Some(scale) = &scale
            && scale.scale.elements() != 1
            && matches!(args.strategy, Strategy::Tensor | Strategy::TensorGroup)
        {
            let message = format!("has shape {:?}, expected one scale for the tensor", scale.scale.shape);
            return Err(error(&message, ""));
        }
        Ok(Input { grid, scale })
    }
}

fn check_dense(name: &str, shape: &[usize], tensor: &StoredTensor) -> Result<(), ModelError> {
    if tensor.shape != shape {
        return Err(ModelError::tensor(
            tensor.file.path(),
            name,
            format!("has shape {:?}, the configuration calls for {shape:?}", tensor.shape),
            "config.json and weights belong to different models",
        ));
    }
    if !tensor.dtype.is_dense_float() {
        return Err(ModelError::tensor(
            tensor.file.path(),
            name,
            format!("is of type {}, expected F32, F16 or BF16", tensor.dtype),
            "",
        ));
    }
    Ok(())
}

/// `codes` tells whether the tensor is there as codes, where only dense ones are read.
fn missing_error(config: &ModelConfig, folder: &Path, first: &str, count: usize, codes: bool) -> ModelError {
    let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let hint = if codes {
        "it is stored as codes, and the quantization_config does not say how".into()
    } else if first.strip_suffix(".weight") == Some(LM_HEAD) {
        "`tie_word_embeddings` is false, so the head needs its own weight".into()
    } else {
        format!("the configuration describes a {} of {} layers", config.architecture.class_name(), config.num_layers)
    };
    ModelError::tensor(folder, first, format!("is missing{more}"), hint)
}

/// Refuses tensors that no part of the decoder would read: ignoring one would silently compute another function.
fn refuse_leftovers(
    config: &ModelConfig,
    tensors: &BTreeMap<String, Stored>,
    leftovers: &BTreeMap<String, StoredTensor>,
) -> Result<(), ModelError> {
    for (name, tensor) in leftovers {
        // Old exports store the rotary frequencies, which follow from the configuration.
        if name.ends_with(FREQUENCIES) {
            continue;
        }
        if name.strip_suffix(".weight") == Some(LM_HEAD) && config.tie_word_embeddings {
            let embedding = tensors.get(&config.weight_of(EMBEDDINGS));
            if let Some(Stored::Dense(embedding)) = embedding
                && embedding.bytes() == tensor.bytes()
            {
                continue;
            }
            return Err(ModelError::tensor(
                tensor.file.path(),
                name,
                "differs from the embeddings although `tie_word_embeddings` is true",
                "set `tie_word_embeddings` to false if the head is meant to have its own weight",
            ));
        }
        return Err(ModelError::tensor(
            tensor.file.path(),
            name,
            format!("belongs to no part of a {} of {} layers", config.architecture.class_name(), config.num_layers),
            "config.json and weights belong to different models",
        ));
    }
    Ok(())
}
