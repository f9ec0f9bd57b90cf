//! Layer selectors: globs on dotted module names, or regular expressions behind `re:`.

use globset::{GlobBuilder, GlobMatcher};
use regex::Regex;

use crate::{
    error::{Error, Result, did_you_mean},
    words::plural,
};

/// One compiled selector.
#[derive(Clone, Debug)]
pub enum Selector {
    /// A glob over the whole dotted name; `*` crosses dots.
    Glob(GlobMatcher),
    /// A regular expression that must match from the start of the name, as in the checkpoint format.
    Regex(Regex),
}

impl Selector {
    /// Compiles a selector. A malformed pattern is an error that shows it.
    pub fn new(pattern: &str) -> Result<Self> {
        let fail = |cause: String| Error::usage(format!("malformed selector `{pattern}`")).cause(cause).at(pattern);
        if let Some(expression) = pattern.strip_prefix("re:") {
            let anchored = format!("^(?:{expression})");
            return Regex::new(&anchored).map(Self::Regex).map_err(|e| fail(e.to_string()));
        }
        let glob = GlobBuilder::new(pattern).literal_separator(false).build().map_err(|e| fail(e.to_string()))?;
        Ok(Self::Glob(glob.compile_matcher()))
    }

    /// Whether a module name is selected.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Glob(glob) => glob.is_match(name),
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

/// The names that a list of selectors picks, in the order of `names`. A selector that matches nothing is an error that
/// says how many names there are and what a near miss would have matched.
pub fn select<'a>(patterns: &[String], names: &'a [String]) -> Result<Vec<&'a str>> {
    let mut selectors = Vec::new();
    for pattern in patterns {
        let selector = Selector::new(pattern)?;
        if !names.iter().any(|name| selector.matches(name)) {
            return Err(no_match(pattern, names));
        }
        selectors.push(selector);
    }
    Ok(names.iter().filter(|name| selectors.iter().any(|s| s.matches(name))).map(String::as_str).collect())
}

fn no_match(pattern: &str, names: &[String]) -> Error {
    let error = Error::usage(format!("no layer matches `{pattern}`")).at(pattern);
    let mut kinds: Vec<&str> = names.iter().filter_map(|n| n.rsplit('.').next()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let tail = pattern.rsplit(['.', '*', ':']).next().unwrap_or(pattern);
    if let Some(kind) = did_you_mean(tail, kinds.iter().copied()) {
        let count = names.iter().filter(|n| n.ends_with(kind)).count();
        return error.hint(format!("the model has {} matching `*.{kind}`", plural(count, "layer")));
    }
    error.hint(format!("the model has {}: {}", plural(names.len(), "layer"), kinds.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        (0..12).flat_map(|i| ["mlp.down_proj", "self_attn.q_proj"].map(|p| format!("model.layers.{i}.{p}"))).collect()
    }

    fn count(pattern: &str) -> usize {
        select(&[pattern.to_owned()], &names()).unwrap().len()
    }

    #[test]
    fn globs_and_expressions() {
        assert_eq!(count("*.down_proj"), 12);
        assert_eq!(count("model.layers.1.*"), 2, "the dot keeps 1 from meaning 10 and 11");
        assert_eq!(count("re:.*layers\\.1.*q_proj$"), 3);
        assert_eq!(count("*"), 24);
        assert_eq!(count("model.layers.{0,1}.mlp.*"), 2);
    }

    #[test]
    fn expressions_are_anchored_at_the_start() {
        assert!(select(&["re:layers".into()], &names()).is_err());
    }

    #[test]
    fn nothing_matched_is_an_error_with_a_count() {
        let error = select(&["*.donw_proj".into()], &names()).unwrap_err();
        assert_eq!(error.message, "no layer matches `*.donw_proj`");
        assert_eq!(error.hints, ["the model has 12 layers matching `*.down_proj`"]);
        let error = select(&["lm_head".into()], &names()).unwrap_err();
        assert_eq!(error.hints, ["the model has 24 layers: down_proj, q_proj"]);
        assert!(select(&["re:(".into()], &names()).is_err());
        assert!(select(&["a[".into()], &names()).is_err());
    }
}
