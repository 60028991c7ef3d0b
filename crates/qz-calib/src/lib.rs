//! Statistics of a model's activations.
//!
//! What belongs here: the sums ([`Moments`]), the files that hold them
//! (llama.cpp's importance matrices, both kinds, and Gram matrices beside them) and what
//! their numbers mean; the text that they are collected on, where no other is given
//! ([`bundled`]); conversations as a chat template has them ([`chat`]). What
//! does not: the forward pass that shows activations (`qz-models`), Gram matrices while they
//! are summed (`qz-linalg`), searching with importance (`qz-codec`), which tensors need it (`qz-plan`).
//!
//! Layer 4: depends on `qz-tensor`, `qz-gguf`, `qz-kernels` and `qz-linalg`; used by `qz-pipeline`.
//!
//! Invariants:
//! - A file that opened holds finite, non-negative values only.
//! - Values are read when they are wanted, so memory does not grow with the model.

#![forbid(unsafe_code)]

pub mod bundled;
pub mod chat;
mod error;
mod gguf;
mod importance;
mod legacy;
mod moments;
mod statistics_file;
pub mod summary;
pub mod sums;

pub use error::{Error, Fault};
pub use importance::{Entry, ImportanceMatrix};
pub use moments::Moments;
pub use statistics_file::{
    CrossEntry, GRAM, GramEntry, INPUT_CROSS, MAGNITUDES, RESULT_CROSS, StatisticsFile,
    TOKEN_COUNTS, tell_quantized,
};
pub use sums::{ImportanceSums, TensorSums};
