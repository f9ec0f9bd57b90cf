//! Prompts as tokens, for a model that learns from what it writes.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Map, Value, json};
use workbench_model::tokenizer::{ChatTemplate, Message, Tokenizer};

use super::{Document, Prompt, affixes, begins_itself, prompts};
use crate::{
    error::{Error, Result},
    graph::{
        node::DataSource,
        params::{Toggle, TokenOptions},
    },
};

/// What a conversation's last turn is kept as, where the assistant has it.
const ANSWER: &str = "answer";

/// A prompt in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPrompt {
    pub ids: Vec<u32>,
    /// As it is written for the model.
    pub text: String,
    /// The row that it was made of; of a text without rows nothing.
    pub row: Map<String, Value>,
}

/// Prompts, and what the record says about them.
#[derive(Clone, Debug, Default)]
pub struct EncodedPrompts {
    pub all: Vec<EncodedPrompt>,
    pub facts: Value,
}

/// Reads prompts. A text goes on where it ends, behind what the tokenizer puts in front of texts; with `chat_template` it is what a user
/// says. Of a conversation all turns are the prompt but a last one of the assistant, which becomes the row's `answer` where it has none.
/// None is cut: those that are longer than `max_seq_length` are left out, and counted.
///
/// # Errors
/// Unreadable data; fewer prompts than asked for, or none; a conversation for a model without a chat template.
pub fn encoded_prompts(
    source: &DataSource,
    options: &TokenOptions,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<EncodedPrompts> {
    let writer = Writer { prefix: affixes(tokenizer, options.add_bos)?.prefix, options, tokenizer, template };
    let (mut all, mut too_long, mut read) = (Vec::new(), 0_usize, 0_usize);
    let wanted = options.num_calibration_samples;
    for found in prompts(source, &options.text_column, options.characters)? {
        let found = found?;
        read += 1;
        let place = found.place.clone();
        let prompt = writer.encoded(found).map_err(|error| error.context(place))?;
        if prompt.ids.len() > options.max_seq_length {
            too_long += 1;
            continue;
        }
        all.push(prompt);
        if !options.shuffle && wanted.is_some_and(|wanted| all.len() >= wanted) {
            break;
        }
    }
    if options.shuffle {
        all.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed.unwrap_or(0)));
    }
    if let Some(wanted) = wanted {
        if all.len() < wanted {
            let message = format!("{wanted} prompts were asked for, and the data yield {}", all.len());
            return Err(Error::refused(message).hint("ask for fewer, or give more data"));
        }
        all.truncate(wanted);
    }
    if all.is_empty() {
        return Err(match too_long {
            0 => Error::refused("the data hold no prompt"),
            _ => Error::refused(format!(
                "no prompt fits into {} tokens: all {too_long} are longer",
                options.max_seq_length
            ))
            .hint("raise max_seq_length, or give shorter prompts"),
        });
    }
    let facts = json!({
        "prompts": all.len(),
        "tokens": all.iter().map(|prompt| prompt.ids.len()).sum::<usize>(),
        "rows_read": read,
        "prompts_too_long": too_long,
        "first_prompt": all.first().map(|prompt| prompt.text.chars().take(500).collect::<String>()),
    });
    Ok(EncodedPrompts { all, facts })
}

struct Writer<'a> {
    /// In front of a text.
    prefix: Vec<u32>,
    options: &'a TokenOptions,
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
}

impl Writer<'_> {
    fn encoded(&self, prompt: Prompt) -> Result<EncodedPrompt> {
        let Prompt { mut row, begins, answer, .. } = prompt;
        if let Some(answer) = answer {
            row.entry(ANSWER).or_insert(Value::String(answer));
        }
        let turns = match begins {
            Document::Text(text) if self.options.chat_template != Toggle::On => {
                let mut ids = self.tokenizer.encode(&text, false)?;
                if !begins_itself(&ids, &self.prefix) {
                    ids.splice(..0, self.prefix.iter().copied());
                }
                if ids.is_empty() {
                    return Err(Error::refused("the prompt is empty").hint("add_bos: true begins with a token"));
                }
                return Ok(EncodedPrompt { ids, text, row });
            }
            Document::Text(text) => vec![Message::new("user", &text)],
            Document::Chat(turns) => turns,
        };
        let Some(template) = self.template.filter(|_| self.options.chat_template != Toggle::Off) else {
            let why = if self.template.is_some() { "chat_template is off" } else { "the model has no chat template" };
            return Err(Error::refused(format!("the prompts are conversations, but {why}")).hint("give it plain text"));
        };
        let text = template.render(&turns, true, &Map::new())?;
        Ok(EncodedPrompt { ids: self.tokenizer.encode(&text, false)?, text, row })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use workbench_model::ModelConfig;

    use super::*;

    fn demo() -> (Tokenizer, ChatTemplate) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo/model");
        let config = serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
        let config = ModelConfig::from_json(&config, &folder.join("config.json")).unwrap();
        let template = ChatTemplate::from_folder(&folder).unwrap().unwrap();
        (Tokenizer::from_folder(&folder, &config).unwrap(), template)
    }

    fn options(change: impl FnOnce(&mut TokenOptions)) -> TokenOptions {
        let mut options = TokenOptions {
            num_calibration_samples: None,
            max_seq_length: 64,
            shuffle: false,
            seed: None,
            concatenate: false,
            text_column: "prompt".to_owned(),
            add_bos: Toggle::Auto,
            chat_template: Toggle::Auto,
            characters: None,
        };
        change(&mut options);
        options
    }

    fn read(lines: &str, options: &TokenOptions) -> Result<EncodedPrompts> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, lines).unwrap();
        let (tokenizer, template) = demo();
        encoded_prompts(&DataSource::File(path), options, &tokenizer, Some(&template))
    }

    #[test]
    fn texts_and_conversations_are_prompts_beside_their_rows() {
        let lines = r#"{"prompt": "Question: who?\nAnswer:", "answer": 4, "other": [1]}
{"prompt": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the fox"}], "n": 1}
{"prompt": [{"role": "user", "content": "why?"}], "answer": "no"}
"#;
        let (tokenizer, template) = demo();
        let found = read(lines, &options(|_| ())).unwrap();
        assert_eq!(found.facts["prompts"], 3);
        let [text, told, asked] = found.all.as_slice() else { panic!("three prompts") };
        // As the tokenizer begins a text, and nothing behind it.
        let alone = tokenizer.encode("Question: who?\nAnswer:", false).unwrap();
        assert_eq!(text.ids, [&[tokenizer.bos_id().unwrap()][..], &alone].concat());
        assert_eq!((&text.row["answer"], &text.row["other"]), (&json!(4), &json!([1])));
        let rendered = template.render(&[Message::new("user", "who?")], true, &Map::new()).unwrap();
        assert_eq!((&told.text, &told.ids), (&rendered, &tokenizer.encode(&rendered, false).unwrap()));
        assert_eq!((&told.row["answer"], &told.row["n"]), (&json!("the fox"), &json!(1)));
        assert_eq!(asked.row["answer"], "no");
        let chat = read(lines.lines().next().unwrap(), &options(|o| o.chat_template = Toggle::On)).unwrap();
        assert!(chat.all[0].text.contains("Question: who?") && chat.all[0].text.len() > text.text.len());
    }

    #[test]
    fn prompts_are_left_out_and_never_cut() {
        let long = "the fox ran over a hill ".repeat(30);
        let lines = format!("{{\"prompt\": \"{long}\"}}\n{{\"prompt\": \"the fox\"}}\n{{\"prompt\": \"a hill\"}}\n");
        let found = read(&lines, &options(|_| ())).unwrap();
        assert_eq!((found.all.len(), &found.facts["prompts_too_long"]), (2, &json!(1)));
        assert_eq!(found.all[0].text, "the fox");
        let first = read(&lines, &options(|o| o.num_calibration_samples = Some(1))).unwrap();
        assert_eq!(first.all[0].text, "the fox");
        let error = |lines: &str, options: TokenOptions| read(lines, &options).unwrap_err().to_string();
        assert!(error(&lines, options(|o| o.num_calibration_samples = Some(3))).contains("the data yield 2"));
        assert!(error(lines.lines().next().unwrap(), options(|_| ())).contains("no prompt fits into 64 tokens"));
        let wrong = error("{\"prompt\": \"\"}\n", options(|o| o.add_bos = Toggle::Off));
        assert!(wrong.contains("a.jsonl:1") && wrong.contains("is empty"), "{wrong}");
        let alone = r#"{"prompt": [{"role": "assistant", "content": "x"}]}"#;
        assert!(
            error(alone, options(|_| ())).contains("no turn that could be answered"),
            "{}",
            error(alone, options(|_| ()))
        );
    }
}
