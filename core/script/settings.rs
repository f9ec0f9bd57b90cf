//! Values given with `--set`, typed by the defaults that the script states.

use std::collections::{BTreeMap, BTreeSet};

use rhai::Dynamic;

use crate::error::{Error, Result, did_you_mean};

/// `--set key=value` pairs and which of them the script has asked for.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    given: BTreeMap<String, String>,
    asked: BTreeSet<String>,
}

impl Settings {
    /// Reads `key=value` arguments.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let mut given = BTreeMap::new();
        for argument in arguments {
            let Some((key, value)) = argument.split_once('=') else {
                return Err(Error::usage(format!("`--set {argument}` is not of the form key=value")));
            };
            if given.insert(key.trim().to_owned(), value.to_owned()).is_some() {
                return Err(Error::usage(format!("`{}` is set twice", key.trim())));
            }
        }
        Ok(Self { given, asked: BTreeSet::new() })
    }

    pub(crate) fn is_unset(&self) -> bool {
        self.given.is_empty() && self.asked.is_empty()
    }

    /// The pairs as given.
    pub fn pairs(&self) -> Vec<(String, String)> {
        self.given.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// The values as given.
    pub fn values(&self) -> Vec<String> {
        self.given.values().cloned().collect()
    }

    /// The value of a parameter: what was set, read as the type of the default, or the default.
    pub(crate) fn value(&mut self, name: &str, default: &Dynamic) -> Result<Dynamic> {
        self.asked.insert(name.to_owned());
        let Some(text) = self.given.get(name) else { return Ok(default.clone()) };
        typed(text, default).ok_or_else(|| {
            Error::usage(format!("`--set {name}={text}` is not of the type of its default, {}", type_word(default)))
                .hint(format!("the script's default is {default}"))
        })
    }

    /// An error for the first value that no script asked for.
    pub fn check_used(&self) -> Result<()> {
        let Some(unused) = self.given.keys().find(|k| !self.asked.contains(*k)) else { return Ok(()) };
        let error = Error::usage(format!("the script has no parameter `{unused}`"));
        let known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
        Err(match did_you_mean(unused, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => error.hint("it has none at all"),
            None => error.hint(format!("it has {}", known.join(", "))),
        })
    }
}

fn type_word(value: &Dynamic) -> &'static str {
    match value.type_name() {
        "i64" => "an integer",
        "f64" => "a number",
        "bool" => "true or false",
        "array" => "a list such as [1, 2]",
        _ => "text",
    }
}

fn typed(text: &str, default: &Dynamic) -> Option<Dynamic> {
    let text = text.trim();
    match default.type_name() {
        "i64" => text.parse::<i64>().ok().map(Dynamic::from),
        "f64" => text.parse::<f64>().ok().filter(|v| v.is_finite()).map(Dynamic::from),
        "bool" => text.parse::<bool>().ok().map(Dynamic::from),
        "array" => {
            let value: toml::Value = toml::from_str::<toml::Table>(&format!("v = {text}")).ok()?.remove("v")?;
            value.is_array().then(|| rhai::serde::to_dynamic(value).ok()).flatten()
        }
        "string" => Some(Dynamic::from(text.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> Settings {
        Settings::parse(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn values_take_the_type_of_their_default() {
        let mut s = settings(&["bits=4", "rate=2", "flag=true", "list=[1, 2]", "name=a=b"]);
        assert_eq!(s.value("bits", &Dynamic::from(8_i64)).unwrap().as_int().unwrap(), 4);
        assert_eq!(s.value("rate", &Dynamic::from(0.5_f64)).unwrap().as_float().unwrap(), 2.0);
        assert!(s.value("flag", &Dynamic::from(false)).unwrap().as_bool().unwrap());
        assert_eq!(s.value("list", &Dynamic::from(rhai::Array::new())).unwrap().into_array().unwrap().len(), 2);
        assert_eq!(s.value("name", &Dynamic::from("x")).unwrap().into_string().unwrap(), "a=b");
        assert_eq!(s.value("other", &Dynamic::from(3_i64)).unwrap().as_int().unwrap(), 3);
        s.check_used().unwrap();
    }

    #[test]
    fn wrong_types_and_unused_keys_are_errors() {
        let mut s = settings(&["bits=four", "modle=x"]);
        assert!(s.value("bits", &Dynamic::from(8_i64)).is_err());
        assert_eq!(s.value("model", &Dynamic::from("demo")).unwrap().into_string().unwrap(), "demo");
        assert_eq!(s.check_used().unwrap_err().hints, ["did you mean `model`?"]);
        assert!(Settings::parse(&["x".into()]).is_err());
        assert!(Settings::parse(&["x=1".into(), "x=2".into()]).is_err());
    }
}
