//! The reference's searches for scales and levels, one sub-block at a time: the
//! readable definition that everything faster has to equal bit for bit.
//!
//! A search tries some scales, rounds the values to levels, solves the weighted
//! least-squares fit for these levels, and keeps the best. All sums run over the
//! values in order, in `f32`, with one rounding per operation.

pub mod affine;
pub mod descent;
pub mod nonlinear;
pub mod positive;
pub mod signed;

/// Below this largest magnitude a sub-block counts as zero (ggml-quants.c,
/// `GROUP_MAX_EPS`).
pub const ZERO_BELOW: f32 = 1e-15;

/// The most values a sub-block has.
pub(crate) const LONGEST: usize = 32;
