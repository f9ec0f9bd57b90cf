//! What a training begins with, for people to look at.

use serde_json::{Value, json};
use workbench_model::Tokenizer;

use crate::{data::Sequences, error::Result};

/// Tokens that are kept of it.
const TOKENS: usize = 200;

/// The text of the first sequence in pieces, each with whether it is learned: predicted, and counted in the loss. Nothing stands
/// before the first token that it could be predicted from. `learn` is the trainer's parameter of that name, if it has one: `all` and
/// `last` say otherwise than the data.
///
/// # Errors
/// The tokenizer does not know a token.
pub(super) fn first_sequence(data: &Sequences, tokenizer: &Tokenizer, learn: Option<&str>) -> Result<Value> {
    let (Some(ids), Some(marked)) = (data.ids.first(), data.learn.first()) else { return Ok(Value::Null) };
    let shown = ids.len().min(TOKENS);
    let learned = |at: usize| match learn {
        Some("all") => at > 0,
        Some("last") => at > 0 && at + 1 == ids.len(),
        _ => at > 0 && marked.get(at).copied().unwrap_or(false),
    };
    let ends = (1..=shown).filter(|end| *end == shown || learned(*end) != learned(end - 1));
    let (mut pieces, mut begin, mut before) = (Vec::new(), 0, String::new());
    for end in ends {
        let so_far = tokenizer.decode(&ids[..end], false)?;
        let text = match so_far.strip_prefix(&before) {
            Some(text) => text.to_owned(),
            // A character lies across the border.
            None => tokenizer.decode(&ids[begin..end], false)?,
        };
        pieces.push(json!({ "text": text, "learned": learned(begin) }));
        (begin, before) = (end, so_far);
    }
    Ok(json!({ "tokens": ids.len(), "shown": shown, "pieces": pieces }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn pieces_make_up_the_text_and_say_what_is_learned() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo/model");
        let config = serde_json::from_str(&std::fs::read_to_string(demo.join("config.json")).unwrap()).unwrap();
        let config = workbench_model::ModelConfig::from_json(&config, &demo.join("config.json")).unwrap();
        let tokenizer = Tokenizer::from_folder(&demo, &config).unwrap();
        let text = "the fox ran over a hill and sang to old Mira";
        let ids = tokenizer.encode(text, false).unwrap();
        assert!(ids.len() > 6, "{ids:?}");
        let mut learn = vec![true; ids.len()];
        learn[2] = false;
        learn[3] = false;
        let data = Sequences { ids: vec![ids.clone(), vec![1]], learn: vec![learn, vec![true]], facts: Value::Null };
        let found = first_sequence(&data, &tokenizer, Some("assistant")).unwrap();
        let pieces = found["pieces"].as_array().unwrap();
        let whole: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
        assert_eq!(whole, tokenizer.decode(&ids, false).unwrap());
        let flags: Vec<bool> = pieces.iter().map(|piece| piece["learned"].as_bool().unwrap()).collect();
        assert_eq!(flags, [false, true, false, true]);
        assert_eq!(pieces[2]["text"], tokenizer.decode(&ids[2..4], false).unwrap());
        assert_eq!((&found["tokens"], &found["shown"]), (&json!(ids.len()), &json!(ids.len())));

        let flags = |learn: &str| {
            let found = first_sequence(&data, &tokenizer, Some(learn)).unwrap();
            let pieces = found["pieces"].as_array().unwrap().iter();
            pieces.map(|piece| piece["learned"].as_bool().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((flags("all"), flags("last")), (vec![false, true], vec![false, true]));

        let long = Sequences { ids: vec![[ids[0]].repeat(500)], learn: vec![vec![false; 500]], facts: Value::Null };
        let found = first_sequence(&long, &tokenizer, None).unwrap();
        assert_eq!((&found["tokens"], &found["shown"]), (&json!(500), &json!(TOKENS)));
        assert_eq!(found["pieces"].as_array().unwrap().len(), 1);
        assert_eq!(first_sequence(&Sequences::default(), &tokenizer, None).unwrap(), Value::Null);
    }
}
