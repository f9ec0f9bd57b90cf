//! Sequences of long texts: the same as of the whole, and no more is read than they take.

use std::fmt::Write;

use super::*;
use crate::graph::node::DataSource;

/// Words in lines of many lengths, about so many bytes.
fn long(bytes: usize) -> String {
    let mut text = String::new();
    for i in 0_usize.. {
        if text.len() >= bytes {
            break;
        }
        let _ = write!(text, "w{}{}", 3 + i * i % 17, if i * 7 % 23 == 0 { "\n" } else { " " });
    }
    text
}

fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, DataSource) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, DataSource::File(path))
}

#[test]
fn a_text_in_pieces_yields_the_sequences_of_the_whole() {
    let (tokenizer, text) = (words(&[0], &[], None), long(450_000));
    let (_folder, source) = file("long.txt", text.as_bytes());
    for (characters, wanted, shuffle) in [
        (None, None, false),
        (Some(300_001), None, false),
        (None, Some(9), false),
        (None, Some(9), true),
        (Some(99), Some(1), false),
    ] {
        let asked = TokenOptions { characters, num_calibration_samples: wanted, shuffle, ..options(16, true) };
        let found = sequences(&source, &asked, &tokenizer, None).unwrap();
        // By hand: all tokens of the characters, cut into fifteens behind a BOS.
        let part: String = text.chars().take(characters.unwrap_or(usize::MAX)).collect();
        let ids = tokenizer.encode(&part, false).unwrap();
        let all: Vec<Vec<u32>> = ids.chunks_exact(15).map(|ids| [&[0], ids].concat()).collect();
        match shuffle {
            false => assert_eq!(found.ids, all[..wanted.unwrap_or(all.len())], "{characters:?} {wanted:?}"),
            true => assert!(found.ids.len() == 9 && found.ids.iter().all(|ids| all.contains(ids))),
        }
        assert_eq!(found.facts["documents_read"], 1);
        let tail = if wanted.is_none() { ids.len() % 15 } else { 0 };
        assert_eq!(found.facts["tail_tokens_dropped"], tail);
    }
}

/// Behind the first megabyte of these files stands what nobody could read.
#[test]
fn what_is_not_needed_is_not_read() {
    let tokenizer = words(&[0], &[], None);
    let broken = [long(1 << 20).as_bytes(), b"\xff"].concat();
    let (_folder, source) = file("broken.txt", &broken);
    let first = TokenOptions { num_calibration_samples: Some(4), ..options(2048, true) };
    assert_eq!(sequences(&source, &first, &tokenizer, None).unwrap().ids.len(), 4);
    for needs_all in [options(2048, true), TokenOptions { shuffle: true, ..first.clone() }] {
        let error = sequences(&source, &needs_all, &tokenizer, None).unwrap_err();
        assert!(error.message.ends_with(&format!("byte {}", broken.len() - 1)), "{error}");
    }
    let paragraphs = TokenOptions { num_calibration_samples: Some(3), ..options(8, false) };
    let (_folder, source) = file("paragraphs.txt", &[b"w3 w4\n\nw5 w6\n\nw7 w8\n\n", &broken[..]].concat());
    assert_eq!(sequences(&source, &paragraphs, &tokenizer, None).unwrap().ids, [[0, 3, 4], [0, 5, 6], [0, 7, 8]]);
    let (_folder, source) = file("rows.jsonl", b"{\"text\": \"w3 w4\"}\n{\"text\": \"w5 w6 w7\"}\nno row\n");
    let rows = TokenOptions { num_calibration_samples: Some(1), ..options(4, true) };
    assert_eq!(sequences(&source, &rows, &tokenizer, None).unwrap().ids, [[0, 3, 4, 0]]);
}

/// The beginning of a long document is that of all its tokens, and that it was cut is noted.
#[test]
fn long_documents_are_cut_as_if_they_were_encoded_whole() {
    let (tokenizer, text) = (words(&[0], &[], None), long(600_000));
    let documents = [Document::Text(text.clone()), Document::Text(text[..30].to_owned())];
    let expected = tokenizer.encode(&text[..2000], false).unwrap();
    let found = made(&documents, false, &options(100, false), &tokenizer);
    assert_eq!(found.ids[0], [&[0], &expected[..99]].concat());
    assert_eq!((found.ids.len(), &found.facts["documents_truncated"]), (2, &json!(1)));
    let wanted = TokenOptions { num_calibration_samples: Some(2), ..options(100, true) };
    let found = made(&documents, false, &wanted, &tokenizer);
    assert_eq!(found.ids.concat(), [&[0], &expected[..199]].concat());
}
