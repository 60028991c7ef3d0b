//! What a method says about a matrix.

use std::fmt;

use serde::Serialize;

/// What became of one matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorReport {
    /// The method that was asked for.
    pub method: &'static str,
    /// Rows.
    pub rows: usize,
    /// Weights in a row.
    pub columns: usize,
    /// What is lost, where inputs are known.
    pub losses: Option<Losses>,
    /// What was added to the diagonal before it was factored, in parts of its mean.
    pub damping: Option<f64>,
    /// What was done instead.
    pub fallback: Option<Fallback>,
    /// Columns whose input was always zero.
    pub dead_columns: usize,
}

/// Parts of the squared output, `tr(E H Eᵀ) / tr(W H Wᵀ)`, over up to 64 rows spread
/// evenly. E is what the values are away from the targets: the weights, or where these make up
/// for what was lost before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Losses {
    /// Lost by rounding with importance, without feedback.
    pub rounding: f64,
    /// Lost by the result.
    pub result: f64,
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoInput => "all inputs were zero",
            Self::NonFinite => "a statistic is not finite",
            Self::NoFactor => "no damping made the Gram matrix positive definite",
        })
    }
}

/// Why a matrix was rounded with importance instead.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Fallback {
    /// All inputs were zero.
    NoInput,
    /// A statistic is infinite or not a number.
    NonFinite,
    /// No damping made the matrix positive definite.
    NoFactor,
}
