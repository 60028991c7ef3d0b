//! What can be wrong with packed weights.

use qz_tensor::{Diagnose, Diagnosis, FaultClass, FileError, Location};

/// A failure to read packed weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The weights or their configuration break a rule.
    #[error("{location}: {fault}")]
    Malformed {
        /// The file, and the module, tensor or key.
        location: Location,
        /// The broken rule.
        fault: Box<Fault>,
    },
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A method that is not known here.
    #[error("weights quantized by {method} are not supported; there are: {}", known.join(", "))]
    UnknownMethod {
        /// What the configuration names.
        method: String,
        /// What can be read.
        known: Vec<&'static str>,
    },
    /// A configuration without a method's name, beside tensors that look like no method's.
    #[error("names no quantization method, and the tensors look like none; there are: {}", known.join(", "))]
    UnnamedMethod {
        /// What can be read.
        known: Vec<&'static str>,
    },
    /// Packed tensors, and no word of how.
    #[error(
        "looks packed by {method} ({looks_like}), and nothing says how: there is no {}",
        looked_in.join(", no ")
    )]
    Unconfigured {
        /// Whose they seem to be.
        method: &'static str,
        /// The tensors that show it.
        looks_like: &'static str,
        /// Where a configuration could be.
        looked_in: Vec<&'static str>,
    },
    /// A key of the configuration that is missing, or says what cannot be.
    #[error("{0}")]
    Configuration(String),
    /// A tensor that should be beside others.
    #[error("has no tensor `{0}`")]
    MissingPart(String),
    /// A tensor of the wrong type or shape.
    #[error("is {found}, expected {expected}")]
    Part {
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// Sizes that the layout does not have.
    #[error("{0}")]
    Unfit(String),
    /// A tensor that says what cannot be.
    #[error("{0}")]
    Content(String),
    /// A plain tensor beside the packed one.
    #[error("is there both packed and plain")]
    Twice,
    /// A group number that there is no scale for.
    #[error("column {column} is of group {group}, there are {groups}")]
    GroupIndex {
        /// The column.
        column: usize,
        /// What it says.
        group: i32,
        /// How many groups there are.
        groups: u64,
    },
}

impl Fault {
    /// The rule's short, stable name.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::UnknownMethod { .. } | Self::UnnamedMethod { .. } => "unknown-quantization",
            Self::Unconfigured { .. } => "unconfigured-quantization",
            Self::Configuration(_) => "quantization-config",
            Self::MissingPart(_) => "missing-part",
            Self::Part { .. } => "part-mismatch",
            Self::Unfit(_) => "unfit-shape",
            Self::Content(_) => "part-content",
            Self::Twice => "packed-and-plain",
            Self::GroupIndex { .. } => "group-index",
        }
    }
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::File(error) => error.diagnosis(),
            Self::Malformed { location, fault } => Diagnosis {
                class: FaultClass::BadInput,
                location: location.clone(),
                rule: fault.rule(),
            },
        }
    }
}
