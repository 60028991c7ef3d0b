//! Decides which element type each tensor gets.
//!
//! What belongs here: file types (`q4_k_m`, ...), the per-tensor mixtures behind
//! them, a person's overrides, and the order of tensors in a file: everything
//! that can be said from names, shapes and a few numbers of the model. What does
//! not: reading, encoding or writing anything.
//!
//! Layer 5: depends on `qz-tensor`; used by `qz-pipeline` and the binary. A new
//! file type is one entry in [`FILE_TYPES`].

#![forbid(unsafe_code)]

mod architectures;
mod assign;
mod category;
mod facts;
mod file_type;
mod mixture;
mod order;
mod overrides;
mod rule;
mod suggestion;
mod table;

pub use architectures::is_known_architecture;
pub use assign::{Assignment, Error, Fallback, PlannedTensor, Reason, Request, assign};
pub use category::{TensorCategory, is_quantizable};
pub use facts::ModelFacts;
pub use file_type::{FILE_TYPES, FileType};
pub use order::layer_then_name;
pub use overrides::{InvalidOverride, Overrides, TensorOverride, UnknownType, Wish, element_type};
pub use rule::{Condition, Rule};
pub use suggestion::{did_you_mean, is_alike, nearest};
