//! The parameters of a plugin, by its own schema.

use serde_json::Value;
use workbench_api::descriptor::Descriptor;

use crate::schema::{Field, Owner, ParameterError, check_noting, fields, value_written, written};

/// The given parameters with the plugin's defaults filled in and every number in the form of its type, so that equal meanings
/// are equal JSON.
///
/// # Errors
/// A key that the plugin does not know (with the likeliest one as a hint), a value of the wrong type, or out of range.
pub fn validate(plugin: &Descriptor, given: &Value) -> Result<Value, ParameterError> {
    validate_noting(plugin, given).map(|(parameters, _)| parameters)
}

/// The same, and what to tell whoever gave them: the names by which the plugin calls parameters that were given by an alias.
///
/// # Errors
/// As for [`validate`]; a parameter that was given by two of its names.
pub fn validate_noting(plugin: &Descriptor, given: &Value) -> Result<(Value, Vec<String>), ParameterError> {
    check_noting(&plugin.schema, &plugin.defaults, given, Owner::Plugin(&plugin.name))
}

/// What a script can set, in words.
pub fn parameters(plugin: &Descriptor) -> Vec<Field> {
    fields(&plugin.schema, &plugin.defaults)
}

/// A descriptor whose numbers are spelled as the plugin's author wrote them.
pub(super) fn as_written(plugin: Descriptor) -> Descriptor {
    let defaults = value_written(&plugin.schema, &plugin.schema, &plugin.defaults);
    Descriptor { schema: written(plugin.schema), defaults, ..plugin }
}
