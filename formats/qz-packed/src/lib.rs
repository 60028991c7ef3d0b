//! Layouts that store one weight matrix as several tensors: GPTQ, AWQ,
//! compressed-tensors and the like, written and read. See `SPEC.md` for each.
//!
//! | where | what |
//! |---|---|
//! | [`Layout`] | how one matrix is stored: its parts, rows into them and out of them |
//! | [`SCHEMES`] | what can be written: how a name like `gptq:w4g128` becomes a layout and a configuration |
//! | [`METHODS`] | what can be read: how a configuration and tensor names become layouts |
//! | [`Inputs`] | what engines round the inputs of a matrix to |
//! | [`PackedSource`] | a source of packed tensors, seen as one of plain matrices |
//! | [`bits`] | the dense bit stream that several layouts share |
//! | `layouts/` | a file per layout |
//!
//! What belongs here: bytes and rounding of one matrix, and what a configuration
//! says of it. What does not: opening files, names of tensors in a model, which
//! matrices are quantized at all (`qz-models`, `qz-pipeline`).
//!
//! Format layer: uses `qz-tensor` and `qz-codec` only. The pipeline may depend on it;
//! codecs, methods and models may not.
//!
//! Invariant: rows are encoded alone, so bytes depend neither on tiles nor on threads;
//! what a row has to know of its whole matrix comes from a [`Measure`], which a first
//! pass makes.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

pub mod bits;
mod error;
mod exceptions;
#[cfg(test)]
mod golden;
mod hadamard;
mod inputs;
mod layout;
pub mod layouts;
mod method;
mod scheme;
pub mod schemes;
mod source;
#[cfg(test)]
mod testing;

pub use error::{Error, Fault};
pub use exceptions::{Exception, FUSED, Patterns, fused_name};
pub use hadamard::Hadamard;
pub use inputs::{InputPart, Inputs};
pub use layout::{
    ChosenRows, Layout, Matrix, Measure, Part, PartBytes, PartIndex, Prepass, Put, Rounding,
    RowBlock, Unfit, Whole,
};
pub use layouts::compressed::GONE as GONE_FORMATS;
pub use method::{METHODS, Method, OpenRequest, PackedTensor};
pub use qz_codec::activations::{Activations, InputRounding, Number};
pub use scheme::{
    CachePart, CacheScales, Configuration, Feedback, Mixing, OtherScheme, Provenance, Quantized,
    SCHEMES, Scheme, SchemeFamily, Stacked,
};
pub use source::{PackedSize, PackedSource, Repack, recognise};
