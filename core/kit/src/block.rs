//! What quantizers that train a block have to say to their host.

use std::path::Path;

use candle_core::Tensor as Values;
use workbench_api::job::{Block, Facts, Linear};
use workbench_api::sdk::{Batch, Dtype, Error, Host, Tensor};
use workbench_model::checkpoint::{self, narrow, widened};
use workbench_model::decoder::{self, TrainableParams};
use workbench_model::{Activations, Context, ModelConfig, Precision, WeightSource, device};
use workbench_quant::{Matrix, QuantizedWeight};
use workbench_train::BlockData;

use crate::{HostWeights, grid_error, model_error, quantized_linear, train_error};

/// The stream of a block's inputs.
const INPUTS: &str = "inputs";

/// Bytes of inputs and of targets, each, that are kept in memory. What is more lies in files of the scratch folder.
const IN_MEMORY: usize = 256 << 20;

/// The sequences of a block job: its inputs on the quantized path, and what the unquantized block answers to those of the full-precision
/// path. Padding is left out. Nothing of a sequence is in memory but what [`BlockData`] is asked for, where there are many.
///
/// # Errors
/// There is no calibration data; masks with holes, positions that do not begin at 0; the block cannot be read.
pub fn block_data(host: &Host<'_>, job: &Block, config: &ModelConfig) -> Result<BlockData, Error> {
    let lens = sequence_lengths(host)?;
    let lens: Vec<usize> = lens.into_iter().filter(|len| *len > 0).collect();
    if lens.is_empty() {
        return Err(Error::input("the calibration data holds no token")
            .with_hint("pass calibration: dataset(…).tokens(#{ … })"));
    }
    let original =
        decoder::Block::load_for_scoring(config, &HostWeights::new(host), job.block, Precision::F32, &device::chosen())
            .map_err(model_error)?;
    let mut kept = [room(host, "block-inputs", &lens, config)?, room(host, "block-targets", &lens, config)?];
    host.rewind(INPUTS)?;
    let mut next = 0;
    while let Some(batch) = host.next_batch(INPUTS)? {
        host.check_cancelled()?;
        let lens = lengths(&batch)?;
        let (input, full) = (values(&batch, "quantized")?, values(&batch, "full_precision")?);
        let (rows, len, _) = full.dims3()?;
        let context = Context::full(rows, len, Some(&lens));
        let target = original.forward(&full, &context, &mut ()).map_err(model_error)?;
        for (row, own) in lens.into_iter().enumerate().filter(|(_, own)| *own > 0) {
            for (kept, all) in kept.iter_mut().zip([&input, &target]) {
                let sequence = all.narrow(0, row, 1)?.narrow(1, 0, own)?.contiguous()?;
                kept.set(next, &sequence).map_err(model_error)?;
            }
            next += 1;
        }
    }
    let [inputs, targets] = kept;
    BlockData::new(inputs, targets).map_err(train_error)
}

/// Room for a sequence of each length.
fn room(host: &Host<'_>, name: &str, lens: &[usize], config: &ModelConfig) -> Result<Activations, Error> {
    let shapes: Vec<[usize; 2]> = lens.iter().map(|len| [1, *len]).collect();
    let bytes = lens.iter().sum::<usize>().saturating_mul(4 * config.hidden_size);
    if bytes <= IN_MEMORY {
        return Ok(Activations::in_memory(&shapes, config.hidden_size, Precision::F32));
    }
    let file: &Path = &host.scratch()?.join(name);
    Activations::in_file(file, &shapes, config.hidden_size, Precision::F32).map_err(model_error)
}

/// Tokens of each sequence of the stream.
fn sequence_lengths(host: &Host<'_>) -> Result<Vec<usize>, Error> {
    let mut all = Vec::new();
    while let Some(batch) = host.next_batch(INPUTS)? {
        host.check_cancelled()?;
        all.extend(lengths(&batch)?);
    }
    Ok(all)
}

/// Tokens of each sequence of a batch, which are padded behind.
fn lengths(batch: &Batch<'_>) -> Result<Vec<usize>, Error> {
    let (mask, positions) = (batch.get("mask")?, batch.get("positions")?);
    let &[_, len] = mask.shape() else {
        return Err(Error::input(format!("`mask` is of shape {:?}, not [batch, tokens]", mask.shape())));
    };
    if positions.shape() != mask.shape() {
        return Err(Error::input(format!(
            "`positions` are of shape {:?}, `mask` of {:?}",
            positions.shape(),
            mask.shape()
        )));
    }
    let rows = mask.values::<u8>()?.chunks(len.max(1)).zip(positions.values::<u32>()?.chunks(len.max(1)));
    let of_row = |(mask, positions): (&[u8], &[u32])| {
        let own = mask.iter().take_while(|seen| **seen != 0).count();
        if mask.iter().skip(own).any(|seen| *seen != 0) {
            return Err(Error::unsupported("a sequence of `inputs` has padding before or between its tokens"));
        }
        if positions.iter().take(own).enumerate().any(|(index, position)| index != *position as usize) {
            return Err(Error::unsupported("a sequence of `inputs` does not begin at position 0"));
        }
        Ok(own)
    };
    rows.map(of_row).collect()
}

/// Activations of a batch, `[batch, tokens, hidden]`.
fn values(batch: &Batch<'_>, name: &str) -> Result<Values, Error> {
    let found = batch.get(name)?;
    Ok(Values::from_vec(found.to_f32()?.into_owned(), found.shape(), &device::chosen())?)
}

/// The dtype in which the model stores a tensor; f32 where that is none of floating point.
fn stored(host: &Host<'_>, name: &str) -> Result<(Dtype, checkpoint::Dtype), Error> {
    Ok(match host.tensor_info(name)?.map(|info| info.dtype) {
        Some(Dtype::BF16) => (Dtype::BF16, checkpoint::Dtype::BF16),
        Some(Dtype::F16) => (Dtype::F16, checkpoint::Dtype::F16),
        _ => (Dtype::F32, checkpoint::Dtype::F32),
    })
}

/// Rounds variables to the dtypes in which the model stores them, as [`put_stored`] does: what is measured from here on is what is put.
///
/// # Errors
/// There is no such variable.
pub fn round_to_stored(host: &Host<'_>, parameters: &TrainableParams, names: &[String]) -> Result<(), Error> {
    for name in names {
        let (_, dtype) = stored(host, name)?;
        let values = parameters.values(name).map_err(model_error)?;
        parameters.set(name, widened(&narrow(&values, dtype), dtype)).map_err(model_error)?;
    }
    Ok(())
}

/// Puts variables in the dtypes in which the model stores them.
///
/// # Errors
/// There is no such variable; the host cannot take it.
pub fn put_stored(host: &Host<'_>, parameters: &TrainableParams, names: &[String]) -> Result<(), Error> {
    for name in names {
        let (dtype, narrowed) = stored(host, name)?;
        let values = parameters.values(name).map_err(model_error)?;
        let shape = parameters.shape(name).unwrap_or_default();
        host.put_tensor(name, Tensor::from_bytes(dtype, &shape, &narrow(&values, narrowed))?)?;
    }
    Ok(())
}

/// How many codes of a block are others than those that its weights have when they are rounded to nearest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangedCodes {
    /// All codes.
    pub all: usize,
    /// Those that differ.
    pub changed: usize,
    /// Zero-points that differ.
    pub zero_points: usize,
}

impl ChangedCodes {
    /// Puts the codes of a linear, and counts them.
    ///
    /// # Errors
    /// The weight cannot be read, or the host cannot take the codes.
    pub fn put(&mut self, host: &Host<'_>, linear: &Linear, made: QuantizedWeight) -> Result<(), Error> {
        let values = HostWeights::new(host).values(&linear.weight).map_err(model_error)?;
        let [rows, columns] = made.shape;
        let nearest = Matrix::new(&values, rows, columns)
            .and_then(|matrix| QuantizedWeight::round_to_nearest(matrix, &made.grid))
            .map_err(|error| grid_error(&error).context(format!("rounding `{}`", linear.weight)))?;
        self.all += made.codes.len();
        self.changed += made.codes.iter().zip(&nearest.codes).filter(|(a, b)| a != b).count();
        let points = [&made, &nearest].map(|weight| weight.parameters.zero_points.as_deref().unwrap_or_default());
        self.zero_points += points[0].iter().zip(points[1]).filter(|(a, b)| a != b).count();
        host.put_codes(&linear.module, &quantized_linear(linear, made, Facts::new()))
    }
}
