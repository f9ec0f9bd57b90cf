//! What the host hands out, as training takes it.

use workbench_api::sdk::{Batch, Dtype, Error, Host, Tensor};
use workbench_model::{ModelError, WeightSource};
use workbench_train::Example;

/// The host's model.
pub(crate) struct HostWeights<'a, 'h>(pub(crate) &'a Host<'h>);

impl WeightSource for HostWeights<'_, '_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.tensor_info(name).ok().flatten().map(|info| info.shape.to_vec())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let tensor = self.0.tensor(name).map_err(|error| ModelError::Text(error.to_string()))?;
        let values = tensor.to_f32().map_err(|error| ModelError::Text(format!("tensor `{name}`: {error}")))?;
        Ok(values.into_owned())
    }
}

/// All sequences of the stream `train`. A batch holds `input_ids`, of one sequence `[tokens]` or several `[rows, tokens]`,
/// and perhaps `learn` of the same shape: 1 where the token itself shall be learned.
pub(crate) fn examples(host: &Host<'_>) -> Result<Vec<Example>, Error> {
    let mut all = Vec::new();
    while let Some(batch) = host.next_batch("train")? {
        all.extend(sequences(&batch).map_err(|error| error.context(format!("training batch {}", all.len())))?);
        host.check_cancelled()?;
    }
    Ok(all)
}

fn sequences(batch: &Batch<'_>) -> Result<Vec<Example>, Error> {
    let ids = batch.get("input_ids")?;
    let tokens = ids.shape().last().copied().unwrap_or(0);
    if ids.shape().len() > 2 || tokens == 0 {
        return Err(Error::input(format!("`input_ids` is of shape {:?}, not [tokens] or [rows, tokens]", ids.shape())));
    }
    let learn = batch.names().any(|name| name == "learn").then(|| batch.get("learn")).transpose()?;
    let mask = match learn {
        Some(learn) if learn.shape() != ids.shape() => {
            let (learn, ids) = (learn.shape(), ids.shape());
            return Err(Error::input(format!("`learn` is of shape {learn:?}, `input_ids` of {ids:?}")));
        }
        Some(learn) => integers(learn)?.into_iter().map(|value| value != 0).collect(),
        None => vec![true; ids.shape().iter().product()],
    };
    let ids: Vec<u32> = integers(ids)?
        .into_iter()
        .map(|id| u32::try_from(id).map_err(|_| Error::input(format!("{id} is no token id"))))
        .collect::<Result<_, _>>()?;
    let rows = ids.chunks(tokens).zip(mask.chunks(tokens));
    Ok(rows.map(|(ids, mask)| Example { ids: ids.to_vec(), mask: mask.to_vec() }).collect())
}

fn integers(tensor: &Tensor<'_>) -> Result<Vec<i64>, Error> {
    Ok(match tensor.dtype() {
        Dtype::U32 => tensor.values::<u32>()?.iter().map(|value| i64::from(*value)).collect(),
        Dtype::I32 => tensor.values::<i32>()?.iter().map(|value| i64::from(*value)).collect(),
        Dtype::I64 => tensor.values::<i64>()?.to_vec(),
        Dtype::U8 => tensor.values::<u8>()?.iter().map(|value| i64::from(*value)).collect(),
        other => return Err(Error::input(format!("expected integers, found {other:?}"))),
    })
}
