//! Token sequences of documents.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};
use workbench_model::tokenizer::{ChatTemplate, Message, Tokenizer};

use super::{Document, documents};
use crate::{
    error::{Error, Result},
    eval::task::Toggle,
    graph::node::DataSource,
};

/// How text becomes sequences. All of it is part of the key of the node that reads the text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenOptions {
    /// At most so many sequences; all there are if not given.
    pub num_calibration_samples: Option<usize>,
    /// Tokens in a sequence, BOS not counted.
    pub max_seq_length: usize,
    /// Draw the sequences in a random order instead of taking the first.
    pub shuffle: bool,
    pub seed: Option<u64>,
    /// Join all documents and cut the stream into sequences of equal length, the tail dropped; otherwise each document is a
    /// sequence of its own, cut at `max_seq_length`.
    pub concatenate: bool,
    pub text_column: String,
    /// BOS in front of each sequence; `auto`: if the tokenizer puts one there itself.
    pub add_bos: Toggle,
    /// Put conversations into the model's chat template. Plain text never goes through it, unless this says so.
    pub chat_template: Toggle,
    /// Read only the first characters of a text file.
    pub characters: Option<usize>,
}

/// Sequences, and what the record says about them.
#[derive(Clone, Debug, Default)]
pub struct Sequences {
    pub ids: Vec<Vec<u32>>,
    /// Which tokens a model should learn to produce: all of a text, the assistant's turns of a conversation.
    pub learn: Vec<Vec<bool>>,
    pub facts: Value,
}

impl Sequences {
    /// Tokens in all sequences.
    pub fn tokens(&self) -> usize {
        self.ids.iter().map(Vec::len).sum()
    }
}

/// Whether the tokenizer itself begins a text with BOS.
pub fn begins_with_bos(tokenizer: &Tokenizer) -> Result<bool> {
    Ok(tokenizer.bos_id().is_some() && tokenizer.encode("a", true)?.first() == tokenizer.bos_id().as_ref())
}

/// The BOS to put in front of each sequence, if any.
fn bos(tokenizer: &Tokenizer, toggle: Toggle) -> Result<Option<u32>> {
    match toggle {
        Toggle::Off => Ok(None),
        Toggle::Auto if !begins_with_bos(tokenizer)? => Ok(None),
        Toggle::On | Toggle::Auto => tokenizer.bos_id().map(Some).ok_or_else(|| {
            Error::refused("add_bos is on, but the model's tokenizer has no BOS token")
                .hint("leave add_bos at \"auto\"")
        }),
    }
}

/// Reads, encodes and cuts. Reading stops as soon as enough sequences are there, unless they are drawn at random.
///
/// # Errors
/// Unreadable data; fewer sequences than asked for; a conversation for a model without a chat template.
pub fn sequences(
    source: &DataSource,
    options: &TokenOptions,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<Sequences> {
    let one_text = matches!(source, DataSource::File(path) if path.extension().is_none_or(|e| e != "jsonl"));
    let found = documents(source, &options.text_column, options.characters, !options.concatenate)?;
    sequences_of(found, one_text, options, tokenizer, template)
}

/// As [`sequences`], of documents at hand. In a stream of several documents each begins with BOS, or is followed by a blank
/// line where there is none; in a stream of one text (`one_text`) each sequence begins with BOS.
///
/// # Errors
/// As [`sequences`].
pub fn sequences_of(
    found: impl Iterator<Item = Result<Document>>,
    one_text: bool,
    options: &TokenOptions,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<Sequences> {
    let bos = bos(tokenizer, options.add_bos)?;
    let per_document = options.concatenate && !one_text;
    let encoder = Encoder {
        bos: bos.filter(|_| per_document),
        separator: if per_document && bos.is_none() { "\n\n" } else { "" },
        options,
        tokenizer,
        template,
    };
    let mut collector = Collector::new(options, bos.filter(|_| !per_document));
    for document in found {
        let (ids, learn) = encoder.encode(&document?)?;
        collector.add(ids, learn);
        if collector.enough() {
            break;
        }
    }
    let mut found = collector.finish()?;
    let first = found.ids.first().map(|ids| tokenizer.decode(&ids[..ids.len().min(64)], false)).transpose()?;
    found.facts["first_sample"] = first.into();
    found.facts["bos"] = match (bos, per_document) {
        (None, _) => "none",
        (Some(_), true) => "before each document",
        (Some(_), false) => "before each sequence",
    }
    .into();
    Ok(found)
}

/// Token ids, and which of them to learn.
type Encoded = (Vec<u32>, Vec<bool>);

struct Encoder<'a> {
    bos: Option<u32>,
    separator: &'static str,
    options: &'a TokenOptions,
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
}

impl Encoder<'_> {
    fn encode(&self, document: &Document) -> Result<Encoded> {
        let (ids, learn) = match document {
            Document::Text(text) if self.options.chat_template != Toggle::On => {
                let ids = self.tokenizer.encode(&format!("{text}{}", self.separator), false)?;
                let learn = vec![true; ids.len()];
                (ids, learn)
            }
            Document::Text(text) => self.conversation(&[Message::new("user", text)])?,
            Document::Chat(turns) => self.conversation(turns)?,
        };
        let Some(bos) = self.bos else { return Ok((ids, learn)) };
        // That a document ends here is worth learning too.
        Ok((std::iter::once(bos).chain(ids).collect(), std::iter::once(true).chain(learn).collect()))
    }

    /// A rendered conversation; what the assistant says is to be learned, with the token that ends its turn.
    fn conversation(&self, turns: &[Message]) -> Result<Encoded> {
        let Some(template) = self.template else {
            return Err(Error::refused("the data are conversations, but the model has no chat template")
                .hint("give it plain text, or set chat_template: false"));
        };
        let extra = serde_json::Map::new();
        let mut encoded = Encoded::default();
        for (index, turn) in turns.iter().enumerate() {
            let answers = turn.role == "assistant";
            if answers {
                self.extend_to(&template.render(&turns[..index], true, &extra)?, false, &mut encoded)?;
            }
            self.extend_to(&template.render(&turns[..=index], false, &extra)?, answers, &mut encoded)?;
        }
        Ok(encoded)
    }

    /// Replaces the tokens by those of a longer rendering; what is new gets the given mark.
    fn extend_to(&self, text: &str, mark: bool, (ids, learn): &mut Encoded) -> Result<()> {
        *ids = self.tokenizer.encode(text, false)?;
        // A template may take something back (a generation prompt that thinks); marks never outlive their tokens.
        learn.truncate(ids.len());
        learn.resize(ids.len(), mark);
        Ok(())
    }
}

struct Collector<'a> {
    options: &'a TokenOptions,
    bos: Option<u32>,
    stream: Encoded,
    done: Vec<Encoded>,
    documents: usize,
    truncated: usize,
    dropped: usize,
}

impl<'a> Collector<'a> {
    fn new(options: &'a TokenOptions, bos: Option<u32>) -> Self {
        Self { options, bos, stream: Default::default(), done: Vec::new(), documents: 0, truncated: 0, dropped: 0 }
    }

    fn add(&mut self, ids: Vec<u32>, learn: Vec<bool>) {
        self.documents += 1;
        let length = self.options.max_seq_length;
        if !self.options.concatenate {
            let (mut ids, mut learn) = (ids, learn);
            self.truncated += usize::from(ids.len() > length);
            ids.truncate(length);
            learn.truncate(length);
            if ids.len() > 1 {
                self.push(ids, learn)
            } else {
                self.dropped += 1
            }
            return;
        }
        self.stream.0.extend(ids);
        self.stream.1.extend(learn);
        let whole = self.stream.0.len() / length * length;
        if whole > 0 {
            let rest = (self.stream.0.split_off(whole), self.stream.1.split_off(whole));
            let (ids, learn) = std::mem::replace(&mut self.stream, rest);
            for (ids, learn) in ids.chunks(length).zip(learn.chunks(length)) {
                self.push(ids.to_vec(), learn.to_vec());
            }
        }
    }

    fn push(&mut self, mut ids: Vec<u32>, mut learn: Vec<bool>) {
        if let Some(bos) = self.bos {
            ids.insert(0, bos);
            learn.insert(0, false);
        }
        self.done.push((ids, learn));
    }

    fn enough(&self) -> bool {
        !self.options.shuffle && self.options.num_calibration_samples.is_some_and(|n| self.done.len() >= n)
    }

    fn finish(mut self) -> Result<Sequences> {
        if self.options.shuffle {
            self.done.shuffle(&mut ChaCha8Rng::seed_from_u64(self.options.seed.unwrap_or(0)));
        }
        if let Some(wanted) = self.options.num_calibration_samples {
            if self.done.len() < wanted {
                let message = format!(
                    "{wanted} sequences of {} tokens were asked for, and the data yield {}",
                    self.options.max_seq_length,
                    self.done.len()
                );
                return Err(Error::refused(message).hint("ask for fewer or shorter ones, or give more data"));
            }
            self.done.truncate(wanted);
        }
        if self.done.is_empty() {
            return Err(Error::refused("the data yield no sequence of more than one token"));
        }
        let (ids, learn): (Vec<_>, Vec<_>) = self.done.into_iter().unzip();
        let mut found = Sequences { ids, learn, facts: Value::Null };
        found.facts = json!({
            "sequences": found.ids.len(),
            "tokens": found.tokens(),
            "documents_read": self.documents,
            "documents_truncated": self.truncated,
            "documents_too_short": self.dropped,
            "tail_tokens_dropped": if self.options.concatenate && self.options.num_calibration_samples.is_none() { self.stream.0.len() } else { 0 },
        });
        Ok(found)
    }
}
