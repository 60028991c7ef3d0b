//! Statistics of a model's activations, from files.
//!
//! What belongs here: the files that hold them (llama.cpp's importance matrices,
//! both kinds) and what their numbers mean. What does not: collecting them,
//! searching with them (`qz-codec`), which tensors need them (`qz-plan`).
//!
//! Layer 4: depends on `qz-tensor` and `qz-gguf`; used by `qz-pipeline`.
//!
//! Invariants:
//! - A file that opened holds finite, non-negative values only.
//! - Values are read when they are wanted, so memory does not grow with the model.

#![forbid(unsafe_code)]

mod error;
mod gguf;
mod importance;
mod legacy;

pub use error::{Error, Fault};
pub use importance::{Entry, ImportanceMatrix};
