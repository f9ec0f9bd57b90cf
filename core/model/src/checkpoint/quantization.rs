//! `quantization_config` of compressed-tensors folders: which linear is quantized how.

use std::cmp::Reverse;
use std::path::Path;

use regex::Regex;
use serde_json::Value;
use workbench_quant::{Format, QuantizationArgs, Scheme, kv_cache_args};

use crate::arch::EMBEDDINGS;
use crate::{ModelConfig, ModelError};

/// The layouts that are read and written.
pub(crate) const SUPPORTED: &str = "pack-quantized, int-quantized, float-quantized, nvfp4-pack-quantized, \
     mxfp4-pack-quantized, mxfp8-quantized and naive-quantized";

/// The quantization of a checkpoint: schemes and the modules they apply to.
pub struct QuantizationConfig {
    groups: Vec<Group>,
    ignore: Vec<Target>,
    kv_cache: Option<QuantizationArgs>,
    json: Value,
}

/// Whether a configuration says that the experts are MXFP4 codes as OpenAI published gpt-oss: `quant_method` `mxfp4`.
pub(crate) fn has_coded_experts(config: &ModelConfig, config_json: &Value) -> bool {
    let stacked = config.experts.is_some() && config.architecture.family().stacking.is_some();
    stacked && config_json["quantization_config"]["quant_method"] == "mxfp4"
}

/// One scheme with its targets.
struct Group {
    targets: Vec<Target>,
    scheme: Scheme,
    format: Format,
}

/// A selector as compressed-tensors writes them.
pub(super) enum Target {
    /// A pattern that has to match from the start of the module's name.
    Pattern(Regex),
    /// The name of a module or of its class.
    Name(String),
}

/// How well a target fits a module; the best one decides between groups.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    Class,
    Pattern,
    Name,
}

impl QuantizationConfig {
    /// Reads it out of a `config.json`; `None` for a dense model.
    ///
    /// # Errors
    /// Another quantization method, or something that would change the function and is not supported: sparsity,
    /// quantized outputs. Online transforms are read with the model's configuration.
    pub(crate) fn from_config(config: &Value, file: &Path) -> Result<Option<Self>, ModelError> {
        let spelled = ["quantization_config", "compression_config"].into_iter().filter_map(|key| config.get(key));
        let Some(json) = spelled.into_iter().find(|value| !value.is_null()) else { return Ok(None) };
        let error = |message: String, hint: &str| ModelError::config(file, message, hint);
        if json["quant_method"] != "compressed-tensors" {
            let message = format!("the weights are quantized by the unsupported method {}", json["quant_method"]);
            return Err(error(message, "supported is compressed-tensors"));
        }
        refuse_unsupported(json, file)?;
        let outer = match &json["format"] {
            Value::Null => None,
            name => Some(format_named(name, file)?),
        };
        // A dense model with online transforms has no other place to name them.
        let transformed =
            json["transform_config"]["config_groups"].as_object().is_some_and(|groups| !groups.is_empty());
        let groups = json.get("config_groups").filter(|groups| **groups != serde_json::json!({}));
        if transformed && groups.is_none() && json["kv_cache_scheme"].is_null() {
            return Ok(None);
        }
        let Some(groups) = json["config_groups"].as_object() else {
            return Err(error("`quantization_config` has no `config_groups`".into(), ""));
        };
        let groups = groups.iter().map(|(name, group)| Group::read(name, group, outer, file));
        let ignore = json["ignore"].as_array().into_iter().flatten();
        let ignore = ignore.map(|target| Target::read(target, file)).collect::<Result<_, _>>()?;
        let kv_cache = match &json["kv_cache_scheme"] {
            Value::Null => None,
            value => Some(kv_cache_args(value).map_err(|cause| {
                let hint = cause.hint.clone().unwrap_or_default();
                error(format!("`quantization_config` has a KV cache that cannot be read: {cause}"), &hint)
            })?),
        };
        Ok(Some(Self { groups: groups.collect::<Result<_, _>>()?, ignore, kv_cache, json: json.clone() }))
    }

    /// The object as it stands in `config.json`.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// How keys and values are quantized, if they are.
    pub fn kv_cache(&self) -> Option<&QuantizationArgs> {
        self.kv_cache.as_ref()
    }

    /// The scheme and layout of a linear or of the embeddings, by the module's name; `None` where it is not quantized.
    pub fn scheme(&self, module: &str) -> Option<(&Scheme, Format)> {
        if self.ignore.iter().any(|target| target.fit(module).is_some()) {
            return None;
        }
        // As compressed-tensors sorts them (`match_targets`): of equally good targets the one that comes first in the alphabet, whichever
        // group it stands in, and of the same target in two groups the last.
        let targets = self.groups.iter().flat_map(|group| group.targets.iter().map(move |target| (target, group)));
        let fitting =
            targets.filter_map(|(target, group)| Some(((target.fit(module)?, Reverse(target.text())), group)));
        fitting.max_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, group)| (&group.scheme, group.format))
    }
}

impl Group {
    fn read(name: &str, group: &Value, outer: Option<Format>, file: &Path) -> Result<Self, ModelError> {
        let scheme: Scheme = serde_json::from_value(group.clone())
            .map_err(|cause| ModelError::config(file, format!("`config_groups.{name}`: {cause}"), ""))?;
        if scheme.output_activations.is_some() {
            let message = format!("`config_groups.{name}` quantizes outputs, which is not supported");
            return Err(ModelError::config(file, message, ""));
        }
        let inherited = outer.filter(|format| *format != Format::MixedPrecision);
        let format = scheme.format.or(inherited).unwrap_or_else(|| scheme.inferred_format());
        let targets = group["targets"].as_array().into_iter().flatten();
        let targets = targets.map(|target| Target::read(target, file)).collect::<Result<_, _>>()?;
        Ok(Self { targets, scheme, format })
    }
}

impl Target {
    pub(super) fn read(value: &Value, file: &Path) -> Result<Self, ModelError> {
        let Some(text) = value.as_str() else {
            return Err(ModelError::config(
                file,
                format!("`quantization_config` has the target {value}, not a text"),
                "",
            ));
        };
        match text.strip_prefix("re:") {
            None => Ok(Self::Name(text.into())),
            Some(pattern) => Regex::new(&format!("^(?:{pattern})")).map(Self::Pattern).map_err(|cause| {
                let message = format!("`quantization_config` has the target `{text}`, which is no pattern: {cause}");
                ModelError::config(file, message, "")
            }),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Pattern(pattern) => pattern.as_str(),
        }
    }

    pub(super) fn fit(&self, module: &str) -> Option<Fit> {
        let class = if module == EMBEDDINGS { "Embedding" } else { "Linear" };
        match self {
            Self::Name(name) if name == module => Some(Fit::Name),
            Self::Pattern(pattern) if pattern.is_match(module) => Some(Fit::Pattern),
            Self::Name(name) if name == class => Some(Fit::Class),
            Self::Name(_) | Self::Pattern(_) => None,
        }
    }
}

fn format_named(name: &Value, file: &Path) -> Result<Format, ModelError> {
    serde_json::from_value(name.clone()).map_err(|_| {
        ModelError::config(
            file,
            format!("the quantized weights have the unknown layout {name}"),
            format!("supported are {SUPPORTED}"),
        )
    })
}

/// Settings under which the stored weights alone do not give the function.
fn refuse_unsupported(json: &Value, file: &Path) -> Result<(), ModelError> {
    let is_set = |key: &str| match &json[key] {
        Value::Null => false,
        Value::Object(entries) => !entries.is_empty(),
        _ => true,
    };
    let sparse = is_set("sparsity_config") && json["sparsity_config"]["format"] != "dense";
    if sparse {
        let message = "`quantization_config` asks for `sparsity_config`: sparse weights, which are not supported";
        return Err(ModelError::config(file, message, ""));
    }
    match &json["quantization_status"] {
        Value::Null => Ok(()),
        status if status == "compressed" => Ok(()),
        status => {
            let message = format!("`quantization_status` is {status}: the weights are not stored as codes");
            Err(ModelError::config(file, message, "save the model compressed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn transforms_alone_quantize_nothing_but_a_cache_beside_them_counts() {
        let read = |cache: Value| {
            let config = json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "dense",
                "quantization_status": "compressed", "config_groups": {}, "ignore": [], "kv_cache_scheme": cache,
                "transform_config": {"config_groups": {"R3": {}}}}});
            QuantizationConfig::from_config(&config, Path::new("config.json")).unwrap()
        };
        assert!(read(Value::Null).is_none());
        assert_eq!(read(json!({"num_bits": 4})).unwrap().kv_cache().unwrap().num_bits, 4);
    }
}
