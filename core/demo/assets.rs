//! The demo's files: tokenizer, configuration and tasks, made anew from the world, byte for byte.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split as SplitBy, SplitPattern},
    },
    processors::template::TemplateProcessing,
    tokenizer::SplitDelimiterBehavior,
};

use super::{Split, chat, document, names, tasks};

/// What can go wrong with the demo.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// No text has this name.
    #[error("the demo has no text `{0}`")]
    UnknownText(String),
    /// The tokenizer could not be made.
    #[error("failed to train the demo's tokenizer: {0}")]
    Tokenizer(String),
    /// A file could not be written.
    #[error("failed to write `{}`: {error}", .file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl DemoError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownText(_) => {
                Some(format!("its texts are {}", names().map(|name| format!("`demo:{name}`")).join(", ")))
            }
            Self::Tokenizer(_) | Self::Write { .. } => None,
        }
    }
}

/// Size of the vocabulary, special tokens included.
const VOCABULARY: usize = 2048;
/// Documents that the tokenizer is trained on: the first of the train split.
const TOKENIZER_DOCUMENTS: u64 = 20_000;
/// Begins every document, and ends one.
const END_OF_TEXT: &str = "<|endoftext|>";
const TURN_START: &str = "<|im_start|>";
const TURN_END: &str = "<|im_end|>";

/// Qwen2's rule for cutting text into words before byte pairs are merged: contractions, words with the character in front,
/// single digits, punctuation, white space.
const WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// ChatML: each turn between its tokens, the role on the first line.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Writes the demo's files under a folder (`experiments/demo` in the project): `model/` without weights, and `tasks/`. Returns
/// the files, which are the same bytes every time.
///
/// # Errors
/// [`DemoError::Write`] with the file.
pub fn write_assets(folder: &Path) -> Result<Vec<PathBuf>, DemoError> {
    assets()?
        .into_iter()
        .map(|(name, contents)| {
            let file = folder.join(name);
            let write = || {
                file.parent().map_or(Ok(()), fs::create_dir_all)?;
                fs::write(&file, contents)
            };
            write().map_err(|error| DemoError::Write { file: file.clone(), error })?;
            Ok(file)
        })
        .collect()
}

/// The files, as (path below the demo's folder, contents).
pub(crate) fn assets() -> Result<Vec<(String, String)>, DemoError> {
    let mut files = vec![("model/tokenizer.json".to_owned(), tokenizer()?)];
    for (name, value) in
        [("tokenizer_config", tokenizer_config()), ("config", config()), ("generation_config", generation_config())]
    {
        files.push((format!("model/{name}.json"), format!("{value:#}\n")));
    }
    let own = tasks::files().into_iter().map(|(name, contents)| (name.to_owned(), contents));
    let all = own.chain(chat::tasks::files());
    files.extend(all.map(|(name, contents)| (format!("tasks/{name}"), contents)));
    Ok(files)
}

/// Trains the byte-level BPE on the first documents of the train split.
fn tokenizer() -> Result<String, DemoError> {
    let fault = |error: tokenizers::Error| DemoError::Tokenizer(error.to_string());
    let specials = [END_OF_TEXT, TURN_START, TURN_END];
    let mut tokenizer = Tokenizer::new(ModelWrapper::BPE(BPE::default()));
    let words =
        SplitBy::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Isolated, false).map_err(fault)?;
    let bytes = ByteLevel::new(false, false, false);
    let steps = vec![PreTokenizerWrapper::Split(words), PreTokenizerWrapper::ByteLevel(bytes)];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::default())));
    let mut trainer = TrainerWrapper::BpeTrainer(
        BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(VOCABULARY)
            .special_tokens(specials.map(|token| AddedToken::from(token, true)).to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build(),
    );
    // Special tokens in the text would otherwise be learned as if they were words.
    let between = |index| {
        let document = document(Split::Train, index);
        document.split(TURN_START).flat_map(|turn| turn.split(TURN_END)).map(str::to_owned).collect::<Vec<_>>()
    };
    tokenizer.train(&mut trainer, (0..TOKENIZER_DOCUMENTS).flat_map(between)).map_err(fault)?;
    let begin = TemplateProcessing::builder()
        .try_single(format!("{END_OF_TEXT} $A"))
        .and_then(|builder| builder.try_pair(format!("{END_OF_TEXT} $A {END_OF_TEXT} $B:1")))
        .map_err(DemoError::Tokenizer)?
        .special_tokens(vec![(END_OF_TEXT, 0)])
        .build()
        .map_err(|error| DemoError::Tokenizer(error.to_string()))?;
    tokenizer.with_post_processor(Some(PostProcessorWrapper::Template(begin)));
    let json = tokenizer.to_string(false).map_err(fault)?;
    Ok(json + "\n")
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": true,
        "add_prefix_space": false,
        "bos_token": END_OF_TEXT,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 1024,
        "chat_template": CHAT_TEMPLATE,
    })
}

/// A Qwen3 of 4.1 million parameters. The widths are multiples of 128, so that every usual group size divides them.
fn config() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "tie_word_embeddings": true,
        "initializer_range": 0.02,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "use_cache": true,
        "use_sliding_window": false,
        "torch_dtype": "bfloat16",
    })
}

fn generation_config() -> Value {
    json!({ "bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": false })
}
