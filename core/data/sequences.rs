//! Token sequences of documents.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};
use workbench_model::tokenizer::{Affixes, ChatTemplate, Message, Tokenizer};

use super::{Document, Format, TextPieces, affixes, begins_itself, documents, spelled};
use crate::{
    error::{Error, Result},
    graph::{
        node::DataSource,
        params::{Toggle, TokenOptions},
    },
};

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
    match source {
        DataSource::File(path) if is_one_text(source) && is_stream(options) => {
            let pieces = TextPieces::open(path, options.characters)?;
            gather(true, options, tokenizer, template, |encoder, collector| encoder.stream(pieces, collector))
        }
        _ => {
            let found = documents(source, &options.text_column, options.characters, !options.concatenate)?;
            sequences_of(found, is_one_text(source), options, tokenizer, template)
        }
    }
}

/// Whether a single text would be cut as a stream.
fn is_stream(options: &TokenOptions) -> bool {
    options.concatenate && options.chat_template != Toggle::On
}

/// Whether a source is one running text and no rows of documents.
pub fn is_one_text(source: &DataSource) -> bool {
    matches!(source, DataSource::File(path) if matches!(Format::of(path), Ok(Format::Text)))
}

/// As [`sequences`], of documents at hand. What the tokenizer adds stands around each document; where it puts nothing, a
/// blank line parts documents of a stream. In a stream of one text (`one_text`) each sequence begins with what belongs in
/// front of a text.
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
    gather(one_text, options, tokenizer, template, |encoder, collector| {
        for document in found {
            collector.add(encoder.encode(&document?, collector.missing())?);
            if collector.enough() {
                break;
            }
        }
        Ok(())
    })
}

/// Cuts what `feed` encodes and collects.
fn gather(
    one_text: bool,
    options: &TokenOptions,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    feed: impl FnOnce(&Encoder<'_>, &mut Collector<'_>) -> Result<()>,
) -> Result<Sequences> {
    let around = affixes(tokenizer, options.add_bos)?;
    let one_stream = one_text && is_stream(options);
    let front = if one_stream { around.prefix.clone() } else { Vec::new() };
    if options.max_seq_length <= around.prefix.len() + around.suffix.len() {
        let added = spelled(&around.around(Vec::new()), tokenizer);
        let message = format!("sequences of {} tokens have no room for text beside {added}", options.max_seq_length);
        return Err(Error::refused(message).hint("raise max_seq_length"));
    }
    let facts = added(&around, one_stream, tokenizer);
    let encoder = Encoder { around, one_stream, options, tokenizer, template };
    let mut collector = Collector::new(options, front);
    feed(&encoder, &mut collector)?;
    let mut found = collector.finish()?;
    let first = found.ids.first().map(|ids| tokenizer.decode(&ids[..ids.len().min(64)], false)).transpose()?;
    found.facts["first_sample"] = first.into();
    found.facts["bos"] = facts.0.into();
    if let Some(behind) = facts.1 {
        found.facts["behind_each_text"] = behind.into();
    }
    Ok(found)
}

/// What the record says of the tokens around a text: in front, and behind it where there are any.
fn added(around: &Affixes, one_stream: bool, tokenizer: &Tokenizer) -> (String, Option<String>) {
    let named = match spelled(&around.prefix, tokenizer).as_str() {
        "" => return ("none".to_owned(), suffix(around, tokenizer)),
        // Where there is one token and it is BOS, the place alone says it.
        "BOS" => String::new(),
        tokens => format!("{tokens} "),
    };
    let place = if one_stream { "before each sequence" } else { "before each document" };
    (format!("{named}{place}"), suffix(around, tokenizer))
}

fn suffix(around: &Affixes, tokenizer: &Tokenizer) -> Option<String> {
    (!around.suffix.is_empty()).then(|| spelled(&around.suffix, tokenizer))
}

/// The beginning of a stream, of which every sequence is given the same tokens in front: a text that spells them itself has them
/// once all the same.
struct Beginning<'a> {
    prefix: &'a [u32],
    /// What has come, as long as that is not enough to tell.
    held: Option<Vec<u32>>,
}

impl Beginning<'_> {
    /// Hands on what follows the prefix; `ended` says that nothing more will come.
    fn pass(&mut self, ids: Vec<u32>, ended: bool) -> Vec<u32> {
        let Some(mut held) = self.held.take() else { return ids };
        held.extend(ids);
        if held.len() < self.prefix.len() && !ended {
            self.held = Some(held);
            return Vec::new();
        }
        if begins_itself(&held, self.prefix) {
            held.drain(..self.prefix.len());
        }
        held
    }
}

/// A document as tokens.
#[derive(Default)]
struct Encoded {
    ids: Vec<u32>,
    /// Which of them to learn.
    learn: Vec<bool>,
    /// How many of them are the document's own, and not put around it.
    own: usize,
    /// Whether a part was cut off.
    cut: bool,
}

struct Encoder<'a> {
    around: Affixes,
    /// The text is a stream whose sequences get what belongs in front, so that the text itself does not.
    one_stream: bool,
    options: &'a TokenOptions,
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
}

impl Encoder<'_> {
    /// A document, or its beginning, if that has as many tokens as are `missing`.
    fn encode(&self, document: &Document, missing: usize) -> Result<Encoded> {
        match document {
            Document::Text(text) if self.options.chat_template != Toggle::On => self.text(text, missing),
            Document::Text(text) => self.conversation(&[Message::new("user", text)]),
            Document::Chat(turns) => self.conversation(turns),
        }
    }

    /// Hands a text to the collector as its pieces come, until there is enough.
    fn stream(&self, pieces: TextPieces, collector: &mut Collector<'_>) -> Result<()> {
        let mut stream = self.tokenizer.stream();
        let mut beginning = Beginning { prefix: &self.around.prefix, held: Some(Vec::new()) };
        collector.documents += 1;
        for piece in pieces {
            let ids = beginning.pass(stream.push(&piece?)?, false);
            collector.extend(&ids, &vec![true; ids.len()]);
            if collector.enough() {
                return Ok(());
            }
        }
        let ids = beginning.pass(stream.finish()?, true);
        collector.extend(&ids, &vec![true; ids.len()]);
        Ok(())
    }

    fn text(&self, text: &str, missing: usize) -> Result<Encoded> {
        let Affixes { prefix, suffix } = &self.around;
        let apart = self.options.concatenate && !self.one_stream && prefix.is_empty() && suffix.is_empty();
        let mut ids = self.tokenizer.encode_first(&format!("{text}{}", if apart { "\n\n" } else { "" }), missing)?;
        if self.one_stream {
            ids = Beginning { prefix, held: Some(Vec::new()) }.pass(ids, true);
        }
        let front: &[u32] = if self.one_stream || begins_itself(&ids, prefix) { &[] } else { prefix };
        // As transformers cuts: what the tokenizer adds is never cut away.
        let cut = self.cut(&mut ids, front.len() + suffix.len());
        let own = ids.len();
        let ids: Vec<u32> = front.iter().copied().chain(ids).chain(suffix.iter().copied()).collect();
        // That a document ends here is worth learning too.
        Ok(Encoded { learn: vec![true; ids.len()], ids, own, cut })
    }

    /// Shortens a document that is a sequence of its own, with room for what else is in it.
    fn cut(&self, ids: &mut Vec<u32>, others: usize) -> bool {
        let most = self.options.max_seq_length - others;
        let cut = !self.options.concatenate && ids.len() > most;
        if cut {
            ids.truncate(most);
        }
        cut
    }

    /// A rendered conversation, encoded as it stands: its template writes what belongs around it. What the assistant says is
    /// to be learned, with the token that ends its turn.
    fn conversation(&self, turns: &[Message]) -> Result<Encoded> {
        let Some(template) = self.template.filter(|_| self.options.chat_template != Toggle::Off) else {
            let why = if self.template.is_some() { "chat_template is off" } else { "the model has no chat template" };
            return Err(Error::refused(format!("the data are conversations, but {why}")).hint("give it plain text"));
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
        encoded.cut = self.cut(&mut encoded.ids, 0);
        encoded.learn.truncate(encoded.ids.len());
        encoded.own = encoded.ids.len();
        Ok(encoded)
    }

    /// Replaces the tokens by those of a longer rendering; what is new gets the given mark.
    fn extend_to(&self, text: &str, mark: bool, encoded: &mut Encoded) -> Result<()> {
        encoded.ids = self.tokenizer.encode(text, false)?;
        // A template may take something back (a generation prompt that thinks); marks never outlive their tokens.
        encoded.learn.truncate(encoded.ids.len());
        encoded.learn.resize(encoded.ids.len(), mark);
        Ok(())
    }
}

struct Collector<'a> {
    options: &'a TokenOptions,
    /// In front of each sequence.
    front: Vec<u32>,
    stream: (Vec<u32>, Vec<bool>),
    done: Vec<(Vec<u32>, Vec<bool>)>,
    documents: usize,
    truncated: usize,
    dropped: usize,
}

impl<'a> Collector<'a> {
    fn new(options: &'a TokenOptions, front: Vec<u32>) -> Self {
        Self { options, front, stream: Default::default(), done: Vec::new(), documents: 0, truncated: 0, dropped: 0 }
    }

    fn add(&mut self, document: Encoded) {
        self.documents += 1;
        let Encoded { ids, learn, own, cut } = document;
        if !self.options.concatenate {
            self.truncated += usize::from(cut);
            if own > 1 {
                self.done.push((ids, learn))
            } else {
                self.dropped += 1
            }
            return;
        }
        self.extend(&ids, &learn);
    }

    /// Goes on with the stream.
    fn extend(&mut self, ids: &[u32], learn: &[bool]) {
        self.stream.0.extend(ids);
        self.stream.1.extend(learn);
        let length = self.options.max_seq_length - self.front.len();
        let whole = self.stream.0.len() / length * length;
        if whole > 0 {
            let rest = (self.stream.0.split_off(whole), self.stream.1.split_off(whole));
            let (ids, learn) = std::mem::replace(&mut self.stream, rest);
            for (ids, learn) in ids.chunks(length).zip(learn.chunks(length)) {
                let unlearned = std::iter::repeat_n(false, self.front.len());
                self.done.push(([&self.front, ids].concat(), unlearned.chain(learn.iter().copied()).collect()));
            }
        }
    }

    /// How many tokens of the next document can matter.
    fn missing(&self) -> usize {
        let length = self.options.max_seq_length;
        match self.options.num_calibration_samples {
            // That there are more tells whether it is cut.
            _ if !self.options.concatenate => length + 1,
            Some(wanted) if !self.options.shuffle => wanted.saturating_sub(self.done.len()).saturating_mul(length),
            _ => usize::MAX,
        }
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
                    "{wanted} sequences of {} tokens of text were asked for, and the data yield {}",
                    self.options.max_seq_length - self.front.len(),
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
