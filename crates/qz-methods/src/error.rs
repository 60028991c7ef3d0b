//! What a method refuses.

use qz_codec::grid::rounding::NonFiniteWeight;
use qz_tensor::{Diagnose, Diagnosis, FaultClass, Location};

/// Why a matrix was not quantized.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weight is infinite or not a number.
    #[error(transparent)]
    Weight(#[from] NonFiniteWeight),
    /// The rows cannot be cut into the target's units.
    #[error("rows of {columns} weights do not fill units of {unit_columns} ({target})")]
    Units {
        /// Weights in a row.
        columns: usize,
        /// Weights of a unit.
        unit_columns: usize,
        /// The target's name.
        target: String,
    },
    /// The method chooses among a grid's values, and the target has none.
    #[error("the method {method} cannot write {target}")]
    Target {
        /// The method's name.
        method: &'static str,
        /// The target's name.
        target: String,
    },
    /// Statistics of other inputs.
    #[error("statistics of {found} columns for a matrix of {columns}")]
    Statistics {
        /// Columns of the matrix.
        columns: usize,
        /// Columns of the statistics.
        found: usize,
    },
    /// The method needs them.
    #[error("the method {method} needs {needs}")]
    Needs {
        /// The method's name.
        method: &'static str,
        /// What is missing.
        needs: &'static str,
    },
    /// The receiver of the rows wants no more.
    #[error("stopped")]
    Stopped,
    /// The device that matrices are factored on has failed.
    #[error(transparent)]
    Device(#[from] qz_kernels::Error),
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        let (class, rule) = match self {
            Self::Weight(_) => (FaultClass::Numeric, "non-finite-weight"),
            Self::Units { .. } => (FaultClass::BadInput, "unit-size"),
            Self::Target { .. } => (FaultClass::Refused, "method-target"),
            Self::Statistics { .. } => (FaultClass::BadInput, "statistics-width"),
            Self::Needs { .. } => (FaultClass::Refused, "method-needs"),
            Self::Stopped => (FaultClass::Environment, "stopped"),
            Self::Device(error) => return error.diagnosis(),
        };
        Diagnosis { class, location: Location::default(), rule }
    }
}
