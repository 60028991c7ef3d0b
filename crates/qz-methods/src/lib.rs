//! How weights become values of a grid: plain rounding, half-quadratic descent, the reference
//! program's search with importance, and error feedback with coordinate descent on any grid.
//!
//! | where | what |
//! |---|---|
//! | [`METHODS`] | every method |
//! | [`Target`] | the values that weights may take |
//! | [`Statistics`] | what is known of a layer's inputs |
//! | `rounding` | `rtn` and `imatrix` |
//! | `awq`, `smooth_quant` | factors of columns, before any of these |
//! | `hqq` | without data, to a norm that forgives outliers |
//! | `gptq/` | `gptq`: preparation, feedback, descent, refits |
//!
//! What does not belong here: which tensor gets which target (`qz-plan`), where the rows
//! come from and go to (`qz-pipeline`), sums and factors (`qz-linalg`).
//!
//! Layer 4: depends on `qz-codec`, `qz-kernels` and `qz-linalg`.
//!
//! Invariants:
//! - The number of threads changes no bit.
//! - No value that is not finite leaves a method: weights are checked, statistics that are
//!   not finite or cannot be factored lead to a recorded fallback.
//! - Memory beside the given matrices and what preparing them takes is a few tiles of rows.

#![forbid(unsafe_code)]

mod awq;
mod error;
mod gptq;
mod hqq;
mod method;
mod report;
mod rounding;
mod smooth_quant;
mod statistics;
mod target;
#[cfg(test)]
mod testing;

pub use awq::{Channels, FoundFactors, ScaledMatrix, search_factors};
pub use error::Error;
pub use gptq::{
    Correction, GptqOptions, Order, Prepared, Shared, Unprepared, Weighing, weights_under_way,
};
pub use method::{METHODS, Method, Needs, Options, Problem, RowSink, method_named};
pub use report::{Fallback, Losses, TensorReport};
pub use smooth_quant::smoothing_factors;
pub use statistics::{HeldOut, Statistics};
pub use target::Target;
