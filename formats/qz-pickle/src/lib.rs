//! PyTorch checkpoints (`pytorch_model.bin`, alone or sharded): bytes to named
//! tensors. See `SPEC.md` for the formats as they are read here, and the limits.
//!
//! What belongs here: the zip archives and the older files that `torch.save`
//! writes, the pickle in them, and tensors that are views of storages. What does
//! not: indexes and folders (`qz-shards`), what tensor names mean (`qz-models`).
//!
//! Format layer: uses `qz-tensor`, `qz-codec` and `qz-shards` only. The pipeline
//! may depend on it; codecs, methods and models may not.
//!
//! The archive is read here, not with the `zip` crate: that one reads through one
//! moving position, and does not compare what a zip file says twice.
//!
//! Invariants:
//! - Nothing is executed. The pickle's program builds numbers, texts, tuples,
//!   lists and dictionaries; a tensor is a note of its arguments; whatever is not
//!   in the list of `globals` ends the reading.
//! - Values refer to each other by number: no depth of nesting recurses, and
//!   copying one copies 16 bytes.
//! - A [`TorchFile`] that opened has every element of every tensor inside its
//!   storage, and every storage inside the file.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

mod archive;
mod cursor;
mod error;
mod file;
mod globals;
// Numbers in values are places in the heap's own lists, which only grow.
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod heap;
mod legacy;
mod machine;
mod opcodes;
mod state;
// Every element of a view was found inside its storage before it is read (`state`), so places,
// sizes and their products fit.
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod strided;

pub use archive::{MAX_DIRECTORY, MAX_ENTRIES};
pub use error::{Error, Fault};
pub use file::TorchFile;
pub use machine::{MAX_DEPTH, MAX_MEMO, MAX_OBJECTS, MAX_OPCODES, MAX_PICKLE};

/// The tensors of a model folder's shards, or of one file.
pub type TorchModel = qz_shards::ShardedModel<TorchFile>;
