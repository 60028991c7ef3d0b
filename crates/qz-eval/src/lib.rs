//! What a model's logits say about its quality: which tokens of a text are scored, and
//! the figures that follow.
//!
//! What belongs here: windows over a text, statistics of logits. What does not: how
//! logits come about (`qz-models`), files, text to tokens (`qz-tokenize`).
//!
//! Layer 4. Figures are defined as `llama-perplexity` defines them
//! (`tools/perplexity/perplexity.cpp`, llama.cpp 0c1e57098).
//!
//! Invariant: results do not depend on the number of threads; work on the rows of a tile
//! is divided among rayon's current pool, sums are formed in the order of the text.

#![forbid(unsafe_code)]

mod error;
mod perplexity;
mod windows;

pub use error::Error;
pub use perplexity::{Measured, Perplexity, PerplexitySum, negative_log_likelihood};
pub use windows::{WindowOptions, Windows};
