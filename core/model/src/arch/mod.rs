//! What the families of decoders look like: the one place where modules and tensors have names.
//!
//! A family is a file that says what it is called and how its configuration is read; what a configuration then means is laid out
//! in `block`: for each block its tensors, its linears with the site that each reads, the pairs between which a scale can move.
//! The decoder, calibration, the writer, GGUF, selectors and, through their jobs, plugins go by that layout, so that a family that
//! consists of known parts is one more file here and a line in [`Architecture`].

mod block;
pub(crate) mod experts;
mod family;
pub(crate) mod gguf;
mod gpt_oss;
mod llama;
mod names;
mod pairs;
mod qwen2;
mod qwen3;
mod qwen3_moe;
pub mod recipes;
mod site;

pub use self::block::{BlockLayout, Initial, LinearInfo, NormInfo, Role, TensorSpec};
pub(crate) use self::family::Family;
pub use self::names::{
    EMBEDDINGS, EXAMPLE_SELECTOR, FINAL_NORM, FUSED_STACKS, LM_HEAD, ModuleName, attention_name, block_name, block_of,
    input_site,
};
pub(crate) use self::names::{
    EVERY_EXPERT, FREQUENCIES, is_of_expert, kv_scale_name, kv_zero_point_name, uncoded_modules,
};
pub use self::pairs::{Pair, PairKind};
pub use self::site::{Site, SiteKind};

/// The decoder families that this crate runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM2, llama2.c.
    Llama,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: RMSNorm on queries and keys per head.
    Qwen3,
    /// Qwen3-MoE: the same with experts.
    Qwen3Moe,
    /// gpt-oss: sinks, sliding windows, experts with biases.
    GptOss,
}

impl Architecture {
    /// Every family, in the order in which messages list them.
    pub const ALL: [Self; 5] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Qwen3Moe, Self::GptOss];

    pub(crate) fn family(self) -> &'static Family {
        match self {
            Self::Llama => &llama::FAMILY,
            Self::Qwen2 => &qwen2::FAMILY,
            Self::Qwen3 => &qwen3::FAMILY,
            Self::Qwen3Moe => &qwen3_moe::FAMILY,
            Self::GptOss => &gpt_oss::FAMILY,
        }
    }

    /// The class name that `architectures` in `config.json` holds.
    pub fn class_name(self) -> &'static str {
        self.family().class_name
    }

    /// The name that `model_type` in `config.json` and `general.architecture` in a GGUF file hold.
    pub fn model_type(self) -> &'static str {
        self.family().model_type
    }
}
