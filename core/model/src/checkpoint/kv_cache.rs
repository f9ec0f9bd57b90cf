//! `kv_cache_scheme` of compressed-tensors: how keys (after RoPE) and values are rounded before they are cached, with their
//! scales.

use workbench_quant::{Conventions, Dynamic, Grid, QuantParams, QuantizationArgs, Strategy};

use super::compressed::{FLOATS, Unclaimed};
use super::dtype::Dtype;
use super::safetensors::StoredTensor;
use super::scales::{Sources, bytes_as_points, float_values, storage_dtype};
use crate::arch::{kv_scale_name, kv_zero_point_name};
use crate::{ModelConfig, ModelError};

/// How the keys and values of a block are quantized.
///
/// Parameters are those of matrices `[tokens, kv_heads * head_dim]`: one scale, or one a head (shape `[1, kv_heads]`). They
/// are `None` where every input gives its own.
#[derive(Clone, Debug, PartialEq)]
pub struct KvQuantizer {
    /// Which numbers they are rounded to, by the arguments of the format; [`Grid::of_heads`] is the grid of the matrices.
    pub grid: Grid,
    /// Scales of keys.
    pub key: Option<QuantParams>,
    /// Scales of values.
    pub value: Option<QuantParams>,
}

/// The scales of a block as they are stored.
pub(crate) struct StoredKv {
    grid: Grid,
    key: Option<StoredScale>,
    value: Option<StoredScale>,
}

struct StoredScale {
    name: String,
    zero_point_name: String,
    scale: StoredTensor,
    zero_point: Option<StoredTensor>,
}

impl StoredKv {
    /// Claims the scales of one block. `noted` is the grid that the writer noted, where it did.
    pub(crate) fn claim(
        block: usize,
        config: &ModelConfig,
        args: &QuantizationArgs,
        noted: Option<&Grid>,
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Self, ModelError> {
        let [key, value] = ["k", "v"].map(|part| StoredScale::claim(block, part, config, args, unclaimed));
        let (key, value) = (key?, value?);
        let stored = storage_dtype(key.as_ref().map_or(Dtype::F32, |key| key.scale.dtype));
        let grid = match noted.filter(|grid| grid.args() == args) {
            Some(grid) => grid.clone(),
            None => Grid::new(args, stored, Conventions::default()).map_err(|error| {
                let hint = error.hint().unwrap_or_default();
                ModelError::tensor(unclaimed.folder, kv_scale_name(block, "k"), error.to_string(), hint)
            })?,
        };
        Ok(Self { grid, key, value })
    }

    pub(crate) fn read(&self) -> Result<KvQuantizer, ModelError> {
        let read = |stored: &Option<StoredScale>| stored.as_ref().map(|scale| scale.read(&self.grid)).transpose();
        Ok(KvQuantizer { grid: self.grid.clone(), key: read(&self.key)?, value: read(&self.value)? })
    }
}

/// The stored shape of scales, as compressed-tensors broadcasts them over `[heads, tokens, head_dim]`.
pub(crate) fn stored_shape(args: &QuantizationArgs, heads: usize) -> Vec<usize> {
    if args.strategy == Strategy::AttnHead { vec![heads, 1, 1] } else { vec![1] }
}

impl StoredScale {
    fn claim(
        block: usize,
        part: &str,
        config: &ModelConfig,
        args: &QuantizationArgs,
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Option<Self>, ModelError> {
        let name = kv_scale_name(block, part);
        let found = unclaimed.take(&name, &FLOATS)?;
        let zero_point_name = kv_zero_point_name(block, part);
        let zero_point = unclaimed.take(&zero_point_name, &[Dtype::I8])?;
        let error = |message: String| Err(ModelError::tensor(unclaimed.folder, &name, message, ""));
        let scale = match (found, args.dynamic) {
            (None, Dynamic::No) => return error("is missing, but the KV cache has static scales".into()),
            (Some(_), Dynamic::Yes | Dynamic::Local) => {
                return error("is there, but the KV cache is quantized dynamically".into());
            }
            (None, _) => return Ok(None),
            (Some(scale), Dynamic::No) => scale,
        };
        let heads = if args.strategy == Strategy::AttnHead { config.num_kv_heads } else { 1 };
        let expected = stored_shape(args, config.num_kv_heads);
        if scale.elements() != heads {
            return error(format!("has shape {:?}, expected {expected:?}", scale.shape));
        }
        match &zero_point {
            None if !args.symmetric => error("has no zero-point beside it, but the KV cache is asymmetric".into()),
            Some(points) if points.elements() != heads => {
                error(format!("has zero-points of shape {:?}, expected {expected:?}", points.shape))
            }
            _ => Ok(Some(Self { name, zero_point_name, scale, zero_point })),
        }
    }

    fn read(&self, grid: &Grid) -> Result<QuantParams, ModelError> {
        let symmetric = grid.args().symmetric;
        let scales = float_values(&self.name, &self.scale)?;
        let points = self.zero_point.as_ref().map(|points| bytes_as_points(points.bytes()));
        if symmetric && points.iter().flatten().any(|point| *point != 0) {
            let message = "has zero-points beside it, but the KV cache is symmetric";
            return Err(ModelError::tensor(self.scale.file.path(), &self.name, message, ""));
        }
        let shape = [1, scales.len()];
        let zero_points = points.filter(|_| !symmetric);
        let parameters = QuantParams { scales, zero_points, global_scale: None, shape };
        let zero_point = self.zero_point.as_ref().map(|tensor| (self.zero_point_name.as_str(), tensor));
        Sources { scale: (&self.name, &self.scale), zero_point }.check(grid, &parameters)?;
        Ok(parameters)
    }
}
