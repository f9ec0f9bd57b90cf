//! What data lack, as far as a short look at them tells while the script runs: columns, and text for all of the sequences.

use crate::{
    data::{Document, documents},
    error::{Error, ErrorKind, Result},
    graph::{
        node::DataSource,
        params::{Protocol, TextOptions, TokenOptions},
    },
    words::plural,
};

/// Tokens that a byte of text can become at most. Tokenizers take several bytes for one; where normalization makes a letter longer, this
/// is on the safe side.
const TOKENS_OF_A_BYTE: usize = 2;

/// What is read of data, and how much of it there has to be.
#[derive(Clone, Copy)]
struct Demand<'a> {
    column: &'a str,
    characters: Option<usize>,
    /// Whether documents are joined and cut, or are sequences of their own.
    together: bool,
    samples: usize,
    length: usize,
}

/// Looks at data for calibration or training.
///
/// # Errors
/// The data cannot be read, or cannot be enough.
pub(super) fn for_tokens(source: &DataSource, options: &TokenOptions) -> Result<()> {
    let samples = options.num_calibration_samples.unwrap_or(1);
    let TokenOptions { text_column, characters, concatenate: together, max_seq_length: length, .. } = options;
    let (characters, together, length) = (*characters, *together, *length);
    check(source, Demand { column: text_column, characters, together, samples, length })
}

/// Looks at a text that is measured.
///
/// # Errors
/// The text cannot be read, or cannot be enough.
pub(super) fn for_text(source: &DataSource, options: &TextOptions) -> Result<()> {
    let TextOptions { protocol, text_column, characters, max_seq_length: length, blocks, .. } = options;
    // A document of any length is measured by itself, and all there are if they are fewer.
    let together = *protocol == Protocol::Blocks;
    let samples = blocks.filter(|_| together).unwrap_or(1);
    check(source, Demand { column: text_column, characters: *characters, together, samples, length: *length })
}

/// Looks at as much of the data as could be enough, so that what is certainly wrong is an error before anything runs: a line without the
/// column, fewer documents than sequences of their own, less text than the tokens that are asked for. Data that a node has yet to make
/// are looked at by the node that reads them.
fn check(source: &DataSource, demand: Demand<'_>) -> Result<()> {
    let DataSource::File(path) = source else { return Ok(()) };
    let usage = |error: Error| Error { kind: ErrorKind::Usage, ..error };
    let Demand { column, characters, together, samples, length } = demand;
    let wanted = if together { samples.saturating_mul(length) } else { samples };
    let mut found = 0_usize;
    // Always by paragraphs, so that no more is read than is looked at.
    for document in documents(source, column, characters, true).map_err(usage)? {
        let bytes = match document.map_err(usage)? {
            Document::Text(text) => text.len(),
            Document::Chat(turns) => turns.iter().map(|turn| turn.role.len() + turn.content.len()).sum(),
        };
        // A template adds to what is said, and a separator to what is written.
        found = found.saturating_add(if together { TOKENS_OF_A_BYTE * (bytes + 64) } else { 1 });
        if found >= wanted {
            return Ok(());
        }
    }
    let asked = format!("{} of {}", plural(samples, "sequence"), plural(length, "token"));
    let have = if together { "less text than that".to_owned() } else { plural(found, "document") };
    Err(Error::usage(format!("{asked} were asked for, and `{}` holds {have}", path.display()))
        .hint("ask for fewer or shorter ones, or give more data"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::params::Toggle;

    const PLAIN: Demand<'static> =
        Demand { column: "text", characters: None, together: true, samples: 1, length: 2048 };

    #[test]
    fn what_is_certainly_missing_is_found_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            DataSource::File(path)
        };
        let rows = write("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n{\"body\": \"three\"}\n");
        let apart = Demand { together: false, ..PLAIN };
        check(&rows, Demand { samples: 2, ..apart }).unwrap();
        let error = check(&rows, Demand { samples: 3, ..apart }).unwrap_err();
        assert!(error.message.ends_with("a.jsonl:3") && error.to_string().contains("no column `text`"), "{error}");
        assert_eq!(error.kind, ErrorKind::Usage);
        let error = check(&rows, Demand { column: "words", length: 4, ..PLAIN }).unwrap_err();
        assert!(error.hints[0].contains("text"), "{error}");
        let text = write("b.txt", &"word ".repeat(100));
        check(&text, Demand { samples: 4, length: 32, ..PLAIN }).unwrap();
        check(&text, Demand { length: 2, ..PLAIN }).unwrap();
        let error = check(&text, Demand { samples: 128, ..PLAIN }).unwrap_err();
        assert!(error.message.starts_with("128 sequences of 2048 tokens were asked for"), "{error}");
        assert!(check(&text, Demand { samples: 2, length: 8, ..apart }).unwrap_err().message.contains("1 document"));
    }

    #[test]
    fn a_short_text_is_enough_to_be_measured_document_by_document() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("short.txt");
        std::fs::write(&path, "a few words").unwrap();
        let source = DataSource::File(path);
        let options = TextOptions {
            protocol: Protocol::Rolling,
            max_seq_length: 2048,
            blocks: Some(9),
            add_bos: Toggle::Auto,
            text_column: "text".to_owned(),
            characters: None,
            batch_size: 1,
            task: "perplexity".to_owned(),
        };
        for_text(&source, &options).unwrap();
        for_text(&source, &TextOptions { protocol: Protocol::Blocks, ..options }).unwrap_err();
    }
}
