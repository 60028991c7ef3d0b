//! Safetensors files and folders of them: bytes to named tensors, and back. See
//! `SPEC.md` for the format as it is read and written here, and the limits.
//!
//! What belongs here: the layout of a safetensors file, the index of a sharded
//! checkpoint, and which files of a folder may be opened. What does not: what
//! tensor names mean and what else a model folder holds (`qz-models`), packed
//! layouts that spread one weight over several tensors (`qz-packed`).
//!
//! Format layer: uses `qz-tensor` and `qz-codec` only. The pipeline may depend
//! on it; codecs, methods and models may not.
//!
//! The header is parsed here over `serde_json`, not with the `safetensors`
//! crate: that one keeps the last of two equal names, and its errors name
//! neither tensor nor place. It serves as the oracle of the tests: whatever is
//! accepted here, it accepts, with the same bytes.
//!
//! Invariants:
//! - A [`SafetensorsFile`] that opened has its tensors one after the other from
//!   the header to the end of the file: no hole, no overlap, nothing behind.
//! - Opening a folder opens no file outside it, whatever its index says, but for
//!   the blobs of the hub cache that the folder is part of.

#![forbid(unsafe_code)]

mod encode;
mod error;
mod file;
mod folder;
mod header;
mod index;
mod json;
mod model;
mod names;
mod sink;

pub use encode::{DEFAULT_SHARD_SIZE, SafetensorsLayout};
pub use error::{Error, Fault, NameList};
pub use file::SafetensorsFile;
pub use header::MAX_HEADER;
pub use index::{MAX_INDEX, MAX_SHARDS};
pub use model::SafetensorsModel;
pub use sink::SafetensorsSink;
