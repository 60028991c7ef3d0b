//! Safetensors files and folders of them: bytes to named tensors, and back. See
//! `SPEC.md` for the format as it is read and written here, and the limits.
//!
//! What belongs here: the layout of a safetensors file. What does not: indexes and
//! folders (`qz-shards`), what tensor names mean and what else a model folder holds
//! (`qz-models`), packed layouts that spread one weight over several tensors
//! (`qz-packed`).
//!
//! Format layer: uses `qz-tensor`, `qz-codec` and `qz-shards` only. The pipeline
//! may depend on it; codecs, methods and models may not.
//!
//! The header is parsed here over `serde_json`, not with the `safetensors`
//! crate: that one keeps the last of two equal names, and its errors name
//! neither tensor nor place. It serves as the oracle of the tests: whatever is
//! accepted here, it accepts, with the same bytes.
//!
//! Invariant: a [`SafetensorsFile`] that opened has its tensors one after the other
//! from the header to the end of the file: no hole, no overlap, nothing behind.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

// The writer's sizes are those of tensors in memory, its numbers places in its own lists.
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod encode;
mod error;
mod file;
mod header;
mod sink;

pub use encode::{DEFAULT_SHARD_SIZE, SafetensorsLayout};
pub use error::{Error, Fault};
pub use file::SafetensorsFile;
pub use header::MAX_HEADER;
pub use sink::SafetensorsSink;

/// The tensors of a model folder's shards, or of one file.
pub type SafetensorsModel = qz_shards::ShardedModel<SafetensorsFile>;
