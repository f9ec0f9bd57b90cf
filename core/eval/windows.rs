//! Running text cut into windows, by the two protocols in use.

use serde_json::{Value, json};
use workbench_model::tokenizer::Tokenizer;

use super::{Sequence, task::TextItem};
use crate::{
    data::{Document, Sequences, affixes, documents, is_one_text, sequences, sequences_of, spelled},
    error::{Error, Result},
    graph::{
        node::DataSource,
        params::{Protocol, TextOptions, Toggle, TokenOptions},
    },
};

/// A stretch of tokens of which those from `scored` on are predicted, each from all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The item it belongs to: a block, or a document cut into several windows.
    pub item: String,
    pub ids: Vec<u32>,
    /// Index of the first token that counts; at least 1.
    pub scored: usize,
}

impl Window {
    /// What is asked of a model.
    pub(super) fn sequence(&self) -> Sequence<'_> {
        Sequence { ids: &self.ids, scored: self.scored }
    }
}

/// Windows with what the record says about the text.
pub struct Windows {
    pub windows: Vec<Window>,
    pub protocol: String,
    pub facts: Value,
    /// Words of the text, for perplexity per word; only documents scored whole have them.
    pub words: Option<usize>,
}

impl Windows {
    /// With a digest of all tokens and of which are scored: rows of a table can be compared where it is equal.
    fn with_digest(mut self) -> Self {
        let mut hasher = blake3::Hasher::new();
        for window in &self.windows {
            hasher.update(format!("{} {} {:?}\n", window.item, window.scored, window.ids).as_bytes());
        }
        self.facts["tokens_digest"] = hasher.finalize().to_hex()[..32].into();
        self
    }
}

/// Cuts a text.
///
/// - *blocks*, as in the GPTQ papers: one stream, non-overlapping windows, the tail dropped. The first token of a window is
///   not scored, unless a BOS stands before it.
/// - *rolling*, as lm-eval's `loglikelihood_rolling`: each document by itself, every token scored once, the first after the
///   tokenizer's BOS (or its end-of-text token where it has none), the last window with as much context as fits. As there,
///   what the tokenizer adds of its own accord belongs to the document: a BOS of its own stands behind the first, and is
///   scored. `add_bos: false` leaves it out.
///
/// # Errors
/// Unreadable text, or too little of it.
pub fn windows(source: &DataSource, options: &TextOptions, tokenizer: &Tokenizer) -> Result<Windows> {
    match options.protocol {
        Protocol::Blocks => blocks(source, options, tokenizer),
        Protocol::Rolling => {
            let found = documents(source, &options.text_column, options.characters, true)?;
            let texts = found.enumerate().map(|(index, document)| match document? {
                Document::Text(text) => Ok(TextItem { id: index.to_string(), text }),
                Document::Chat(_) => Err(Error::refused("a conversation is no running text")),
            });
            rolling(texts.take(options.blocks.unwrap_or(usize::MAX)).collect::<Result<_>>()?, options, tokenizer)
        }
    }
}

/// Cuts the texts of a task file, by the same protocols. One running text (`one_text`) is in blocks what a file is; rolling, it is one
/// document, where a file has a document for each paragraph.
///
/// # Errors
/// As [`windows`].
pub fn windows_of(
    texts: Vec<TextItem>,
    one_text: bool,
    options: &TextOptions,
    tokenizer: &Tokenizer,
) -> Result<Windows> {
    match options.protocol {
        Protocol::Rolling => {
            rolling(texts.into_iter().take(options.blocks.unwrap_or(usize::MAX)).collect(), options, tokenizer)
        }
        Protocol::Blocks => {
            let joined = texts.into_iter().map(|t| Ok(Document::Text(t.text)));
            let (options, front) = block_options(options, one_text, tokenizer)?;
            Ok(in_blocks(sequences_of(joined, one_text, &options, tokenizer, None)?, front))
        }
    }
}

fn blocks(source: &DataSource, options: &TextOptions, tokenizer: &Tokenizer) -> Result<Windows> {
    let (options, front) = block_options(options, is_one_text(source), tokenizer)?;
    Ok(in_blocks(sequences(source, &options, tokenizer, None)?, front))
}

/// How blocks are cut, and how many tokens stand in front of each.
fn block_options(options: &TextOptions, one_text: bool, tokenizer: &Tokenizer) -> Result<(TokenOptions, usize)> {
    let front = if one_text { affixes(tokenizer, options.add_bos)?.prefix.len() } else { 0 };
    // The last token of a block is not given to the model. Where each begins with a BOS, a token more of text is predicted in
    // the room that this leaves; without one, papers cut blocks of just this length.
    let length = options.max_seq_length + usize::from(front > 0);
    let options = TokenOptions {
        num_calibration_samples: options.blocks,
        max_seq_length: length,
        shuffle: false,
        seed: None,
        concatenate: true,
        text_column: options.text_column.clone(),
        add_bos: options.add_bos,
        chat_template: Toggle::Off,
        characters: options.characters,
    };
    Ok((options, front))
}

/// Blocks of which the first `front` tokens are the same in all.
fn in_blocks(found: Sequences, front: usize) -> Windows {
    let before = found.facts["bos"].as_str().unwrap_or_default().to_owned();
    let (count, length) = (found.ids.len(), found.ids.first().map_or(0, Vec::len) - front);
    let windows = found
        .ids
        .into_iter()
        .enumerate()
        .map(|(i, ids)| Window { item: format!("block-{i:05}"), ids, scored: front.max(1) })
        .collect();
    let how = match before.strip_suffix("before each sequence").map(str::trim_end) {
        Some("") => "BOS before each, all scored".to_owned(),
        Some(tokens) => format!("{tokens} before each, all scored"),
        None if before == "none" => "no BOS, the first of each not scored".to_owned(),
        None if before == "before each document" => format!("BOS {before}, the first token of each block not scored"),
        None => format!("{before}, the first token of each block not scored"),
    };
    let protocol = format!("{count} non-overlapping blocks of {length} tokens, {how}");
    Windows { windows, protocol, facts: found.facts, words: None }.with_digest()
}

/// Windows of documents of their own.
fn rolling(texts: Vec<TextItem>, options: &TextOptions, tokenizer: &Tokenizer) -> Result<Windows> {
    let Some(start) = tokenizer.start_id() else {
        return Err(Error::refused("the tokenizer has neither BOS nor an end-of-text token to begin a document with")
            .hint("use protocol: \"blocks\""));
    };
    let around = affixes(tokenizer, options.add_bos)?;
    let spoken = tokenizer.decode(&[start], false)?;
    let mut windows = Vec::new();
    let (mut words, mut tokens) = (0, 0);
    for text in &texts {
        let ids = tokenizer.encode(&text.text, false)?;
        // A text that spells the token itself has it already.
        let ids = if !spoken.is_empty() && text.text.starts_with(&spoken) { ids } else { around.around(ids) };
        words += word_count(&text.text);
        tokens += ids.len();
        windows.extend(roll(&ids, start, options.max_seq_length).into_iter().map(|(ids, scored)| Window {
            item: format!("document-{}", text.id),
            ids,
            scored,
        }));
    }
    if windows.is_empty() {
        return Err(Error::refused("the text has no token"));
    }
    let begins = match spelled(&around.around(Vec::new()), tokenizer).as_str() {
        "" => String::new(),
        added => format!(", the {added} that the tokenizer adds among them"),
    };
    let protocol = format!(
        "rolling over {} documents, windows of {} tokens, each token scored once, the first after {}{begins}",
        texts.len(),
        options.max_seq_length,
        spelled(&[start], tokenizer)
    );
    let facts = json!({ "documents_read": texts.len(), "tokens": tokens, "first_sample": texts.first().map(|t| t.text.chars().take(240).collect::<String>()) });
    Ok(Windows { windows, protocol, facts, words: Some(words) }.with_digest())
}

/// Words as lm-eval counts them: stretches between white space, of which one at an end of the text leaves an empty one there.
fn word_count(text: &str) -> usize {
    let starts = |previous: Option<char>, c: char| is_space(c) && !previous.is_some_and(is_space);
    let mut previous = None;
    1 + text.chars().filter(|&c| starts(previous.replace(c), c)).count()
}

/// White space as Python knows it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Windows of at most `length` predicted tokens; all but the first are filled up with context from before.
fn roll(ids: &[u32], prefix: u32, length: usize) -> Vec<(Vec<u32>, usize)> {
    let mut found = Vec::new();
    let first = ids.len().min(length);
    if first > 0 {
        found.push((std::iter::once(prefix).chain(ids[..first].iter().copied()).collect(), 1));
    }
    let mut done = first;
    while done < ids.len() {
        let end = (done + length).min(ids.len());
        let start = end - length - 1;
        found.push((ids[start..end].to_vec(), done - start));
        done = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every token is predicted exactly once, in order, and no window is longer than it may be.
    #[test]
    fn rolling_scores_every_token_once() {
        for n in [1_usize, 3, 4, 5, 8, 9, 17] {
            let ids: Vec<u32> = (1..=n as u32).collect();
            let windows = roll(&ids, 0, 4);
            let scored: Vec<u32> = windows.iter().flat_map(|(w, from)| w[*from..].to_vec()).collect();
            assert_eq!(scored, ids, "{n}");
            assert!(windows.iter().all(|(w, from)| w.len() <= 5 && *from >= 1));
            // After the first, each has a full window of context.
            assert!(windows.iter().skip(1).all(|(w, _)| w.len() == 5));
            // The context is what really came before.
            for (w, _) in windows.iter().skip(1) {
                assert!(w.windows(2).all(|p| p[1] == p[0] + 1));
            }
        }
        assert!(roll(&[], 0, 4).is_empty());
    }

    /// `len(re.split(r"\s+", text))` of Python.
    #[test]
    fn words_are_counted_as_lm_eval_counts_them() {
        let counts = [("", 1), ("one", 1), ("one two", 2), (" one two \n", 4), ("a\u{1c}b\u{a0}\tc", 3), (" ", 2)];
        for (text, count) in counts {
            assert_eq!(word_count(text), count, "{text:?}");
        }
    }
}
