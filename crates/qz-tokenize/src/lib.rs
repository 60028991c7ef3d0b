//! A checkpoint's tokenizer files as the vocabulary metadata of a GGUF file.
//!
//! Layer 3: depends on `qz-tensor` only.

#![forbid(unsafe_code)]

mod error;

pub use error::Error;
