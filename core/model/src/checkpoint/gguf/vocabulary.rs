//! The tokenizer in a GGUF file's metadata, as the `tokenizer.json` and `tokenizer_config.json` of a model folder.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::header::Meta;
use super::metadata::token;
use crate::ModelError;

/// Kinds of token, as `tokenizer.ggml.token_type` numbers them.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// What splits text before byte-level merges, for each value of `tokenizer.ggml.pre` that is known to agree with the
/// model's own tokenizer. Another value is an error: splitting by the wrong rule gives other tokens for the same text.
enum Split {
    /// The GPT-2 pattern.
    Gpt2,
    /// Each digit alone, then the GPT-2 pattern.
    Gpt2Digits,
    /// A pattern of its own, with digits in runs of at most this many.
    Digits(usize),
}

/// Keys that are read, or say how much of something there is.
const KNOWN: [&str; 7] = ["model", "pre", "tokens", "token_type", "token_type_count", "scores", "merges"];

/// The tokenizer's part of the metadata.
pub(crate) struct Vocabulary<'a> {
    metadata: &'a BTreeMap<String, Meta>,
    file: &'a Path,
    tokens: Vec<&'a str>,
    kinds: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
    /// `None` where the file has no tokenizer.
    pub(crate) fn read(metadata: &'a BTreeMap<String, Meta>, file: &'a Path) -> Result<Option<Self>, ModelError> {
        let key = "tokenizer.ggml.tokens";
        let Some(list) = metadata.get(key) else { return Ok(None) };
        let tokens =
            texts(list).ok_or_else(|| ModelError::file(file, format!("`{key}` is not a list of texts"), ""))?;
        let kinds = match metadata.get("tokenizer.ggml.token_type") {
            None => vec![1; tokens.len()],
            Some(kinds) => kinds_of(kinds).ok_or_else(|| {
                ModelError::file(file, "`tokenizer.ggml.token_type` is not a list of kinds from 1 to 6", "")
            })?,
        };
        if kinds.len() != tokens.len() {
            let message =
                format!("`tokenizer.ggml.token_type` has {} entries for {} tokens", kinds.len(), tokens.len());
            return Err(ModelError::file(file, message, ""));
        }
        let vocabulary = Self { metadata, file, tokens, kinds };
        vocabulary.refuse_unknown()?;
        Ok(Some(vocabulary))
    }

    /// Refuses ids that name no token, and what would change tokens without a word.
    fn refuse_unknown(&self) -> Result<(), ModelError> {
        let own = self.metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix("tokenizer.ggml.")?, value)));
        for (key, value) in own {
            let idle = match key {
                // Only the reader's own padding would use it; files with a wrong one are about.
                "padding_token_id" => true,
                "add_bos_token" | "add_eos_token" | "add_space_prefix" => value.as_bool().is_some(),
                "add_sep_token" | "remove_extra_whitespaces" => *value == Meta::Bool(false),
                "precompiled_charsmap" => value.as_list().is_some_and(<[_]>::is_empty),
                _ if key.ends_with("_token_id") => {
                    token(self.metadata, key, self.tokens.len(), self.file)?;
                    true
                }
                _ => KNOWN.contains(&key),
            };
            if !idle {
                let message = format!("`tokenizer.ggml.{key}` ({value}) is not known and could change the tokens");
                return Err(ModelError::file(self.file, message, "use the model's safetensors folder"));
            }
        }
        Ok(())
    }

    /// The content of `tokenizer.json`.
    pub(crate) fn tokenizer_json(&self) -> Result<Value, ModelError> {
        let parts = match self.text("model").unwrap_or_default() {
            "gpt2" => self.byte_level()?,
            "llama" => self.sentencepiece()?,
            other => {
                let message = format!("its tokenizer is of the unsupported kind `{other}`");
                return Err(ModelError::file(self.file, message, "supported are gpt2 (byte-level BPE) and llama"));
            }
        };
        let mut tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added_tokens(), "post_processor": self.post_processor(parts.adds_bos)});
        for (key, value) in [
            ("normalizer", parts.normalizer),
            ("pre_tokenizer", parts.pre_tokenizer),
            ("decoder", parts.decoder),
            ("model", parts.model),
        ] {
            tokenizer[key] = value;
        }
        Ok(tokenizer)
    }

    /// The content of `tokenizer_config.json`, the chat template included.
    pub(crate) fn tokenizer_config(&self) -> Value {
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        for (key, id) in [
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        ] {
            let Some(id) = self.id(id).filter(|id| *id < self.tokens.len()) else { continue };
            // A name makes a token special. Many files name a wrong token for padding (0, a letter), which texts hold.
            if !matches!(key, "pad_token" | "unk_token") || self.is_added(id) {
                config.insert(key.into(), json!(self.tokens[id]));
            }
        }
        if let Some(template) = self.metadata.get("tokenizer.chat_template").and_then(Meta::as_str) {
            config.insert("chat_template".into(), json!(template));
        }
        Value::Object(config)
    }

    /// The content of `generation_config.json`: the tokens at which generation stops.
    pub(crate) fn generation_config(&self) -> Value {
        let mut stops = Vec::new();
        for id in ["eos_token_id", "eot_token_id", "eom_token_id"].into_iter().filter_map(|key| self.id(key)) {
            if !stops.contains(&id) {
                stops.push(id);
            }
        }
        json!({"bos_token_id": self.id("bos_token_id"), "eos_token_id": stops})
    }

    fn get(&self, key: &str) -> Option<&'a Meta> {
        self.metadata.get(&format!("tokenizer.ggml.{key}"))
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Meta::as_str)
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Meta::as_bool).unwrap_or(default)
    }

    fn id(&self, key: &str) -> Option<usize> {
        self.get(key).and_then(Meta::as_u64).and_then(|id| usize::try_from(id).ok())
    }

    fn vocab(&self) -> Result<HashMap<&'a str, usize>, ModelError> {
        let mut vocab = HashMap::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(other) = vocab.insert(*token, id) {
                let message = format!("its vocabulary spells ids {other} and {id} alike, `{token}`");
                return Err(ModelError::file(self.file, message, ""));
            }
        }
        Ok(vocab)
    }

    fn vocab_json(&self) -> Result<Value, ModelError> {
        self.vocab()?;
        Ok(self
            .tokens
            .iter()
            .enumerate()
            .map(|(id, token)| ((*token).to_owned(), json!(id)))
            .collect::<Map<_, _>>()
            .into())
    }

    /// Whether a token is one of its own in every text, by its kind.
    fn is_added(&self, id: usize) -> bool {
        matches!(self.kinds[id], UNKNOWN | CONTROL | USER_DEFINED)
    }

    fn added_tokens(&self) -> Value {
        let added = self.kinds.iter().zip(&self.tokens).enumerate().filter(|(id, _)| self.is_added(*id));
        added
            .map(|(id, (kind, token))| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind != USER_DEFINED})
            })
            .collect()
    }

    /// Puts BOS before a text and EOS behind it where the model was trained so.
    fn post_processor(&self, adds_bos: bool) -> Value {
        let named = |id: &str, key: &str, default: bool| {
            let (id, adds) = (self.id(id)?, self.flag(key, default));
            self.tokens.get(id).filter(|_| adds).map(|token| (id, *token))
        };
        let bos = named("bos_token_id", "add_bos_token", adds_bos);
        let eos = named("eos_token_id", "add_eos_token", false);
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let special =
            |token: Option<(usize, &str)>| token.map(|(_, token)| json!({"SpecialToken": {"id": token, "type_id": 0}}));
        let text = |id: &str| {
            let sequence = Some(json!({"Sequence": {"id": id, "type_id": 0}}));
            [special(bos), sequence, special(eos)].into_iter().flatten()
        };
        let tokens = [bos, eos].into_iter().flatten();
        let tokens = tokens.map(|(id, token)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})));
        json!({"type": "TemplateProcessing",
            "single": text("A").collect::<Vec<_>>(),
            "pair": text("A").chain(text("B")).collect::<Vec<_>>(),
            "special_tokens": tokens.collect::<Map<_, _>>()})
    }

    fn byte_level(&self) -> Result<Parts, ModelError> {
        let key = "tokenizer.ggml.merges";
        let merges = self.get("merges").and_then(texts);
        let merges =
            merges.ok_or_else(|| ModelError::file(self.file, format!("`{key}` is not a list of texts"), ""))?;
        let merges = merges.into_iter().map(|merge| {
            let pair = merge.split_once(' ');
            pair.map(|(left, right)| json!([left, right]))
                .ok_or_else(|| ModelError::file(self.file, format!("`{key}` holds `{merge}`, which is no pair"), ""))
        });
        let merges = merges.collect::<Result<Vec<_>, _>>()?;
        let pre = self.text("pre").unwrap_or("missing");
        let (split, llama3, normalizer) = match pre {
            "gpt-2" => (Split::Gpt2, false, Value::Null),
            "smollm" | "starcoder" | "refact" | "command-r" => (Split::Gpt2Digits, false, Value::Null),
            "qwen2" | "deepseek-r1-qwen" => (Split::Digits(1), false, json!({"type": "NFC"})),
            "llama-bpe" | "llama3" | "llama-v3" => (Split::Digits(3), true, Value::Null),
            other => {
                let message = format!("its tokenizer splits text by the unknown rule `{other}` (`tokenizer.ggml.pre`)");
                return Err(ModelError::file(self.file, message, "known are gpt-2, smollm, qwen2 and llama-bpe"));
            }
        };
        Ok(Parts {
            normalizer,
            pre_tokenizer: split.pre_tokenizer(),
            decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            model: json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": llama3,
                "vocab": self.vocab_json()?, "merges": merges}),
            adds_bos: llama3,
        })
    }

    fn sentencepiece(&self) -> Result<Parts, ModelError> {
        let prefix = self.flag("add_space_prefix", true);
        let replace = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content});
        let mut normalizers = vec![replace(" ", "▁")];
        let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.id("unknown_token_id").or_else(|| self.kinds.iter().position(|kind| *kind == UNKNOWN));
        Ok(Parts {
            normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
            pre_tokenizer: Value::Null,
            decoder: json!({"type": "Sequence", "decoders": decoders}),
            model: json!({"type": "BPE", "dropout": null, "unk_token": unknown.and_then(|id| self.tokens.get(id)),
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
                "ignore_merges": false, "vocab": self.vocab_json()?, "merges": self.merges_of_scores()?}),
            adds_bos: true,
        })
    }

    /// SentencePiece merges the pair whose union scores highest; a list of merges in falling order of that score, every
    /// way to split a token included, decides the same.
    fn merges_of_scores(&self) -> Result<Value, ModelError> {
        let key = "tokenizer.ggml.scores";
        let scores = self.get("scores").and_then(Meta::as_list).unwrap_or_default();
        let scores = scores.iter().filter_map(Meta::as_f64).filter(|score| score.is_finite()).collect::<Vec<_>>();
        if scores.len() != self.tokens.len() {
            let message = format!("`{key}` has {} finite numbers for {} tokens", scores.len(), self.tokens.len());
            return Err(ModelError::file(self.file, message, ""));
        }
        let vocab = self.vocab()?;
        let mut merges = Vec::new();
        for (token, score) in self.tokens.iter().zip(scores) {
            let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let known = splits.filter_map(|(left, right)| Some((*vocab.get(left)?, *vocab.get(right)?, left, right)));
            merges.extend(known.map(|(left_id, right_id, left, right)| (score, left_id, right_id, left, right)));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        Ok(merges.into_iter().map(|(.., left, right)| json!([left, right])).collect())
    }
}

/// The parts of a tokenizer in which the kinds differ.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// Whether this kind puts BOS before a text unless the metadata says otherwise.
    adds_bos: bool,
}

impl Split {
    fn pre_tokenizer(&self) -> Value {
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let steps = match self {
            Self::Gpt2 => return byte_level(true),
            Self::Gpt2Digits => [json!({"type": "Digits", "individual_digits": true}), byte_level(true)],
            Self::Digits(longest) => {
                let digits = if *longest == 1 { r"\p{N}".to_owned() } else { format!(r"\p{{N}}{{1,{longest}}}") };
                let pattern = [
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
                    r"[^\r\n\p{L}\p{N}]?\p{L}+",
                    &digits,
                    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
                    r"\s*[\r\n]+",
                    r"\s+(?!\S)",
                    r"\s+",
                ]
                .join("|");
                let split =
                    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
                [split, byte_level(false)]
            }
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

fn texts(list: &Meta) -> Option<Vec<&str>> {
    list.as_list()?.iter().map(Meta::as_str).collect()
}

/// `None` unless every kind is one that exists: normal, unknown, control, user-defined, unused, byte.
fn kinds_of(list: &Meta) -> Option<Vec<u64>> {
    list.as_list()?.iter().map(|kind| kind.as_u64().filter(|kind| (1..=6).contains(kind))).collect()
}
