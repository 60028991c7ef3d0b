//! What can be wrong with a statistics file.

use qz_tensor::{DataType, Diagnose, Diagnosis, FaultClass, FileError, Location, OutputError};

/// A failure to read a statistics file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A GGUF file breaks its format.
    #[error(transparent)]
    Gguf(#[from] qz_gguf::Error),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A chat template cannot be rendered.
    #[error("{location}: {problem}")]
    Template {
        /// The model, and the conversation's place.
        location: Location,
        /// What the template's engine says.
        problem: String,
    },
    /// The operating system refused what rendering a chat template takes.
    #[error("{location}: {problem}")]
    System {
        /// The model.
        location: Location,
        /// What it refused.
        problem: String,
    },
    /// The file is not an importance matrix, or contradicts itself.
    #[error("{location}: {fault}")]
    Malformed {
        /// File, tensor and byte.
        location: Location,
        /// What is wrong.
        fault: Fault,
    },
}

/// What is wrong with an importance matrix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// `general.type` says that the file is something else.
    #[error("a GGUF file of type {0:?}, not an importance matrix")]
    OtherType(String),
    /// Nothing in it.
    #[error(
        "no importance entries; an importance matrix holds tensors NAME.in_sum2 and NAME.counts, or is a legacy .dat file"
    )]
    NoEntries,
    /// A key that every such file has.
    #[error(
        "the key is missing, or of another type; the importance matrix says nothing about its data"
    )]
    MissingKey,
    /// Sums without counts, or counts without sums.
    #[error("only one of sums (.in_sum2) and counts (.counts) is there")]
    Unpaired,
    /// Sums or counts of another type.
    #[error("the values are {0}, not F32")]
    NotF32(DataType),
    /// The counts do not divide the sums.
    #[error("{counts} counts for {values} sums")]
    Uneven {
        /// How many sums.
        values: u64,
        /// How many counts.
        counts: u64,
    },
    /// A value that is no number.
    #[error("importance {index} is {value}")]
    NonFinite {
        /// Its position.
        index: u64,
        /// `NaN`, `inf` or `-inf`.
        value: f32,
    },
    /// A sum of squares below zero.
    #[error("importance {index} is {value}, but no sum of squares is negative")]
    Negative {
        /// Its position.
        index: u64,
        /// The value.
        value: f32,
    },
    /// A diagonal that no matrix of products has.
    #[error("element {row} of the diagonal is {value}, but no sum of squares is negative")]
    NegativeDiagonal {
        /// Its row.
        row: usize,
        /// The value.
        value: f32,
    },
    /// Products that are larger than their factors allow.
    #[error("element {row}, {column} is larger than the diagonal allows; not sums of products")]
    LargerThanDiagonal {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// A count that is no number, or larger than any.
    #[error("a count is {0}")]
    Count(f32),
    /// A legacy file that ends too early, or lies about a length.
    #[error(
        "{wanted} bytes are needed here, {left} are left; not a legacy importance matrix, or cut short"
    )]
    Truncated {
        /// Bytes that the item takes.
        wanted: u64,
        /// Bytes to the end of the file.
        left: u64,
    },
    /// A legacy file with a length that cannot be.
    #[error("{what} is {length}; not an importance matrix")]
    Length {
        /// What has the length.
        what: &'static str,
        /// The length.
        length: i32,
    },
    /// Sums that do not fit those of another file.
    #[error(
        "sums of another shape than the model has inputs, or than in the files before; they belong to different models"
    )]
    OtherShape,
    /// Content of a kind that this program does not know.
    #[error("statistics of version {0}, written by a newer version of this program")]
    Newer(u64),
    /// A legacy name that is no text.
    #[error("a tensor name is not UTF-8")]
    Name,
}

impl Fault {
    fn rule(&self) -> &'static str {
        match self {
            Self::OtherType(_) | Self::NoEntries => "not-an-importance-matrix",
            Self::MissingKey => "importance-key",
            Self::Unpaired => "importance-unpaired",
            Self::NotF32(_) => "importance-type",
            Self::Uneven { .. } => "importance-counts",
            Self::NonFinite { .. } | Self::Count(_) => "non-finite-importance",
            Self::Negative { .. } => "negative-importance",
            Self::NegativeDiagonal { .. } | Self::LargerThanDiagonal { .. } => "gram-impossible",
            Self::Truncated { .. } => "truncated",
            Self::Length { .. } => "importance-length",
            Self::Name => "importance-name",
            Self::OtherShape => "importance-shape",
            Self::Newer(_) => "statistics-version",
        }
    }
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::File(error) => error.diagnosis(),
            Self::Gguf(error) => error.diagnosis(),
            Self::Output(error) => error.diagnosis(),
            Self::Template { location, .. } => Diagnosis {
                class: FaultClass::BadInput,
                location: location.clone(),
                rule: "chat-template",
            },
            Self::System { location, .. } => Diagnosis {
                class: FaultClass::Environment,
                location: location.clone(),
                rule: "system",
            },
            Self::Malformed { location, fault } => {
                let class = match fault {
                    Fault::NonFinite { .. } | Fault::Count(_) => FaultClass::Numeric,
                    _ => FaultClass::BadInput,
                };
                Diagnosis { class, location: location.clone(), rule: fault.rule() }
            }
        }
    }
}
