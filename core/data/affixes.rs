//! What stands around a text: the tokens of the tokenizer's own accord, or those that a setting asks for.

use workbench_model::tokenizer::{Affixes, Tokenizer};

use crate::{
    error::{Error, Result},
    graph::params::Toggle,
};

/// The tokens around a text. `auto`: what the tokenizer adds itself, whatever its name; on: the same, or the BOS where it
/// puts nothing in front; off: none.
///
/// # Errors
/// A BOS is wanted and there is none.
pub fn affixes(tokenizer: &Tokenizer, toggle: Toggle) -> Result<Affixes> {
    if toggle == Toggle::Off {
        return Ok(Affixes::default());
    }
    let mut found = tokenizer.affixes()?;
    if toggle == Toggle::On && found.prefix.is_empty() {
        let bos = tokenizer.bos_id().ok_or_else(|| {
            Error::refused("add_bos is on, but the model's tokenizer has no BOS token")
                .hint("leave add_bos at \"auto\"")
        })?;
        found.prefix.push(bos);
    }
    Ok(found)
}

/// Whether ids begin with what would be put in front of them, as a text does that spells its own BOS.
pub fn begins_itself(ids: &[u32], prefix: &[u32]) -> bool {
    !prefix.is_empty() && ids.starts_with(prefix)
}

/// Tokens for people: `BOS`, or as the vocabulary spells them.
pub fn spelled(ids: &[u32], tokenizer: &Tokenizer) -> String {
    if let [id] = ids
        && tokenizer.bos_id() == Some(*id)
    {
        return "BOS".to_owned();
    }
    let name = |id: &u32| format!("`{}`", tokenizer.token(*id).unwrap_or_else(|| id.to_string()));
    ids.iter().map(name).collect::<Vec<_>>().join(" ")
}
