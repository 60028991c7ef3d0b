//! Matrices of calibrated methods: sums of products of inputs, their factors, and what is
//! solved with them.
//!
//! | where | what |
//! |---|---|
//! | [`Gram`] | XᵀX or some of its rows, summed over any number of tokens |
//! | [`CrossGram`] | the cross sums of two models' inputs |
//! | `triangle.rs` | the upper half of a symmetric matrix as files have it |
//! | [`Symmetric`] | the finished matrix of a layer's inputs |
//! | [`Feedback`] | its factor as error feedback uses it |
//! | [`solve`] | small systems in `f64` |
//!
//! What does not belong here: what is rounded to what (`qz-methods`), inner loops
//! (`qz-kernels`).
//!
//! Layer 3: depends on `qz-kernels` and `qz-codec`.
//!
//! Invariant: sums have a fixed order. The number of threads changes no bit; instruction
//! sets differ in the last ones.

#![forbid(unsafe_code)]

mod cross;
mod factor;
mod gram;
mod runs;
mod small;
mod symmetric;
mod triangle;

pub use cross::CrossGram;
pub use factor::{Feedback, NotPositive};
pub use gram::Gram;
pub use small::solve;
pub use symmetric::Symmetric;
pub use triangle::{packed_len, unpack};
