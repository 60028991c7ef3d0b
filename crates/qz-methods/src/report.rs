//! What a method says about a matrix.

use std::fmt;

use qz_codec::grid::Rows;
use serde::Serialize;

use crate::gptq::Correction;

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
    /// How what was lost before the matrix is made up for.
    pub correction: Option<Correction>,
    /// What was done instead.
    pub fallback: Option<Fallback>,
    /// Columns whose input was always zero.
    pub dead_columns: usize,
}

impl TensorReport {
    /// Of a matrix of whose inputs nothing is known.
    pub(crate) fn without_inputs(method: &'static str, weights: Rows<'_>) -> Self {
        Self {
            method,
            rows: weights.count(),
            columns: weights.columns(),
            losses: None,
            damping: None,
            correction: None,
            fallback: None,
            dead_columns: 0,
        }
    }

    /// What became of a matrix, of what became of parts of its rows; nothing of no parts.
    pub fn of_parts(parts: Vec<Self>) -> Option<Self> {
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        // Each part's rows stand for themselves.
        let mean = |of: fn(&Losses) -> f64| {
            let sum = |sum: f64, part: &Self| {
                part.losses.as_ref().map(|losses| sum + of(losses) * part.rows as f64)
            };
            Some(parts.iter().try_fold(0.0, sum)? / rows.max(1) as f64)
        };
        let losses = mean(|losses| losses.rounding).zip(mean(|losses| losses.result));
        let losses = losses.map(|(rounding, result)| Losses { rounding, result });
        let first = parts.into_iter().next()?;
        Some(Self { rows, losses, ..first })
    }
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
            Self::HeldOut => "on tokens kept apart error feedback lost more than rounding",
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
    /// Error feedback lost more than rounding on inputs that it was not made of.
    HeldOut,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_count_by_their_rows() {
        let part = |rows, losses: Option<(f64, f64)>| TensorReport {
            method: "gptq",
            rows,
            columns: 4,
            losses: losses.map(|(rounding, result)| Losses { rounding, result }),
            damping: Some(0.01),
            correction: None,
            fallback: None,
            dead_columns: 1,
        };
        let check = |parts: &[TensorReport], expected: Option<TensorReport>| {
            assert_eq!(TensorReport::of_parts(parts.to_vec()), expected);
        };
        check(&[], None);
        let (one, two) = (part(3, Some((4.0, 2.0))), part(1, Some((8.0, 6.0))));
        check(&[one.clone(), two], Some(part(4, Some((5.0, 3.0)))));
        check(&[one, part(1, None)], Some(part(4, None)));
    }
}
