//! Reading `#{ … }` options as the type that defines them, with an error for every key that nobody asked for.

use std::collections::BTreeMap;

use rhai::{Dynamic, Map};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    DatasetHandle, ModelHandle, RewardHandle, TaskHandle,
    api::reward_of,
    calls::{Dataset, Model, Reward},
};
use crate::{
    error::{Error, Result, did_you_mean},
    schema::{self, DATASET, MODEL, Owner, REWARD},
};

/// Options as JSON, in which a dataset is marked.
pub(super) type Given = serde_json::Map<String, Value>;

/// The models among the options of a call, by key: what a script made of a model is no JSON, which holds a mark in its place.
pub(super) type Models = BTreeMap<String, ModelHandle>;

/// The options of one call. Keys are taken out as they are read; [`finish`](Self::finish) complains about the rest.
#[derive(Debug)]
pub(super) struct Options {
    call: &'static str,
    given: Given,
    known: Vec<String>,
}

impl Options {
    pub(super) fn new(call: &'static str, given: Given) -> Self {
        Self { call, given, known: Vec::new() }
    }

    /// All options of a call as their type.
    ///
    /// # Errors
    /// A key that the type does not have, a value of another type or out of its range.
    pub(super) fn read<T: JsonSchema + DeserializeOwned>(call: &'static str, given: Given) -> Result<T> {
        Self::read_noting(call, given).map(|(options, _)| options)
    }

    /// The same, and which of them were given by another name.
    ///
    /// # Errors
    /// As for [`read`](Self::read); an option that was given by two of its names.
    pub(super) fn read_noting<T: JsonSchema + DeserializeOwned>(
        call: &'static str,
        given: Given,
    ) -> Result<(T, Vec<String>)> {
        let (valid, notes) =
            schema::check_noting(&schema::of::<T>(), &Value::Null, &Value::Object(given), Owner::Call(call))?;
        // What the schema lets pass, the type may still refuse.
        let options = serde_json::from_value(valid)
            .map_err(|e| Error::usage(format!("the options of {call} are not understood")).cause(e.to_string()))?;
        Ok((options, notes))
    }

    /// Takes the options of a type out, where other types share the call.
    pub(super) fn take<T: JsonSchema + DeserializeOwned>(&mut self) -> Result<T> {
        let names = schema::names(&schema::of::<T>());
        let own = names.iter().filter_map(|name| Some((name.clone(), self.given.shift_remove(name)?))).collect();
        self.known.extend(names);
        Self::read(self.call, own)
    }

    /// The call, as messages name it.
    pub(super) fn call(&self) -> &'static str {
        self.call
    }

    /// Whether a key was given and is not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// The names that were asked for.
    pub(super) fn known(&self) -> Vec<&str> {
        self.known.iter().map(String::as_str).collect()
    }

    /// Everything that was not taken: the parameters of a plugin.
    pub(super) fn rest(self) -> Result<Value> {
        for (mark, what) in [(DATASET, "dataset"), (MODEL, "model"), (REWARD, "task or reward")] {
            let is_one =
                |value: &Value| value.get(mark).is_some() || value.get(0).is_some_and(|v| v.get(mark).is_some());
            if let Some((key, _)) = self.given.iter().find(|(_, value)| is_one(value)) {
                let near = did_you_mean(key, self.known()).map(|near| format!("did you mean `{near}`?"));
                let error = Error::usage(format!("`{key}` of {} cannot be a {what}", self.call));
                return Err(error.at(key.as_str()).maybe_hint(near));
            }
        }
        Ok(Value::Object(self.given))
    }

    /// An error for the first key that nobody asked for.
    pub(super) fn finish(self) -> Result<()> {
        let Some(key) = self.given.keys().next() else { return Ok(()) };
        let error = Error::usage(format!("{} has no option `{key}`", self.call)).at(key.as_str());
        Err(match did_you_mean(key, self.known()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("it has {}", self.known.join(", "))),
        })
    }
}

/// How deep lists and maps may lie in one another.
const DEEPEST: usize = 64;

/// The options that a script wrote.
pub(super) fn given(map: Map) -> Result<Given> {
    let mut given = Given::new();
    for (key, value) in map {
        let value =
            option(&value).map_err(|e| Error { message: format!("`{key}`: {}", e.message), ..e }.at(key.as_str()))?;
        given.insert(key.to_string(), value);
    }
    Ok(given)
}

/// The same for a call that takes models among its options.
pub(super) fn given_with_models(mut map: Map) -> Result<(Given, Models)> {
    let mut models = Models::new();
    for (key, value) in &map {
        models.extend(value.clone().try_cast::<ModelHandle>().map(|model| (key.to_string(), model)));
    }
    map.retain(|key, _| !models.contains_key(key.as_str()));
    let mut given = given(map)?;
    for (key, model) in &models {
        let mark = serde_json::to_value(Model { name: model.signature.name.clone() });
        given.insert(key.clone(), mark.map_err(|e| Error::internal("a mark is no JSON").cause(e.to_string()))?);
    }
    Ok((given, models))
}

/// A dataset among options.
pub(super) fn dataset(handle: DatasetHandle) -> Result<Value> {
    serde_json::to_value(Dataset { handle })
        .map_err(|e| Error::usage("the dataset's path is no text").cause(e.to_string()))
}

fn option(value: &Dynamic) -> Result<Value> {
    if let Some(handle) = value.clone().try_cast::<DatasetHandle>() {
        return dataset(handle);
    }
    if let Some(reward) = reward(value)? {
        return Ok(reward);
    }
    if let Ok(items) = value.as_array_ref()
        && items.iter().any(|item| item.is::<TaskHandle>() || item.is::<RewardHandle>())
    {
        return items.iter().map(option).collect::<Result<_>>().map(Value::Array);
    }
    let value = to_json(value)?;
    let mark = |value: &Value| [DATASET, MODEL, REWARD].iter().any(|mark| value.get(mark).is_some());
    if mark(&value) || value.as_array().is_some_and(|items| items.iter().any(mark)) {
        return Err(Error::usage("a map with such a key cannot be an option"));
    }
    Ok(value)
}

/// A reward among options, or a task that says what a right answer is.
fn reward(value: &Dynamic) -> Result<Option<Value>> {
    let reward = match value.clone().try_cast::<RewardHandle>() {
        Some(RewardHandle { reward }) => reward,
        None => match value.clone().try_cast::<TaskHandle>() {
            Some(task) => reward_of(&task)?,
            None => return Ok(None),
        },
    };
    let mark = serde_json::to_value(Reward { reward });
    mark.map(Some).map_err(|e| Error::internal("a mark is no JSON").cause(e.to_string()))
}

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
