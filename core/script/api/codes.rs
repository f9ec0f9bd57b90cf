//! Models whose weights are codes: what can be done to them, and what they are after it.

use workbench_model::arch::{EMBEDDINGS, LM_HEAD};

use super::{
    model::accepted,
    training::{refuse_static, scheme_words},
};
use crate::{
    error::{Error, Result},
    graph::{NodeKind, coded::Schemes, params::Params},
    plugin::{Descriptor, Kind, Registry, StartsFrom},
    script::{ModelHandle, Signature, options::Options},
    words::plural,
};

/// Refuses codes to who takes numbers, and numbers to a trainer of codes.
pub(super) fn check(kind: NodeKind, model: &ModelHandle, plugin: &Descriptor, registry: &Registry) -> Result<()> {
    let (name, method) = (&model.signature.name, plugin.name.as_str());
    let takes = plugin.kind == Kind::Trainer && plugin.starts_from.takes_codes();
    if model.signature.quantized && !takes {
        let error = Error::usage(format!("cannot {kind} `{name}`: its weights are codes already"));
        let start = "start from the model before its quantization";
        let others: Vec<String> = registry
            .plugins()
            .map(|info| &info.descriptor)
            .filter(|other| other.kind == Kind::Trainer && other.starts_from.takes_codes())
            .map(|other| format!("`{}`", other.name))
            .collect();
        return Err(match kind == NodeKind::Train && !others.is_empty() {
            true => error.hint(format!("{start}; codes are trained by {}", others.join(", "))),
            false => error.hint(start),
        });
    }
    if !model.signature.quantized && plugin.kind == Kind::Trainer && plugin.starts_from == StartsFrom::Codes {
        let hint = match model.signature.weights {
            true => format!("quantize it first: .quantize(method, #{{ scheme: … }}).train(\"{method}\", …)"),
            false => "train it first, by a trainer of plain weights, and quantize it".to_owned(),
        };
        let message = format!("`{method}` trains codes, and the weights of `{name}` are none");
        return Err(Error::usage(message).at(method).hint(hint));
    }
    Ok(())
}

/// Checks the options of a training of a model of codes, and what it is trained on; a few words for the plan.
pub(super) fn train(model: &ModelHandle, plugin: &Descriptor, dtype: bool, options: &Options) -> Result<String> {
    let (signature, method) = (&*model.signature, plugin.name.as_str());
    let (name, Schemes { groups, kv_cache }) = (&signature.name, &signature.schemes);
    if let Some(word) = scheme_words(plugin, options) {
        return Err(Error::usage(format!(
            "the weights of `{name}` are codes already, and their grids are those of the model"
        ))
        .at(word)
        .hint("leave the option out, or start from the model before its quantization"));
    }
    if dtype {
        return Err(Error::usage(format!("the weights of `{name}` are codes, whose scales keep their dtype"))
            .at("dtype")
            .hint("leave the option out: the result is stored as the model is"));
    }
    let modules = || groups.iter().flat_map(|group| &group.modules);
    if let Some(module) = modules().find(|module| [LM_HEAD, EMBEDDINGS].contains(&module.as_str())) {
        return Err(Error::usage(format!(
            "`{method}` trains codes of the linears of decoder blocks, and those of `{name}` include `{module}`"
        ))
        .at(method)
        .hint("quantize the model without it among the targets"));
    }
    if modules().next().is_none() {
        return Err(Error::usage(format!("only keys and values of `{name}` are quantized: its weights are no codes"))
            .at(method)
            .hint("quantize its weights too, or start from the model before its quantization"));
    }
    refuse_static(method, groups, kv_cache.as_ref(), "the model").map_err(|error| error.at(method))?;
    accepted(plugin, groups).map_err(|error| error.at(method))?;
    Ok(format!("{} of {}", modules().count(), plural(signature.linears.len(), "layer")))
}

/// Notes in the signature of a model that a node makes whether it has codes, on which grids, and whether it rounds activations while it
/// runs.
pub(super) fn made(signature: &mut Signature, params: &Params) {
    let (groups, kv_cache, quantized) = match params {
        // It stays what it was.
        Params::Train(params) if params.codes => return,
        Params::Quantize(params) => (&params.groups, &params.kv_cache, true),
        Params::Train(params) => (&params.groups, &params.kv_cache, params.quantizes()),
        Params::Transform(_) | Params::Evaluate(_) | Params::Generate(_) => {
            (signature.quantized, signature.rounds_activations) = (false, false);
            return;
        }
    };
    let inputs = groups.iter().any(|group| group.scheme.args.input_activations.is_some());
    (signature.quantized, signature.rounds_activations) = (quantized, inputs || kv_cache.is_some());
    signature.schemes = Schemes { groups: groups.clone(), kv_cache: kv_cache.clone() };
}
