//! Checkpoints, tokenizers and chat templates, driven through the public interface.

// Helpers of tests may panic like the tests themselves, and say on stderr what they skip.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod bad_folders;
mod bad_gguf;
mod bad_scales;
mod chat;
mod common;
mod compressed;
mod config;
mod embeddings;
mod experts;
mod folders;
mod gguf_files;
mod gguf_layout;
mod gguf_metadata;
mod special_tokens;
mod tokenizers;
mod transforms;
mod writer;
