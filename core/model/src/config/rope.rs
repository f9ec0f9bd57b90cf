//! Rotary frequencies in `config.json`: `rope_theta` and `rope_scaling` as transformers 4 writes them, `rope_parameters` as
//! transformers 5 does.
//!
//! Where both objects stand in a file, transformers 5 takes `rope_scaling` whole and never looks at the other. Here they have
//! to mean the same; only a `rope_parameters` of type "default", which scales nothing, gives way to a `rope_scaling`.

use serde_json::Value;

use super::keys::{Keys, MAX_SIZE};
use super::{RopeScaling, Yarn};
use crate::ModelError;

/// Keys that every kind of scaling may carry. The length before stretching is no more than a note where it is not needed.
const COMMON: [&str; 5] =
    ["rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"];

/// What one of the objects says.
struct Spelled {
    theta: Option<f64>,
    scaling: RopeScaling,
}

impl Keys<'_> {
    /// The base frequency, in a family that has this one where a file names none, and the scaling.
    pub(super) fn rope(&self, default_theta: f64) -> Result<(f64, RopeScaling), ModelError> {
        let outer = self.positive("rope_theta")?;
        let [old, new] = ["rope_scaling", "rope_parameters"].map(|key| self.spelled(key));
        let (old, new) = (old?, new?);
        for (key, spelled) in [("rope_scaling", &old), ("rope_parameters", &new)] {
            if let (Some(outer), Some(theta)) = (outer, spelled.as_ref().and_then(|spelled| spelled.theta))
                && outer != theta
            {
                let message = format!("`rope_theta` is {outer}, but `{key}` has `rope_theta` {theta}");
                return Err(self.error(message, "remove the wrong one"));
            }
        }
        let (theta, scaling) = match (old, new) {
            (None, None) => (outer, RopeScaling::None),
            (Some(one), None) | (None, Some(one)) => (one.theta.or(outer), one.scaling),
            (Some(old), Some(new)) => self.agreed(old, new, outer, default_theta)?,
        };
        Ok((theta.unwrap_or(default_theta), scaling))
    }

    /// What both objects mean.
    fn agreed(
        &self,
        old: Spelled,
        new: Spelled,
        outer: Option<f64>,
        default_theta: f64,
    ) -> Result<(Option<f64>, RopeScaling), ModelError> {
        if new.scaling != RopeScaling::None && new.scaling != old.scaling {
            let message = format!("`rope_scaling` means {}, but `rope_parameters` {}", old.scaling, new.scaling);
            return Err(self.error(message, "remove the wrong one; transformers takes `rope_scaling`"));
        }
        let theta = old.theta.or(outer);
        match new.theta {
            Some(new) if new != theta.unwrap_or(default_theta) => {
                let found = match theta {
                    Some(theta) => format!("`rope_scaling` has `rope_theta` {theta}"),
                    None => format!("`rope_scaling` has none, for which transformers assumes {default_theta}"),
                };
                let message = format!("`rope_parameters` has `rope_theta` {new}, but {found}");
                Err(self.error(message, "give the right `rope_theta` in `rope_scaling`, or remove `rope_scaling`"))
            }
            _ => Ok((theta, old.scaling)),
        }
    }

    /// Reads one of the objects; an empty one says nothing.
    fn spelled(&self, name: &str) -> Result<Option<Spelled>, ModelError> {
        let object = match self.get(name) {
            None => return Ok(None),
            Some(Value::Object(object)) if object.is_empty() => return Ok(None),
            Some(Value::Object(object)) => object,
            Some(other) => return Err(self.error(format!("`{name}` is {other}, expected an object"), "")),
        };
        let keys = Keys { object, file: self.file };
        if let Some(part) = keys.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0)) {
            return Err(self.error(format!("`{name}` has `partial_rotary_factor` {part}; only 1 is supported"), ""));
        }
        let kind = self.kind(name, &keys)?;
        let required = |key: &str| {
            keys.positive(key)?.ok_or_else(|| self.error(format!("`{name}` of type \"{kind}\" lacks `{key}`"), ""))
        };
        let (scaling, own): (_, &[&str]) = match kind {
            "default" => (RopeScaling::None, &[]),
            "linear" => (RopeScaling::Linear { factor: required("factor")? }, &["factor"]),
            "yarn" => (
                self.yarn(name, &keys, &required)?,
                &["factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"],
            ),
            "llama3" => (self.llama3(name, &keys, &required)?, &["factor", "low_freq_factor", "high_freq_factor"]),
            other => {
                return Err(self.error(
                    format!("`{name}` is of the unknown type \"{other}\""),
                    "known are default, linear, llama3 and yarn",
                ));
            }
        };
        let stray = object.iter().find(|(key, value)| {
            let neutral = value.is_null()
                || (["factor", "attention_factor"].contains(&key.as_str()) && value.as_f64() == Some(1.0));
            !neutral && !COMMON.contains(&key.as_str()) && !own.contains(&key.as_str())
        });
        if let Some((key, value)) = stray {
            let message = format!("`{name}` has `{key}` {value}, which means nothing in one of type \"{kind}\"");
            return Err(self.error(message, "name the `rope_type` that it belongs to, or remove it"));
        }
        Ok(Some(Spelled { theta: keys.positive("rope_theta")?, scaling }))
    }

    /// The kind of an object, which transformers spells `rope_type` and, before, `type`.
    fn kind<'k>(&self, name: &str, keys: &Keys<'k>) -> Result<&'k str, ModelError> {
        let kind = match (keys.get("rope_type"), keys.get("type")) {
            (Some(new), Some(old)) if new != old => {
                let message = format!("`{name}` has `rope_type` {new}, but `type` {old}");
                return Err(self.error(message, "remove the wrong one"));
            }
            (Some(kind), _) | (None, Some(kind)) => kind,
            (None, None) if keys.object.values().any(Value::is_object) => {
                return Err(self.error(format!("`{name}` differs between layers, which is not supported"), ""));
            }
            (None, None) => return Ok("default"),
        };
        kind.as_str().ok_or_else(|| self.error(format!("`{name}` has the type {kind}, which is no text"), ""))
    }

    fn llama3(
        &self,
        name: &str,
        keys: &Keys<'_>,
        required: &dyn Fn(&str) -> Result<f64, ModelError>,
    ) -> Result<RopeScaling, ModelError> {
        let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
        if low >= high {
            return Err(self.error(
                format!("`low_freq_factor` {low} is not below `high_freq_factor` {high}"),
                "the smooth blend between both needs a range",
            ));
        }
        Ok(RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_positions: self.original_length(name, keys, required)?,
        })
    }

    /// YaRN, with the defaults that transformers gives.
    fn yarn(
        &self,
        name: &str,
        keys: &Keys<'_>,
        required: &dyn Fn(&str) -> Result<f64, ModelError>,
    ) -> Result<RopeScaling, ModelError> {
        let factor = required("factor")?;
        let (fast, slow) = (keys.positive("beta_fast")?.unwrap_or(32.0), keys.positive("beta_slow")?.unwrap_or(1.0));
        if fast <= slow {
            return Err(self.error(format!("`beta_fast` {fast} is not above `beta_slow` {slow}"), ""));
        }
        // Equation 22 of the paper, and its form with two scales.
        let of = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let scales = (keys.positive("mscale")?, keys.positive("mscale_all_dim")?);
        let attention_factor = match (keys.positive("attention_factor")?, scales) {
            (Some(stated), _) => stated,
            (None, (Some(scale), Some(all))) => of(scale) / of(all),
            (None, _) => of(1.0),
        };
        Ok(RopeScaling::Yarn(Yarn {
            factor,
            beta_fast: fast,
            beta_slow: slow,
            original_max_positions: self.original_length(name, keys, required)?,
            attention_factor,
            truncate: keys.flag("truncate", true)?,
        }))
    }

    /// The length that a scaling stretches.
    fn original_length(
        &self,
        name: &str,
        keys: &Keys<'_>,
        required: &dyn Fn(&str) -> Result<f64, ModelError>,
    ) -> Result<usize, ModelError> {
        // Some files give this length beside the object, where transformers prefers it.
        let key = "original_max_position_embeddings";
        let original = match (self.positive(key)?, keys.positive(key)?) {
            (Some(outer), Some(inner)) if outer != inner => {
                let message = format!("`{key}` is {outer}, but `{name}` has `{key}` {inner}");
                return Err(self.error(message, "remove the wrong one"));
            }
            (Some(outer), _) => outer,
            (None, _) => required(key)?,
        };
        if original.fract() != 0.0 || original > MAX_SIZE as f64 {
            return Err(self.error(format!("`{key}` is {original}, not a length"), ""));
        }
        Ok(original as usize)
    }
}
