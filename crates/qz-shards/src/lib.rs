//! Models whose weights lie in several files of a folder: which files may be
//! opened, what the index says, and all shards as one source of tensors. The
//! same for every format that Hugging Face folders hold weights in.
//!
//! What belongs here: indexes, the names of shards and tensors, links, and JSON
//! whose errors have a place. What does not: what is in a shard (`formats/*`),
//! what tensor names mean and what else a folder holds (`qz-models`).
//!
//! Layer 1: uses `qz-tensor` only; formats use it.
//!
//! Invariant: opening a folder opens no file outside it, whatever its index says,
//! but for the blobs of the hub cache that the folder is part of.

#![forbid(unsafe_code)]

mod error;
mod folder;
mod index;
pub mod json;
mod model;
mod names;
mod sets;

pub use error::{Error, Fault, NameList, shown};
pub use folder::Folder;
pub use index::{MAX_INDEX, MAX_SHARDS};
pub use model::{ShardFile, ShardReader, ShardedModel};
pub use names::{InvalidName, check_tensor, find_alike};
