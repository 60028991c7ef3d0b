//! How good a model is: perplexity, and its KL divergence from a reference.
//!
//! | where | what |
//! |---|---|
//! | [`text`] | a text in chunks, and which of their positions are scored |
//! | [`comparison`] | one position, seen by a model and its reference |
//! | [`similarity`] | the vectors of an encoder and of its reference |
//! | [`statistics`] | the figures that all positions give, with confidence intervals |
//! | [`logits_file`], [`leading_file`] | a reference's probabilities on disk: llama.cpp's file and the compact one |
//! | [`tasks`] | multiple-choice tasks and their score |
//! | [`sampling`] | the next token of a text that a model writes |
//! | [`random`] | numbers that are the same in every run |
//!
//! What does not belong here: computing logits (the forward pass), tokens (`qz-tokenize`),
//! printing.
//!
//! Layer 4; used by `qz-pipeline`.
//!
//! Invariant: the same positions give the same figures, whatever the number of threads.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod comparison;
mod error;
pub mod leading;
pub mod leading_file;
pub mod log_probability;
pub mod logits_file;
pub mod random;
pub mod sampling;
pub mod similarity;
pub mod statistics;
mod stored_text;
pub mod tasks;
#[cfg(test)]
mod test_support;
pub mod text;

pub use error::{Error, Fault};
