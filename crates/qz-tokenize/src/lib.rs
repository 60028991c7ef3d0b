//! A checkpoint's tokenizer files as the vocabulary metadata of a GGUF file, and
//! back; and text as the token ids of such a vocabulary.
//!
//! What belongs here: `tokenizer.json`, `tokenizer.model` and the files around
//! them, and the `tokenizer.*` keys that llama.cpp's converter makes of them
//! (`_set_vocab_gpt2`, `_set_vocab_sentencepiece` and `_set_vocab_llama_hf` in
//! `conversion/base.py`, `SpecialVocab` in `gguf-py/gguf/vocab.py`, partly on top
//! of transformers' tokenizer classes); in `encode`, what llama.cpp makes of these
//! keys: ids for a text, the text of ids; in `definition`, what `tokenizer.json` says
//! beyond them, as the tokenizers library carries it out. What does not: rendering
//! templates.
//!
//! Layer 2: depends on `qz-shards` and `qz-tensor`.
//!
//! Invariants:
//! - Token ids are dense in the output: every id from 0 to the vocabulary's size
//!   has exactly one token, made up as `[PAD{id}]` where the checkpoint has none.
//! - No token is there twice where llama.cpp would end because of it.
//! - Nothing from a checkpoint is executed or rendered; templates are copied.
//! - The pre-tokenizer's name follows from `tokenizer.json`'s own definition, so
//!   a vocabulary that nobody has seen before is no obstacle.
//! - Ids equal the reference's: from GGUF metadata llama.cpp's, from a checkpoint's
//!   files the tokenizers library's. What the former cannot say is a warning. Every
//!   scanner reads the text once; only merging within a word takes n log n.
//! - The reference is llama.cpp at commit 0c1e57098 (llama-cpp-python 0.3.36)
//!   with transformers 5.23.0, tokenizers 0.23.3 and sentencepiece 0.2.3.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

mod added_tokens;
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "six bits of 64 letters"
)]
mod base64;
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tables of all bytes")]
mod byte_level;
mod byte_level_tokens;
mod chat_template;
mod definition;
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "texts are cut at places that were found in them, and tokens are ids of the vocabulary"
)]
mod encode;
mod error;
mod json;
mod pattern;
mod post_processor;
mod pre_tokenizer;
mod protobuf;
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "ids come from the table, whose lists are equally long"
)]
mod restore;
mod scored_tokens;
mod sentencepiece;
mod special_tokens;
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "pieces are places in the list of them"
)]
mod splits;
mod tiktoken;
mod token_types;
mod tokenizer_file;
mod unigram_tokens;
mod vocabulary;
mod word_piece_tokens;

pub use encode::{EncodeOptions, TextStream, Tokenizer, pre_tokenizer_names};
pub use error::{Error, UnknownPreTokenizer};
pub use restore::{RestoreOptions, RestoredTokenizer, restore_tokenizer};
pub use tokenizer_file::TokenId;
pub use vocabulary::{Vocabulary, VocabularyOptions, VocabularyRules, vocabulary};
