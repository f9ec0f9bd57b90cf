//! `lm_head` and the embeddings as targets: which selectors name them, and what a choice of schemes for them means.
//!
//! Most schemes mean the linears of the decoder blocks, so that embeddings and head are quantized only where they are named.

use workbench_model::arch::{EMBEDDINGS, LM_HEAD, ModuleName};
use workbench_quant::{Conventions, Scheme};

use super::selector::{Selector, select};
use crate::error::{Error, Result, did_you_mean};

/// The modules that hold weights outside of the decoder blocks.
pub const EMBEDDINGS_AND_HEAD: [&str; 2] = [LM_HEAD, EMBEDDINGS];

/// The modules that a list of targets picks: first of `linears`, those of the blocks, in their order, then embeddings and head. `Linear`
/// is every linear of the blocks, `Embedding` the embeddings. A pattern picks an end if it spells its name (`re:.*lm_head`), or
/// picks no linear of a block.
///
/// # Errors
/// A malformed pattern, or one that picks nothing.
pub fn select_targets<'a>(patterns: &[String], linears: &'a [String]) -> Result<Vec<&'a str>> {
    let mut blocks: Vec<&str> = Vec::new();
    let mut embeddings_and_head: Vec<&str> = Vec::new();
    for pattern in patterns {
        match pattern.as_str() {
            "Linear" => blocks.extend(linears.iter().map(String::as_str)),
            "Embedding" => embeddings_and_head.push(EMBEDDINGS),
            _ => {
                let selector = Selector::new(pattern)?;
                let picked: Vec<&str> = linears.iter().map(String::as_str).filter(|n| selector.matches(n)).collect();
                let named = |end: &&str| picked.is_empty() || pattern.contains(end.rsplit('.').next().unwrap_or(end));
                let before = embeddings_and_head.len();
                embeddings_and_head
                    .extend(EMBEDDINGS_AND_HEAD.into_iter().filter(|end| selector.matches(end)).filter(named));
                if picked.is_empty() && embeddings_and_head.len() == before {
                    // The error with what a near miss would have picked.
                    select(std::slice::from_ref(pattern), linears).map_err(|error| hint_at_ends(error, pattern))?;
                }
                blocks.extend(picked);
            }
        }
    }
    let blocks = linears.iter().map(String::as_str).filter(|name| blocks.contains(name));
    Ok(blocks.chain(EMBEDDINGS_AND_HEAD.into_iter().filter(|end| embeddings_and_head.contains(end))).collect())
}

/// Puts the ends in the place of the hint, where a pattern is nearer to one of their names than to that of a layer.
fn hint_at_ends(error: Error, pattern: &str) -> Error {
    let near = |name: &&str| did_you_mean(pattern.trim_start_matches("*."), [*name]).is_some();
    let table = ModuleName::Embeddings.spelled();
    let names = [LM_HEAD, EMBEDDINGS, table, "Embedding", "Linear"];
    match names.into_iter().find(near) {
        Some(name) if name == table => Error { hints: vec![format!("did you mean `{EMBEDDINGS}`?")], ..error },
        Some(name) => Error { hints: vec![format!("did you mean `{name}`?")], ..error },
        None => error,
    }
}

/// What an end is quantized by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked<'a> {
    pub scheme: &'a Scheme,
    pub conventions: Conventions,
}

/// Embeddings and head, and what is asked for them.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingsAndHead<'a> {
    pub head: Option<Asked<'a>>,
    pub embeddings: Option<Asked<'a>>,
    /// Whether both are one tensor.
    pub tied: bool,
    /// Whether the head shall get a weight of its own.
    pub untie: bool,
}

/// What is wrong with a choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub message: String,
    pub hint: String,
    /// The module that should not have been named like this.
    pub module: &'static str,
}

impl EmbeddingsAndHead<'_> {
    /// Whether head and embeddings stay one tensor and both are quantized: they have the same codes.
    pub fn is_shared(&self) -> bool {
        self.tied && !self.untie && self.head.is_some() && self.embeddings.is_some()
    }

    /// Whether the result has a head of its own although the model has none. No layout of compressed-tensors that a loader
    /// takes stores one quantized tensor for both.
    pub fn unties(&self) -> bool {
        self.tied && (self.untie || self.is_shared())
    }

    /// # Errors
    /// Embeddings with quantized inputs; one tensor that is asked to be two different ones.
    pub fn check(&self) -> Result<(), Problem> {
        if self.embeddings.is_some_and(|asked| asked.scheme.input_activations.is_some()) {
            return Err(Problem {
                message: format!(
                    "`{EMBEDDINGS}` is given token ids, of which nothing can be rounded, but its scheme has `input_activations`"
                ),
                hint: format!(
                    "give the embeddings a scheme for weights alone: config_groups: #{{ W8A16: [\"{EMBEDDINGS}\"] }}"
                ),
                module: EMBEDDINGS,
            });
        }
        if !self.tied || self.untie {
            return Ok(());
        }
        let (what, module) = match (&self.head, &self.embeddings) {
            (None, None) => return Ok(()),
            (Some(_), None) => (format!("only `{LM_HEAD}` is a target"), LM_HEAD),
            (None, Some(_)) => (format!("only `{EMBEDDINGS}` is a target"), EMBEDDINGS),
            (Some(a), Some(b)) if a.scheme.weights == b.scheme.weights && a.conventions == b.conventions => {
                return Ok(());
            }
            (Some(_), Some(_)) => ("their weights have different schemes".to_owned(), LM_HEAD),
        };
        Err(Problem {
            message: format!(
                "`{LM_HEAD}` and `{EMBEDDINGS}` are one tensor of this model (`tie_word_embeddings`), and {what}"
            ),
            hint: "name both with the same scheme for weights, or give lm_head a weight of its own: \
                   untie_word_embeddings: true"
                .into(),
            module,
        })
    }

    /// What a reader of the result has to know. `by_block` says that the method takes blocks as a whole.
    pub fn remarks(&self, method: &str, by_block: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let nearest = method == "rtn";
        if self.is_shared() {
            lines.push("lm_head and the embeddings have the same codes, stored once for each: transformers opens no folder with one \
                 quantized tensor for both".to_owned());
            if !nearest {
                lines.push(format!(
                    "lm_head and the embeddings, one tensor, are rounded to nearest and not by `{method}`: \
                     untie_word_embeddings gives `{method}` a head of its own"
                ));
            }
        } else if !nearest {
            if self.embeddings.is_some() {
                lines.push(format!(
                    "the embeddings are rounded to nearest: they have no inputs for `{method}` to look at"
                ));
            }
            if by_block && self.head.is_some() {
                lines.push(format!("lm_head is rounded to nearest: `{method}` takes the linears of whole blocks"));
            }
        }
        let packed = |asked: &Asked<'_>| asked.scheme.weights.as_ref().is_some_and(|weights| weights.num_bits != 8);
        if self.embeddings.as_ref().is_some_and(packed) {
            lines.push("the codes of the embeddings are packed: transformers (as of 5.17) fails to open such a folder, and opens \
                 embeddings of 8 bits".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn linears() -> Vec<String> {
        ["mlp.down_proj", "self_attn.q_proj"].map(|name| format!("model.layers.0.{name}")).to_vec()
    }

    fn picked(patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        select_targets(&patterns, &linears()).unwrap().into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn ends_are_picked_where_they_are_named() {
        assert_eq!(picked(&["Linear"]), linears());
        assert_eq!(picked(&["*"]), linears());
        assert_eq!(picked(&["re:.*"]), linears());
        assert_eq!(picked(&["model.*"]), linears());
        assert_eq!(picked(&["lm_head"]), ["lm_head"]);
        assert_eq!(picked(&["*head"]), ["lm_head"]);
        assert_eq!(picked(&["Embedding"]), ["model.embed_tokens"]);
        assert_eq!(picked(&["re:.*embed_tokens$"]), ["model.embed_tokens"]);
        assert_eq!(picked(&["re:(.*q_proj|lm_head)"]), [&linears()[1], "lm_head"]);
        assert_eq!(picked(&["model.embed_tokens", "lm_head", "Linear"]).len(), 4);
        let error = select_targets(&["*.q_prj".to_owned()], &linears()).unwrap_err();
        assert_eq!(error.hints, ["the model has 1 layer matching `*.q_proj`"]);
        for (wrong, right) in [
            ("lm_haed", "lm_head"),
            ("Embeddings", "Embedding"),
            ("embed_token", "model.embed_tokens"),
            ("model.embed_token", "model.embed_tokens"),
            ("Linears", "Linear"),
        ] {
            let error = select_targets(&[wrong.to_owned()], &linears()).unwrap_err();
            assert_eq!(error.hints, [format!("did you mean `{right}`?")], "{wrong}");
        }
    }

    fn scheme(value: serde_json::Value) -> Scheme {
        Scheme::from_value(&value).unwrap()
    }

    #[test]
    fn one_tensor_has_one_scheme_for_weights() {
        let (w8, w4) = (scheme(json!("W8A16")), scheme(json!("W4A16")));
        let int8 = scheme(
            json!({"weights": w8.weights, "input_activations": {"num_bits": 8, "strategy": "token", "dynamic": true}}),
        );
        let asked = |scheme| Some(Asked { scheme, conventions: Conventions::default() });
        let embeddings_and_head = |head, embeddings, tied, untie| EmbeddingsAndHead { head, embeddings, tied, untie };
        assert!(embeddings_and_head(asked(&w8), asked(&w8), true, false).check().is_ok());
        assert!(
            embeddings_and_head(asked(&int8), asked(&w8), true, false).check().is_ok(),
            "the head may have quantized inputs"
        );
        assert!(embeddings_and_head(asked(&w8), None, false, false).check().is_ok());
        assert!(embeddings_and_head(asked(&w8), None, true, true).check().is_ok());
        assert!(embeddings_and_head(None, None, true, false).check().is_ok());
        let problem = |embeddings_and_head: EmbeddingsAndHead<'_>| embeddings_and_head.check().unwrap_err().message;
        assert!(problem(embeddings_and_head(asked(&w8), None, true, false)).ends_with("only `lm_head` is a target"));
        assert!(
            problem(embeddings_and_head(None, asked(&w8), true, false))
                .ends_with("only `model.embed_tokens` is a target")
        );
        assert!(problem(embeddings_and_head(asked(&w4), asked(&w8), true, false)).ends_with("different schemes"));
        assert!(problem(embeddings_and_head(None, asked(&int8), false, false)).contains("is given token ids"));
        let other = Some(Asked {
            scheme: &w8,
            conventions: Conventions { range: workbench_quant::RangeConvention::Restricted, ..Conventions::default() },
        });
        assert!(problem(embeddings_and_head(other, asked(&w8), true, false)).ends_with("different schemes"));
    }

    #[test]
    fn what_is_rounded_to_nearest_is_said() {
        let (w8, w4) = (scheme(json!("W8A16")), scheme(json!("W4A16")));
        let asked = |scheme| Some(Asked { scheme, conventions: Conventions::default() });
        let embeddings_and_head =
            EmbeddingsAndHead { head: asked(&w8), embeddings: asked(&w8), tied: false, untie: false };
        assert!(embeddings_and_head.remarks("rtn", false).is_empty());
        assert_eq!(embeddings_and_head.remarks("gptq", false).len(), 1);
        assert_eq!(embeddings_and_head.remarks("gptq", true).len(), 2);
        let tied = EmbeddingsAndHead { tied: true, ..embeddings_and_head };
        assert_eq!((tied.remarks("rtn", false).len(), tied.remarks("gptq", false).len()), (1, 2));
        let packed = EmbeddingsAndHead { embeddings: asked(&w4), ..embeddings_and_head };
        assert!(packed.remarks("rtn", false)[0].contains("packed"));
        assert!(
            EmbeddingsAndHead { head: asked(&w4), ..embeddings_and_head }.remarks("rtn", false).is_empty(),
            "a packed head is opened"
        );
    }
}
