//! Tensors of single experts out of those that hold all experts of a block.

use std::collections::BTreeMap;
use std::path::Path;

use workbench_quant::{Conventions, Grid, QuantParams, QuantizedWeight, StorageDtype, pack, preset};

use super::compressed::Unclaimed;
use super::dtype::{Dtype, widen};
use super::safetensors::StoredTensor;
use super::scales::{Sources, float_values};
use super::stored::Stored;
use crate::arch::experts::{BIAS, BLOCKS, SCALES, StackPlace};
use crate::arch::{LinearInfo, TensorSpec};
use crate::{ModelConfig, ModelError};

/// A matrix or a vector whose elements lie apart in a larger tensor.
pub(crate) struct StackedTensor {
    pub(crate) tensor: StoredTensor,
    pub(crate) shape: Vec<usize>,
    /// Of its first element, and the strides of its axes, in elements.
    start: usize,
    strides: Vec<usize>,
}

/// The MXFP4 codes of a linear among those of all experts.
pub(crate) struct StackedCodes {
    pub(crate) blocks: StoredTensor,
    scales: StoredTensor,
    place: StackPlace,
    pub(crate) shape: [usize; 2],
    grid: Grid,
}

/// The stacks that a folder's weight files hold, taken out of them when their first expert is asked for.
pub(crate) struct Stacks<'a> {
    places: BTreeMap<String, (StackPlace, LinearInfo)>,
    taken: BTreeMap<String, (StoredTensor, usize)>,
    folder: &'a Path,
    /// Whether weights of experts are MXFP4 codes.
    pub(crate) coded: bool,
}

impl<'a> Stacks<'a> {
    pub(crate) fn new(config: &ModelConfig, folder: &'a Path, coded: bool) -> Self {
        let place = |linear: LinearInfo| Some((linear.name.clone(), (config.stack_place(&linear)?, linear)));
        let places = config.linears().into_iter().filter_map(place).collect();
        Self { places, taken: BTreeMap::new(), folder, coded }
    }

    /// A tensor of an expert, where the files hold its stack.
    ///
    /// # Errors
    /// The stack is of another shape or type than the configuration calls for.
    pub(crate) fn claim(
        &mut self,
        spec: &TensorSpec,
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Option<Stored>, ModelError> {
        let Some((module, part)) = spec.name.rsplit_once('.') else { return Ok(None) };
        let Some((place, _)) = self.places.get(module).cloned() else { return Ok(None) };
        if part == "bias" {
            let name = format!("{}{BIAS}", place.stack);
            let Some(tensor) = self.take(&name, &[place.experts, place.outputs], unclaimed)? else { return Ok(None) };
            let (start, stride) = place.bias();
            let shape = spec.shape.clone();
            return Ok(Some(Stored::Stacked(StackedTensor { tensor, shape, start, strides: vec![stride] })));
        }
        if self.coded {
            return self
                .codes(place, &spec.shape, unclaimed)
                .map(|codes| codes.map(Box::new).map(Stored::StackedCodes));
        }
        let Some(tensor) = self.take(&place.stack, &place.shape(), unclaimed)? else { return Ok(None) };
        let (start, strides) = place.weight();
        let shape = spec.shape.clone();
        Ok(Some(Stored::Stacked(StackedTensor { tensor, shape, start, strides: strides.to_vec() })))
    }

    fn codes(
        &mut self,
        place: StackPlace,
        shape: &[usize],
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Option<StackedCodes>, ModelError> {
        let error = |message: String| ModelError::tensor(self.folder, format!("{}{BLOCKS}", place.stack), message, "");
        let group = MX_GROUP;
        if !place.inputs.is_multiple_of(group) {
            return Err(error(format!(
                "holds codes in groups of {group}, which do not divide {} inputs",
                place.inputs
            )));
        }
        let args = preset("MXFP4A16").and_then(|scheme| scheme.weights);
        let args = args.ok_or_else(|| error("has no grid".into()))?;
        let grid = Grid::new(&args, StorageDtype::Bf16, Conventions::default()).map_err(|e| error(e.to_string()))?;
        let (outputs, groups) = (place.outputs, place.inputs / group);
        let [blocks, scales] = [BLOCKS, SCALES].map(|part| format!("{}{part}", place.stack));
        let blocks = self.take_bytes(&blocks, &[place.experts, outputs, groups, group / 2], unclaimed)?;
        let scales = self.take_bytes(&scales, &[place.experts, outputs, groups], unclaimed)?;
        let (Some(blocks), Some(scales)) = (blocks, scales) else { return Ok(None) };
        let &[rows, columns] = shape else { return Ok(None) };
        let shape = [rows, columns];
        Ok(Some(StackedCodes { blocks, scales, shape, place, grid }))
    }

    /// Refuses stacks of which not every part is read, because the files hold it once more by itself.
    ///
    /// # Errors
    /// The first such stack.
    pub(crate) fn finish(self) -> Result<(), ModelError> {
        for (name, (tensor, uses)) in &self.taken {
            let stack = [BIAS, BLOCKS, SCALES].into_iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            let parts = self.places.values().filter(|(place, _)| place.stack == stack).count();
            if *uses != parts {
                let message = format!("holds {parts} linears, of which {} are there by themselves too", parts - uses);
                return Err(ModelError::tensor(tensor.file.path(), name, message, "remove one of both"));
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        name: &str,
        shape: &[usize],
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Option<StoredTensor>, ModelError> {
        self.take_as(name, shape, &[Dtype::F32, Dtype::F16, Dtype::BF16], unclaimed)
    }

    fn take_bytes(
        &mut self,
        name: &str,
        shape: &[usize],
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Option<StoredTensor>, ModelError> {
        self.take_as(name, shape, &[Dtype::U8], unclaimed)
    }

    fn take_as(
        &mut self,
        name: &str,
        shape: &[usize],
        dtypes: &[Dtype],
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Option<StoredTensor>, ModelError> {
        if let Some((tensor, uses)) = self.taken.get_mut(name) {
            *uses += 1;
            return Ok(Some(tensor.clone()));
        }
        let Some(tensor) = unclaimed.take(name, dtypes)? else { return Ok(None) };
        if tensor.shape != shape {
            let message = format!("has shape {:?}, the configuration calls for {shape:?}", tensor.shape);
            let hint = "config.json and weights belong to different models";
            return Err(ModelError::tensor(tensor.file.path(), name, message, hint));
        }
        self.taken.insert(name.to_owned(), (tensor.clone(), 1));
        Ok(Some(tensor))
    }
}

/// Weights that share a scale in MXFP4.
pub(crate) const MX_GROUP: usize = 32;

impl StackedTensor {
    fn offsets(&self) -> impl Iterator<Item = usize> + '_ {
        let columns = self.shape.get(1).copied().unwrap_or(1);
        let across = self.strides.get(1).copied().unwrap_or(0);
        let rows = self.shape.first().copied().unwrap_or(0);
        (0..rows)
            .flat_map(move |row| (0..columns).map(move |column| self.start + row * self.strides[0] + column * across))
    }

    /// Bytes that it takes.
    pub(crate) fn size(&self) -> usize {
        self.tensor.dtype.size() * self.shape.iter().product::<usize>()
    }

    /// Lets go of the pages of its expert.
    pub(crate) fn drop_pages(&self) {
        let experts = self.tensor.shape.first().copied().unwrap_or(1).max(1);
        let elements = (self.tensor.elements() / experts).max(1);
        let (one, expert) = (self.tensor.range.len() / experts, self.start / elements);
        let start = self.tensor.range.start + expert * one;
        self.tensor.file.drop_pages(start..start + one);
    }

    /// Its bytes, row-major.
    pub(crate) fn dense_bytes(&self) -> Vec<u8> {
        let (size, bytes) = (self.tensor.dtype.size(), self.tensor.bytes());
        self.offsets().flat_map(|offset| &bytes[offset * size..(offset + 1) * size]).copied().collect()
    }

    /// All values in f32; otherwise the index and value of the first that is not finite.
    pub(crate) fn values(&self) -> Result<Vec<f32>, (usize, f32)> {
        let mut values = vec![0.0; self.shape.iter().product()];
        match widen(self.tensor.dtype, &self.dense_bytes(), &mut values) {
            None => Ok(values),
            Some(index) => Err((index, values[index])),
        }
    }
}

impl StackedCodes {
    /// Bytes that codes and scales take.
    pub(crate) fn size(&self) -> usize {
        let [rows, columns] = self.shape;
        rows * (columns / 2 + columns / MX_GROUP)
    }

    /// The rows of the linear in a tensor of so many bytes a row.
    fn rows<'a>(&self, tensor: &'a StoredTensor, width: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = tensor.bytes();
        let StackPlace { expert, outputs, first, step, .. } = self.place;
        (0..self.shape[0]).map(move |row| {
            let at = (expert * outputs + first + row * step) * width;
            &bytes[at..at + width]
        })
    }

    /// Codes and scales.
    ///
    /// # Errors
    /// A scale is NaN.
    pub(crate) fn read(&self) -> Result<QuantizedWeight, ModelError> {
        let [rows, columns] = self.shape;
        let name = format!("{}{SCALES}", self.place.stack);
        let packed: Vec<u8> = self.rows(&self.blocks, columns / 2).flatten().copied().collect();
        let codes = pack::unpack_fp4(&packed, rows, columns)
            .map_err(|error| ModelError::tensor(self.blocks.file.path(), &name, error.to_string(), ""))?;
        // One expert's scales at a time are a tensor like any.
        let groups = columns / MX_GROUP;
        let of_expert = self.place.outputs * groups;
        let start = self.scales.range.start + self.place.expert * of_expert;
        let own = StoredTensor {
            shape: vec![self.place.outputs, groups],
            range: start..start + of_expert,
            ..self.scales.clone()
        };
        let all = float_values(&name, &own)?;
        let StackPlace { first, step, .. } = self.place;
        let scales = (0..rows).flat_map(|row| &all[(first + row * step) * groups..][..groups]).copied().collect();
        let parameters = QuantParams { scales, shape: [rows, groups], ..QuantParams::default() };
        Sources { scale: (&name, &self.scales), zero_point: None }.check(&self.grid, &parameters)?;
        Ok(QuantizedWeight { grid: self.grid.clone(), shape: self.shape, codes, parameters })
    }

    /// The dense weight, row-major.
    pub(crate) fn values(&self) -> Result<Vec<f32>, ModelError> {
        self.read()?.dequantize().map_err(|error| {
            ModelError::tensor(self.blocks.file.path(), format!("{}{BLOCKS}", self.place.stack), error.to_string(), "")
        })
    }

    /// Lets go of the pages of its expert.
    pub(crate) fn drop_pages(&self) {
        let one = self.blocks.range.len() / self.place.experts.max(1);
        let start = self.blocks.range.start + self.place.expert * one;
        self.blocks.file.drop_pages(start..start + one);
    }
}
