//! GGUF files: bytes to named tensors and metadata, and back. See `SPEC.md` for
//! the format as it is read and written here, and the limits.
//!
//! What belongs here: the layout of GGUF, the rules a file has to keep, and sets
//! of files that hold one model. What does not: how an element type packs its
//! bits (`qz-codec`), what keys and tensor names mean (`qz-models`).
//!
//! Format layer: uses `qz-tensor` and `qz-codec` only. The pipeline and the
//! statistics files (`qz-calib`) may depend on it; codecs, methods and models
//! may not.
//!
//! Invariants:
//! - Every count and length is compared with the bytes that are left before
//!   memory is set aside for it.
//! - A [`GgufFile`] that opened has every tensor's bytes inside the file.
//! - A file written here opens here, and a file read here and written again
//!   without a change is the same bytes (version 3, zero padding).

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

mod cursor;
mod encode;
mod error;
mod layout;
mod metadata;
mod model;
mod reader;
mod rules;
mod seen;
mod sink;
mod split;
mod tensors;

pub use error::{Error, Fault};
pub use layout::GgufLayout;
pub use model::GgufModel;
pub use reader::GgufFile;
pub use rules::{DEFAULT_ALIGNMENT, MAX_ALIGNMENT, MAX_DIMENSIONS, MAX_HEADER, MAX_NAME, VERSION};
pub use sink::GgufSink;
pub use split::{MAX_PARTS, Split, SplitOptions, base_name};
