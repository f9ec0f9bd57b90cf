//! Other names of parameters: read as the fields that they name, and told.

use serde_json::{Map, Value};

use super::check::{Result, Schema, fail, path};

impl Schema<'_> {
    /// Entries by the names of the fields that they are for, where a field names an alias.
    pub(super) fn by_own_names(
        &self,
        known: &Map<String, Value>,
        entries: Map<String, Value>,
        key: &str,
    ) -> Result<Map<String, Value>> {
        let mut renamed = Map::new();
        let own = |entry: &str| match known.contains_key(entry) {
            true => None,
            false => known.iter().find(|(_, schema)| aliases(schema).any(|alias| alias == entry)),
        };
        let given: Vec<String> = entries.keys().cloned().collect();
        for (entry, value) in entries {
            let Some((field, _)) = own(&entry) else {
                renamed.insert(entry, value);
                continue;
            };
            let also = given
                .iter()
                .find(|other| **other != entry && (*other == field || own(other).is_some_and(|(o, _)| o == field)));
            if let Some(other) = also {
                let (one, two) = (path(key, other), path(key, &entry));
                return fail(&two, format!("`{one}` and `{two}` are names of one parameter, and both are given"));
            }
            self.notes.borrow_mut().push(format!("`{}` is called `{}` here", path(key, &entry), path(key, field)));
            renamed.insert(field.clone(), value);
        }
        Ok(renamed)
    }
}

/// Other names that a field answers to.
pub(super) fn aliases(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("aliases").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}
