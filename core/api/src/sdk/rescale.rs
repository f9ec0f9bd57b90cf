//! Equivalent rescaling: what one tensor of a decoder block gives up, the next one takes.
//!
//! The input `x` of a linear is itself the output of a norm or of another linear that is linear in its own weights, so
//!
//! ```text
//! W x = (W diag(s)) (diag(1/s) x)        for any s without zeros
//! ```
//!
//! and `diag(1/s)` folds into whatever made `x`: the norm's gain, or the rows and the bias of the linear before. That is
//! equation 3 of SmoothQuant (Xiao et al. 2023, arXiv:2211.10438), which AWQ (Lin et al. 2023, arXiv:2306.00978) shares.
//! Methods differ in how they choose `s`; the folding is here, once, in f64.

use std::collections::BTreeMap;

use serde_json::Value;

pub use crate::job::{Mapping, Pair};

use super::{Context, Error, Host, Tensor};

/// How the channels of values and of o's input belong together: query head `h` reads KV head `h / (query / key_value)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    query: usize,
    key_value: usize,
    dim: usize,
}

impl Heads {
    /// Heads of a model's config.json.
    ///
    /// # Errors
    /// A size is missing or not positive, or the KV heads do not divide the query heads.
    pub fn from_config(config: &Value) -> Result<Self, Error> {
        let size = |key: &str| config.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let needed = |key: &str| size(key).ok_or_else(|| Error::input(format!("config.json has no number `{key}`")));
        let query = needed("num_attention_heads")?;
        let key_value = size("num_key_value_heads").unwrap_or(query);
        let dim = match size("head_dim") {
            Some(dim) => dim,
            None => needed("hidden_size")? / query.max(1),
        };
        if dim == 0 || key_value == 0 || !query.is_multiple_of(key_value) || query == 0 {
            return Err(Error::input(format!(
                "{query} query heads, {key_value} KV heads of {dim} channels fit no model"
            )));
        }
        Ok(Self { query, key_value, dim })
    }

    /// Whether several query heads share a KV head.
    pub fn are_grouped(self) -> bool {
        self.query != self.key_value
    }

    /// One value per channel of the values (`[kv_heads * dim]`) out of one per channel of o's input (`[heads * dim]`): those
    /// of the heads that share a KV head, folded in the order of the heads.
    ///
    /// # Errors
    /// There are not `heads * dim` values.
    pub fn gather(self, channels: &[f64], fold: impl Fn(f64, f64) -> f64) -> Result<Vec<f64>, Error> {
        let group = self.query / self.key_value;
        self.check("o's input", channels.len(), self.query)?;
        let mut gathered = Vec::with_capacity(self.key_value * self.dim);
        for heads in channels.chunks_exact(group * self.dim) {
            let (first, rest) = heads.split_at(self.dim);
            let mut folded = first.to_vec();
            for head in rest.chunks_exact(self.dim) {
                folded.iter_mut().zip(head).for_each(|(a, b)| *a = fold(*a, *b));
            }
            gathered.append(&mut folded);
        }
        Ok(gathered)
    }

    /// The opposite: one value per channel of o's input, each KV head's repeated for the query heads that read it.
    ///
    /// # Errors
    /// There are not `kv_heads * dim` values.
    pub fn spread(self, channels: &[f64]) -> Result<Vec<f64>, Error> {
        self.check("the values", channels.len(), self.key_value)?;
        let group = self.query / self.key_value;
        Ok(channels.chunks_exact(self.dim).flat_map(|head| head.repeat(group)).collect())
    }

    fn check(self, what: &str, found: usize, heads: usize) -> Result<(), Error> {
        if found == heads * self.dim {
            return Ok(());
        }
        Err(Error::input(format!("{found} channels of {what} are not those of {heads} heads of {}", self.dim)))
    }
}

/// Factors of a tensor: one per row, one per column. A vector has rows only.
#[derive(Clone, Debug, Default, PartialEq)]
struct Factors {
    rows: Option<Vec<f64>>,
    columns: Option<Vec<f64>>,
}

/// Rescalings of a model, gathered tensor by tensor. A tensor in two of them (up, v) is rounded once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rescaling {
    tensors: BTreeMap<String, Factors>,
}

impl Rescaling {
    /// Adds one: the source of a pair is divided by `scales`, one per channel of the source, and its readers are multiplied by
    /// them.
    ///
    /// # Errors
    /// A scale is not a positive number, or there are not as many as the heads say.
    pub fn add(&mut self, pair: &Pair, scales: &[f64], heads: Heads) -> Result<(), Error> {
        if let Some(channel) = scales.iter().position(|s| !s.is_finite() || *s <= 0.0) {
            let message = format!("the scale of channel {channel} is {}", scales[channel]);
            return Err(Error::numeric(message).context(format!(
                "rescaling {} of `{}`",
                pair.mapping.name(),
                pair.block
            )));
        }
        let columns = if pair.mapping == Mapping::ValueToOutput { heads.spread(scales)? } else { scales.to_vec() };
        for reader in &pair.readers {
            self.of(format!("{reader}.weight")).columns = Some(columns.clone());
        }
        let divided: Vec<f64> = scales.iter().map(|s| 1.0 / s).collect();
        self.of(format!("{}.bias", pair.source)).rows = Some(divided.clone());
        self.of(format!("{}.weight", pair.source)).rows = Some(divided);
        Ok(())
    }

    fn of(&mut self, name: String) -> &mut Factors {
        self.tensors.entry(name).or_default()
    }

    /// Puts every tensor that changes, in f32. A bias that the model does not have is none to change.
    ///
    /// # Errors
    /// The model lacks a tensor, one has another shape, or a product is not finite.
    pub fn put(&self, host: &Host<'_>) -> Result<(), Error> {
        for (name, factors) in &self.tensors {
            if name.ends_with(".bias") && host.tensor_info(name)?.is_none() {
                continue;
            }
            let tensor = host.tensor(name)?;
            let values = factors.apply(&tensor.to_f32()?, tensor.shape()).context(|| format!("rescaling `{name}`"))?;
            host.put_tensor(name, Tensor::from_vec(tensor.shape(), values)?)?;
        }
        Ok(())
    }
}

impl Factors {
    /// The products in f64, rounded once to f32.
    fn apply(&self, values: &[f32], shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (rows, columns) = match *shape {
            [rows] => (rows, 1),
            [rows, columns] => (rows, columns),
            _ => return Err(Error::input(format!("a tensor of shape {shape:?} is neither vector nor matrix"))),
        };
        let fits = |factors: &Option<Vec<f64>>, count: usize| factors.as_ref().is_none_or(|f| f.len() == count);
        if !fits(&self.rows, rows) || !fits(&self.columns, columns) {
            let found = [&self.rows, &self.columns].map(|f| f.as_ref().map(Vec::len));
            return Err(Error::input(format!("factors for {found:?} rows and columns, but its shape is {shape:?}")));
        }
        let mut scaled = Vec::with_capacity(values.len());
        for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
            let by_row = self.rows.as_ref().map_or(1.0, |rows| rows[row]);
            for (column, value) in values.iter().enumerate() {
                let by_column = self.columns.as_ref().map_or(1.0, |columns| columns[column]);
                let product = (f64::from(*value) * by_row * by_column) as f32;
                if !product.is_finite() {
                    return Err(Error::numeric(format!("{value} times {} is not finite", by_row * by_column)));
                }
                scaled.push(product);
            }
        }
        Ok(scaled)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn heads(query: usize, key_value: usize, dim: usize) -> Heads {
        let config = json!({ "num_attention_heads": query, "num_key_value_heads": key_value, "head_dim": dim });
        Heads::from_config(&config).unwrap()
    }

    #[test]
    fn heads_that_share_values_are_gathered_and_spread() {
        let grouped = heads(4, 2, 2);
        assert!(grouped.are_grouped() && !heads(4, 4, 2).are_grouped());
        let channels = [1.0, 2.0, 5.0, 0.0, 3.0, 3.0, 1.0, 9.0];
        assert_eq!(grouped.gather(&channels, f64::max).unwrap(), [5.0, 2.0, 3.0, 9.0]);
        assert_eq!(grouped.spread(&[1.0, 2.0, 3.0, 4.0]).unwrap(), [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
        assert_eq!(heads(2, 2, 4).gather(&channels, f64::max).unwrap(), channels);
        assert!(grouped.gather(&channels[1..], f64::max).is_err() && grouped.spread(&channels).is_err());
    }

    #[test]
    fn sizes_that_fit_no_model_are_refused() {
        assert_eq!(
            Heads::from_config(&json!({ "num_attention_heads": 4, "hidden_size": 32 })).unwrap(),
            heads(4, 4, 8)
        );
        for config in [json!({}), json!({ "num_attention_heads": 3, "num_key_value_heads": 2, "head_dim": 4 })] {
            assert!(Heads::from_config(&config).is_err(), "{config}");
        }
    }

    #[test]
    fn a_tensor_in_two_rescalings_gets_both_factors() {
        let mut rescaling = Rescaling::default();
        let heads = heads(1, 1, 2);
        let pair = |mapping, source: &str, readers: &[&str]| Pair {
            mapping,
            block: "b".to_owned(),
            source: format!("b.{source}"),
            readers: readers.iter().map(|reader| format!("b.{reader}")).collect(),
            site: String::new(),
        };
        let norm = pair(Mapping::NormToGateUp, "norm", &["gate", "up"]);
        rescaling.add(&norm, &[2.0, 4.0], heads).unwrap();
        rescaling.add(&pair(Mapping::UpToDown, "up", &["down"]), &[8.0, 0.5, 1.0], heads).unwrap();
        let up = rescaling.tensors["b.up.weight"].apply(&[1.0; 6], &[3, 2]).unwrap();
        assert_eq!(up, [0.25, 0.5, 4.0, 8.0, 2.0, 4.0]);
        let factors = &rescaling.tensors["b.norm.weight"];
        assert_eq!(factors.apply(&[1.0, 1.0], &[2]).unwrap(), [0.5, 0.25]);
        assert_eq!(rescaling.tensors["b.up.bias"].apply(&[1.0; 3], &[3]).unwrap(), [0.125, 2.0, 1.0]);
        assert!(factors.apply(&[1.0; 3], &[3]).is_err());
        assert!(factors.apply(&[f32::INFINITY, 1.0], &[2]).is_err());
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = rescaling.add(&norm, &[1.0, bad], heads).unwrap_err();
            assert!(error.to_string().contains("the scale of channel 1"), "{error}");
        }
    }
}
