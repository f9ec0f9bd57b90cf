//! Reading `#{ … }` options: typed, with defaults, and with an error for every key that nobody asked for.

use rhai::{Dynamic, Map};
use serde_json::Value;

use crate::error::{Error, Result, did_you_mean};

/// The options of one call. Keys are taken out as they are read; [`finish`](Self::finish) complains about the rest.
#[derive(Debug)]
pub(super) struct Options {
    call: &'static str,
    map: Map,
    known: Vec<&'static str>,
}

impl Options {
    pub(super) fn new(call: &'static str, map: Map) -> Self {
        Self { call, map, known: Vec::new() }
    }

    /// The raw value of a key.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Dynamic> {
        self.known.push(key);
        self.map.remove(key)
    }

    /// Whether a key was given and is not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn wrong(&self, key: &str, value: &Dynamic, wanted: &str) -> Error {
        Error::usage(format!("`{key}` of {} must be {wanted}, not {value}", self.call)).at(key)
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.clone().into_string().map(Some).map_err(|_| self.wrong(key, &value, "text"))
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Result<bool> {
        let Some(value) = self.take(key) else { return Ok(default) };
        value.as_bool().map_err(|_| self.wrong(key, &value, "true or false"))
    }

    /// A whole number of at least `least`; `4.0` counts as one.
    pub(super) fn count(&mut self, key: &'static str, least: u64) -> Result<Option<u64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number =
            value.as_int().ok().or_else(|| value.as_float().ok().filter(|f| f.fract() == 0.0).map(|f| f as i64));
        match number.and_then(|n| u64::try_from(n).ok()).filter(|n| *n >= least) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, &value, &format!("a whole number of at least {least}"))),
        }
    }

    /// One of a few words.
    pub(super) fn word(
        &mut self,
        key: &'static str,
        words: &[&'static str],
        default: &'static str,
    ) -> Result<&'static str> {
        let Some(text) = self.text(key)? else { return Ok(default) };
        words.iter().find(|w| **w == text).copied().ok_or_else(|| {
            let error =
                Error::usage(format!("`{key}` of {} must be one of {}, not `{text}`", self.call, words.join(", ")))
                    .at(&text);
            error.maybe_hint(did_you_mean(&text, words.iter().copied()).map(|w| format!("did you mean `{w}`?")))
        })
    }

    /// `auto`, true or false.
    pub(super) fn toggle(&mut self, key: &'static str) -> Result<Value> {
        let Some(value) = self.take(key) else { return Ok("auto".into()) };
        match (value.as_bool(), value.clone().into_string().as_deref()) {
            (Ok(flag), _) => Ok(flag.into()),
            // A script's parameter whose default is "auto" arrives as text.
            (_, Ok("true")) => Ok(true.into()),
            (_, Ok("false")) => Ok(false.into()),
            (_, Ok("auto")) => Ok("auto".into()),
            _ => Err(self.wrong(key, &value, "\"auto\", true or false")),
        }
    }

    /// A list of texts; a single text counts as a list of one.
    pub(super) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        if let Ok(text) = value.clone().into_string() {
            return Ok(Some(vec![text]));
        }
        let wrong = self.wrong(key, &value, "a list of texts");
        let Ok(items) = value.into_array() else { return Err(wrong) };
        items.into_iter().map(|item| item.into_string().map_err(|_| wrong.clone())).collect::<Result<_>>().map(Some)
    }

    /// A handle of one of our types.
    pub(super) fn handle<T: Clone + Send + Sync + 'static>(
        &mut self,
        key: &'static str,
        wanted: &str,
    ) -> Result<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let shown = Dynamic::from(value.type_name().to_owned());
        value.try_cast::<T>().map(Some).ok_or_else(|| self.wrong(key, &shown, wanted))
    }

    /// The names that were asked for.
    pub(super) fn known(&self) -> &[&'static str] {
        &self.known
    }

    /// Everything that was not read, as JSON: the parameters of a plugin.
    pub(super) fn rest(self) -> Result<Value> {
        to_json(&Dynamic::from(self.map))
    }

    /// An error for the first key that nobody asked for.
    pub(super) fn finish(self) -> Result<()> {
        let Some(key) = self.map.keys().next() else { return Ok(()) };
        let error = Error::usage(format!("{} has no option `{key}`", self.call)).at(key.as_str());
        Err(match did_you_mean(key, self.known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("it has {}", self.known.join(", "))),
        })
    }
}

/// How deep lists and maps may lie in one another.
const DEEPEST: usize = 64;

/// A script's value as JSON. Handles of ours are no data, and neither are numbers that are not finite.
pub(super) fn to_json(value: &Dynamic) -> Result<Value> {
    if nests_deeper(value, DEEPEST) {
        return Err(Error::usage(format!("a value holds lists or maps in more than {DEEPEST} levels")));
    }
    if value.as_float().is_ok_and(|f| !f.is_finite()) {
        return Err(Error::usage("a parameter is not a finite number"));
    }
    rhai::serde::from_dynamic::<Value>(value)
        .map_err(|_| Error::usage(format!("a {} cannot be a parameter", value.type_name())))
}

fn nests_deeper(value: &Dynamic, levels: usize) -> bool {
    let deeper = |inner: &Dynamic| levels == 0 || nests_deeper(inner, levels - 1);
    if let Ok(items) = value.as_array_ref() {
        return items.iter().any(deeper);
    }
    value.as_map_ref().is_ok_and(|map| map.values().any(deeper))
}
