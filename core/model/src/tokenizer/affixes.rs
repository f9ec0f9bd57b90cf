//! What a tokenizer puts around a text of its own accord.

use super::{Tokenizer, text_error};
use crate::ModelError;

/// Tokens around a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affixes {
    /// In front: a BOS, several tokens, or none.
    pub prefix: Vec<u32>,
    /// Behind: an end-of-text token for some models, none for most.
    pub suffix: Vec<u32>,
}

impl Affixes {
    /// The ids with the tokens around them.
    pub fn around(&self, ids: Vec<u32>) -> Vec<u32> {
        self.prefix.iter().copied().chain(ids).chain(self.suffix.iter().copied()).collect()
    }
}

impl Tokenizer {
    /// The tokens that the tokenizer's post-processor adds: together what `encode("", true)` gives. Which tokens they are is
    /// its own business: no `bos_token` of a config names all of them.
    ///
    /// # Errors
    /// An added token has no embedding; tokens are added within a text.
    pub fn affixes(&self) -> Result<Affixes, ModelError> {
        let all = self.encode("", true)?;
        // The text between them is a probe of which something is left, whatever the normalizer takes away.
        for probe in ["a", "A", "1", ".", "\u{4e00}"] {
            let encoding = self.inner.encode_fast(probe, true).map_err(text_error)?;
            let added = encoding.get_special_tokens_mask();
            let Some(front) = added.iter().position(|special| *special == 0) else { continue };
            let back = added.iter().rev().take_while(|special| **special == 1).count();
            let ids = encoding.get_ids();
            let found = Affixes { prefix: ids[..front].to_vec(), suffix: ids[ids.len() - back..].to_vec() };
            if found.around(Vec::new()) != all {
                return Err(ModelError::Text("the tokenizer adds tokens within a text, not only around it".to_owned()));
            }
            return Ok(found);
        }
        Ok(Affixes { prefix: all, suffix: Vec::new() })
    }

    /// The token to begin with where nothing stands before what is predicted: the tokenizer's own BOS, or else its own
    /// end-of-text token. What `config.json` says does not count.
    pub fn start_id(&self) -> Option<u32> {
        self.own_bos.or(self.own_eos)
    }
}
