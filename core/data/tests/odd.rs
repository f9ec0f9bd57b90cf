//! Tables of odd texts, and of what is no table any more: every row comes back as it was written, or there is an error.

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{error::Result, graph::node::DataSource};

const PARTS: [&str; 18] =
    ["a", "bc ", "\"", "\"\"", ",", "\t", "\n", "\r", "\r\n", "é", "\u{feff}", "\0", " ", "{", "]", "\\", "'", "null"];
const ENDS: [&str; 3] = ["\n", "\r\n", "\r"];

fn text(random: &mut ChaCha8Rng) -> String {
    let parts = random.random_range(1..8);
    (0..parts).filter_map(|_| PARTS.choose(random)).copied().collect()
}

/// A table with these texts, in a way that a writer of such files may have.
fn written(name: &str, texts: &[String], random: &mut ChaCha8Rng) -> String {
    let end = *ENDS.choose(random).unwrap();
    let mark = if random.random_bool(0.2) { "\u{feff}" } else { "" };
    let last = if random.random_bool(0.5) { end } else { "" };
    let cell = |text: &str, always: bool| {
        let quoted = always || text.contains(['"', ',', '\t', '\n', '\r']);
        if quoted { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
    };
    let rows: Vec<String> = match name {
        "a.csv" | "a.tsv" => {
            let between = if name == "a.csv" { ',' } else { '\t' };
            let row = |(n, text): (usize, &String)| format!("{n}{between}{}", cell(text, random.random_bool(0.5)));
            std::iter::once(format!("id{between}text")).chain(texts.iter().enumerate().map(row)).collect()
        }
        _ => texts.iter().map(|text| json!({ "id": 1, "text": text }).to_string()).collect(),
    };
    match name {
        "a.json" => format!("{mark}[{}]{last}", rows.join(&format!(",{end}"))),
        _ => format!("{mark}{}{last}", rows.join(end)),
    }
}

fn read(path: &Path) -> Result<Vec<Document>> {
    documents(&DataSource::File(path.to_owned()), "text", None, true)?.collect()
}

#[test]
fn odd_texts_come_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for name in ["a.csv", "a.tsv", "a.jsonl", "a.json"] {
        let path = folder.path().join(name);
        let mut came_back = 0;
        for _ in 0..600 {
            let texts: Vec<String> = (0..random.random_range(1..6)).map(|_| text(&mut random)).collect();
            let table = written(name, &texts, &mut random);
            std::fs::write(&path, &table).unwrap();
            match read(&path) {
                Ok(found) => {
                    let wanted: Vec<Document> = texts.iter().map(|text| Document::Text(text.clone())).collect();
                    assert_eq!(found, wanted, "{name}: {table:?}");
                    came_back += 1;
                }
                // So many are no text.
                Err(error) => assert!(error.to_string().contains("NUL"), "{name}: {table:?}: {error}"),
            }
        }
        assert!(came_back > 500, "{name}: {came_back}");
    }
}

#[test]
fn damaged_tables_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(8);
    for name in ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"] {
        let path = folder.path().join(name);
        let mut refused = 0;
        for _ in 0..600 {
            let texts: Vec<String> = (0..random.random_range(1..6)).map(|_| text(&mut random)).collect();
            let mut bytes = written(name, &texts, &mut random).into_bytes();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..3) {
                    0 => bytes[at] = random.random(),
                    1 => bytes.truncate(at + 1),
                    _ => bytes.insert(at, *b"\"{},\r\n\xff\0".choose(&mut random).unwrap()),
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            refused += usize::from(read(&path).is_err());
        }
        assert!(refused > 0, "{name}");
    }
}
