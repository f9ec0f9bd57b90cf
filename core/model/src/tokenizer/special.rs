//! Special tokens, which a model names in up to four files beside `tokenizer.json`.
//!
//! transformers makes one list of them: `added_tokens_decoder` of `tokenizer_config.json`; where that is missing,
//! `special_tokens_map.json` and `added_tokens.json`; and in any case the tokens that have a name (`eos_token`) and those
//! in `extra_special_tokens`, which used to be `additional_special_tokens`. What is on it is a token of its own wherever a text
//! holds it, whether `tokenizer.json` says so or not.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use crate::ModelError;

/// Names that every tokenizer knows, in the order in which transformers adds them. A model may have others (`image_token`).
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Both names of the list of tokens without a name of their own.
const LISTS: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// The content of a companion file as JSON, if there is one.
type Read<'a> = &'a dyn Fn(&str) -> Result<Option<Value>, ModelError>;

/// `tokenizer_config.json` with what the other files add to it; `folder` is for messages.
pub(super) fn settings(read: Read<'_>, folder: &Path) -> Result<Value, ModelError> {
    let (config_name, map_name, added_name) = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json");
    let mut settings = object(read(config_name)?, &folder.join(config_name))?;
    if is_set(&settings, "added_tokens_decoder") {
        return Ok(Value::Object(settings));
    }
    let file = folder.join(map_name);
    for (key, value) in object(read(map_name)?, &file)?.into_iter().filter(|(_, value)| !value.is_null()) {
        let stated = settings.get(&key).and_then(text_of);
        if let (Some(stated), Some(found)) = (stated, text_of(&value))
            && stated != found
        {
            let message = format!("`{key}` is \"{found}\", but {config_name} says \"{stated}\"");
            return Err(ModelError::file(&file, message, "remove the wrong one"));
        }
        // A list under its other name is the same list.
        let held = LISTS.into_iter().find(|list| settings.get(*list).is_some_and(Value::is_array));
        match held.filter(|_| LISTS.contains(&key.as_str())).and_then(|list| settings.get_mut(list)) {
            Some(Value::Array(listed)) if value.is_array() => {
                let new = value.as_array().into_iter().flatten().filter(|token| !listed.contains(token));
                let new: Vec<Value> = new.cloned().collect();
                listed.extend(new);
            }
            _ => drop(settings.insert(key, value)),
        }
    }
    let file = folder.join(added_name);
    let mut decoder = Map::new();
    for (token, id) in object(read(added_name)?, &file)? {
        let Some(id) = id.as_u64() else {
            return Err(ModelError::file(&file, format!("places `{token}` at {id}, which is no id"), ""));
        };
        decoder.insert(id.to_string(), json!({"content": token}));
    }
    if !decoder.is_empty() {
        settings.insert("added_tokens_decoder".into(), Value::Object(decoder));
    }
    Ok(Value::Object(settings))
}

fn object(value: Option<Value>, file: &Path) -> Result<Map<String, Value>, ModelError> {
    match value {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(ModelError::file(file, "is not a JSON object", "")),
    }
}

fn is_set(settings: &Map<String, Value>, key: &str) -> bool {
    settings.get(key).is_some_and(|value| !value.is_null())
}

/// The text of a token, which is spelled as a string or as an object with its `content`.
pub(super) fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A token with a name, such as `eos_token`.
pub(super) fn special_token<'a>(settings: &'a Value, name: &str) -> Option<&'a str> {
    text_of(settings.get(name)?)
}

/// All tokens that have a name, by it: those of every tokenizer first.
pub(super) fn named(settings: &Value) -> Vec<(&str, &Value)> {
    let usual = NAMES.iter().filter_map(|name| Some((*name, settings.get(name)?)));
    let own = settings.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value));
    let own = own.filter(|(name, _)| name.ends_with("_token") && !NAMES.contains(name));
    let inner = LISTS.iter().filter_map(|list| settings.get(list)?.as_object()).flatten();
    let inner = inner.map(|(name, value)| (name.as_str(), value));
    usual.chain(own).chain(inner).filter(|(_, value)| text_of(value).is_some()).collect()
}

/// Special tokens without a name.
fn listed<'a>(settings: &'a Value, file: &Path) -> Result<Vec<&'a Value>, ModelError> {
    let lists = LISTS.map(|list| settings.get(list).and_then(Value::as_array));
    if let [Some(new), Some(old)] = lists
        && new != old
    {
        let message = format!("`{}` and `{}` differ", LISTS[0], LISTS[1]);
        return Err(ModelError::file(file, message, "both are names of one list: remove the wrong one"));
    }
    let tokens: Vec<&Value> = lists.into_iter().flatten().take(1).flatten().collect();
    match tokens.iter().find(|token| text_of(token).is_none()) {
        None => Ok(tokens),
        Some(other) => Err(ModelError::file(file, format!("`{}` holds {other}, which is no token", LISTS[0]), "")),
    }
}

/// Makes tokens of their own of all that the settings name.
pub(super) fn add(inner: &mut tokenizers::Tokenizer, settings: &Value, file: &Path) -> Result<(), ModelError> {
    let settings_file = file.with_file_name("tokenizer_config.json");
    let named = named(settings).into_iter().map(|(_, value)| value);
    let special: Vec<&Value> = named.chain(listed(settings, &settings_file)?).collect();
    let is_special = |text: &str| special.iter().any(|token| text_of(token) == Some(text));
    let placed = placed(settings, &settings_file)?;
    let mut tokens: Vec<AddedToken> = placed.iter().map(|(_, value)| added_token(value, &is_special)).collect();
    let known = inner.get_added_tokens_decoder();
    for value in &special {
        let token = added_token(value, &is_special);
        if tokens.iter().any(|other| other.content == token.content) {
            continue;
        }
        // What `tokenizer.json` says of a token stands, but for its being special.
        tokens.push(match known.values().find(|known| known.content == token.content) {
            Some(known) => AddedToken { special: true, ..known.clone() },
            None => token,
        });
    }
    let failed = |error: tokenizers::Error| ModelError::file(file, format!("cannot take added tokens: {error}"), "");
    inner.add_tokens(tokens).map_err(failed)?;
    for (id, value) in placed {
        let text = text_of(value).unwrap_or_default();
        match inner.token_to_id(text) {
            Some(found) if u64::from(found) != id => {
                let message = format!("places `{text}` at {id}, but tokenizer.json gives it the id {found}");
                return Err(ModelError::file(&settings_file, message, "the files belong to different models"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The tokens of `added_tokens_decoder` in the order of their ids.
fn placed<'a>(settings: &'a Value, file: &Path) -> Result<Vec<(u64, &'a Value)>, ModelError> {
    let decoder = match settings.get("added_tokens_decoder") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(decoder)) => decoder,
        Some(_) => return Err(ModelError::file(file, "`added_tokens_decoder` is not an object", "")),
    };
    let mut placed = Vec::with_capacity(decoder.len());
    for (id, token) in decoder {
        match (id.parse(), text_of(token)) {
            (Ok(id), Some(_)) => placed.push((id, token)),
            _ => {
                let message = format!("`added_tokens_decoder` holds `{id}`: {token}, expected an id and a token");
                return Err(ModelError::file(file, message, ""));
            }
        }
    }
    placed.sort_by_key(|(id, _)| *id);
    Ok(placed)
}

/// A token with its habits: a plain text has those of a special token.
fn added_token(value: &Value, is_special: &dyn Fn(&str) -> bool) -> AddedToken {
    let content = text_of(value).unwrap_or_default();
    let flag = |key: &str, default: bool| value.get(key).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", false) || is_special(content);
    AddedToken {
        content: content.to_owned(),
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !special),
        special,
    }
}
