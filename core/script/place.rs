//! From what Rhai reports to an error that shows its line.

use std::collections::BTreeMap;

use rhai::{Engine, EvalAltResult, NativeCallContext, ParseErrorType, Position};

use crate::{
    error::{Error, Location, did_you_mean},
    graph::node::Origin,
};

/// Turns an error of ours into one that Rhai carries up, with the position of the call.
pub(super) fn raise(context: &NativeCallContext<'_>, error: Error) -> Box<EvalAltResult> {
    let mut error = quoted(error);
    if error.location.is_none() {
        // The source is remembered by name; the text is filled in when the error arrives.
        let position = context.call_position();
        error.location = Some(Box::new(Location {
            file: context.call_source().unwrap_or_default().to_owned(),
            source: String::new(),
            line: position.line().unwrap_or(0),
            column: position.position().unwrap_or(1),
            needle: error.needle.clone(),
        }));
    }
    Box::new(EvalAltResult::ErrorRuntime(rhai::Dynamic::from(error), context.call_position()))
}

/// Adds what is wrong with a text such as "W${bits}A16", which only backticks fill in.
fn quoted(error: Error) -> Error {
    let unfilled = |text: &str| text.split_once("${").is_some_and(|(_, rest)| rest.contains('}'));
    let Some(text) = error.needle.clone().filter(|needle| unfilled(needle)) else {
        return match unfilled(&error.message) {
            true => error.hint("${…} is filled in only between backticks"),
            false => error,
        };
    };
    error.hint(format!("${{…}} is filled in only between backticks: `{text}`"))
}

/// Where a call stands in its script.
pub(super) fn origin(context: &NativeCallContext<'_>) -> Origin {
    let position = context.call_position();
    Origin {
        file: context.call_source().unwrap_or_default().to_owned(),
        line: position.line().unwrap_or(0),
        column: position.position().unwrap_or(0),
    }
}

/// The error for a person: message, place with its line, hints.
pub(super) fn locate(error: EvalAltResult, script: &str, sources: &BTreeMap<String, String>, engine: &Engine) -> Error {
    let mut file = script.to_owned();
    let mut error = error;
    let mut position = error.position();
    // The innermost error knows best what is wrong; the outer ones only say how it was reached.
    loop {
        error = match error {
            EvalAltResult::ErrorInFunctionCall(_, source, inner, at)
            | EvalAltResult::ErrorInModule(source, inner, at) => {
                if !source.is_empty() {
                    file = source;
                }
                position = if inner.position().is_none() { at } else { inner.position() };
                *inner
            }
            other => break finish(other, position, &file, sources, engine),
        };
    }
}

fn finish(
    error: EvalAltResult,
    position: Position,
    file: &str,
    sources: &BTreeMap<String, String>,
    engine: &Engine,
) -> Error {
    let mut ours = match error {
        EvalAltResult::ErrorRuntime(value, _) => match value.clone().try_cast::<Error>() {
            Some(error) => error,
            None => Error::usage(value.to_string()),
        },
        EvalAltResult::ErrorTerminated(reason, _) => Error::usage(reason.to_string()),
        EvalAltResult::ErrorFunctionNotFound(signature, _) => unknown_function(&signature, engine),
        EvalAltResult::ErrorVariableNotFound(name, _) => unknown_variable(&name),
        EvalAltResult::ErrorParsing(ParseErrorType::VariableUndefined(name), _) => unknown_variable(&name),
        EvalAltResult::ErrorTooManyOperations(_) => {
            Error::usage("the script does not seem to end: it took 20 million steps")
        }
        other => {
            let mut other = other;
            other.clear_position();
            Error::usage(lowercase(&other.to_string()))
        }
    };
    let place = match ours.location.take() {
        Some(place) if !place.file.is_empty() => *place,
        place => Location {
            file: file.to_owned(),
            source: String::new(),
            line: position.line().or(place.as_ref().map(|p| p.line)).unwrap_or(0),
            column: position.position().or(place.map(|p| p.column)).unwrap_or(1),
            needle: ours.needle.clone(),
        },
    };
    if !place.source.is_empty() {
        // A place in a file of data, which brought its text along.
        ours.location = Some(Box::new(place));
        return ours;
    }
    let source = sources.get(&place.file).cloned().unwrap_or_default();
    let file = if sources.contains_key(&place.file) && !place.file.ends_with(".rhai") {
        format!("{}.rhai", place.file)
    } else {
        place.file
    };
    if place.line > 0 {
        ours.location = Some(Box::new(Location { file, source, ..place }));
    }
    ours
}

fn lowercase(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

fn unknown_variable(name: &str) -> Error {
    Error::usage(format!("there is no variable `{name}`"))
        .at(name)
        .hint("a function sees its own arguments and nothing of the script around it")
}

/// `quantize(Model, string)` of `quantize(_: &mut Model, _: string) -> Result<…>`.
fn plainly(signature: &str) -> String {
    let call = signature.split(" -> ").next().unwrap_or(signature);
    call.replace("_: ", "").replace("&mut ", "")
}

/// `quantise (Model, &str, map)`: either no function of that name, or none for these types.
fn unknown_function(signature: &str, engine: &Engine) -> Error {
    let name = signature.split([' ', '(']).next().unwrap_or(signature).rsplit("::").next().unwrap_or(signature);
    let known: Vec<String> = engine.gen_fn_signatures(false);
    let ours = |line: &str| line.split('(').next().unwrap_or_default().to_owned();
    let mut same: Vec<&String> = known.iter().filter(|line| ours(line) == name).collect();
    // The engine lists them in another order each time.
    same.sort_by_key(|line| (line.len(), line.as_str()));
    if same.is_empty() {
        let error = Error::usage(format!("there is no function `{name}`")).at(name);
        let names: Vec<String> = known.iter().map(|l| ours(l)).collect();
        let near = did_you_mean(name, names.iter().map(String::as_str)).map(|n| format!("did you mean `{n}`?"));
        return error.maybe_hint(near);
    }
    let given = signature.split_once('(').map(|(_, types)| types.trim_end_matches(')')).unwrap_or_default();
    let error = Error::usage(format!("`{name}` cannot be called with ({given})")).at(name);
    same.into_iter().take(3).fold(error, |error, line| error.hint(format!("it is called as {}", plainly(line))))
}
