//! Streams of the host as sequences of tokens.

use workbench_api::sdk::{Batch, Dtype, Error, Host, Tensor};

/// The tokens of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each token is to be learned.
    pub learn: Vec<bool>,
}

/// The sequences of the stream `calibration`, of which there has to be one.
///
/// # Errors
/// There is no calibration data or no token in it; a sequence is empty, or an id none of the `vocabulary`.
pub fn calibration(host: &Host<'_>, vocabulary: usize) -> Result<Vec<Sequence>, Error> {
    let without = |error: Error| error.with_hint("pass calibration: dataset(…).tokens(#{ … })");
    let found = sequences(host, "calibration", vocabulary).map_err(|error| match error.hint {
        None => without(error),
        Some(_) => error,
    })?;
    if found.is_empty() {
        return Err(without(Error::input("the calibration data holds no token")));
    }
    Ok(found)
}

/// All sequences of a stream. A batch holds `input_ids`, of one sequence `[tokens]` or several `[rows, tokens]`, and perhaps
/// `learn` of the same shape: 1 where the token itself shall be learned. Without it all shall.
///
/// # Errors
/// There is no such stream; a sequence is empty, or an id none of the `vocabulary`.
pub fn sequences(host: &Host<'_>, stream: &str, vocabulary: usize) -> Result<Vec<Sequence>, Error> {
    let mut all = Vec::new();
    while let Some(batch) = host.next_batch(stream)? {
        let found = of_batch(&batch, vocabulary);
        all.extend(found.map_err(|error| error.context(format!("sequence {} of the stream `{stream}`", all.len())))?);
        host.check_cancelled()?;
    }
    Ok(all)
}

fn of_batch(batch: &Batch<'_>, vocabulary: usize) -> Result<Vec<Sequence>, Error> {
    let ids = batch.get("input_ids")?;
    let tokens = ids.shape().last().copied().unwrap_or(0);
    if ids.shape().len() > 2 || tokens == 0 {
        return Err(Error::input(format!("`input_ids` is of shape {:?}, not [tokens] or [rows, tokens]", ids.shape())));
    }
    let learn = batch.names().any(|name| name == "learn").then(|| batch.get("learn")).transpose()?;
    let learn = match learn {
        Some(learn) if learn.shape() != ids.shape() => {
            let (learn, ids) = (learn.shape(), ids.shape());
            return Err(Error::input(format!("`learn` is of shape {learn:?}, `input_ids` of {ids:?}")));
        }
        Some(learn) => integers(learn)?.into_iter().map(|value| value != 0).collect(),
        None => vec![true; ids.shape().iter().product()],
    };
    let known = |id: i64| u32::try_from(id).ok().filter(|id| (*id as usize) < vocabulary);
    let ids: Vec<u32> = integers(ids)?
        .into_iter()
        .map(|id| known(id).ok_or_else(|| Error::input(format!("token {id} is not in the vocabulary of {vocabulary}"))))
        .collect::<Result<_, _>>()?;
    let rows = ids.chunks(tokens).zip(learn.chunks(tokens));
    Ok(rows.map(|(ids, learn)| Sequence { ids: ids.to_vec(), learn: learn.to_vec() }).collect())
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
