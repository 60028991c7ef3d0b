//! Decides which element type each tensor gets.
//!
//! What belongs here: file types (`q4_k_m`, ...), the per-tensor mixtures behind
//! them, and the order of tensors in a file: everything that can be said from
//! names, shapes and a few numbers of the model. What does not: reading,
//! encoding or writing anything.
//!
//! Layer 5: depends on `qz-tensor`; used by `qz-pipeline` and the binary. A new
//! file type is one entry in [`FILE_TYPES`].

#![forbid(unsafe_code)]

mod category;
mod file_type;
mod mixture;
mod order;

pub use category::{TensorCategory, is_quantizable};
pub use file_type::{Condition, FILE_TYPES, FileType, Rule};
pub use mixture::{Assignment, Error, Fallback, ModelFacts, PlannedTensor, assign};
pub use order::layer_then_name;
