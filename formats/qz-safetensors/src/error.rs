//! What can be wrong with a safetensors file or a folder of them.

use std::path::Path;

use qz_tensor::{
    DATA_TYPES, DataType, Diagnose, Diagnosis, FaultClass, FileError, Location, OutputError, Shape,
    SizeError,
};

use qz_shards::InvalidName;
use qz_shards::json::TextFault;

use crate::header::MAX_HEADER;

/// A failure to read or write a safetensors file or folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A folder or its index breaks a rule.
    #[error(transparent)]
    Shards(#[from] qz_shards::Error),
    /// A file breaks a rule.
    #[error("{location}: {fault}")]
    Malformed {
        /// The file, the tensor, and the byte.
        location: Location,
        /// The broken rule.
        fault: Box<Fault>,
    },
}

/// A broken rule of the format.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Recognised as something else.
    #[error("not a safetensors file; it looks like {0}")]
    NotSafetensors(&'static str),
    /// The file ends inside its header.
    #[error("the file ends inside its header: {needed} bytes are needed, it has {length}")]
    TruncatedHeader {
        /// Bytes of length field and header.
        needed: u64,
        /// Bytes of the file.
        length: u64,
    },
    /// A header above the format's limit.
    #[error("the header is said to have {0} bytes, at most {MAX_HEADER} are allowed")]
    HeaderTooLong(u64),
    /// A header of no bytes.
    #[error("the header is empty")]
    EmptyHeader,
    /// Not JSON, or not of the form that is wanted.
    #[error(transparent)]
    Text(#[from] TextFault),
    /// A tensor name that occurs twice.
    #[error("the tensor name occurs twice")]
    DuplicateTensor,
    /// A tensor name that is empty or would not print.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// An element type that is not supported.
    #[error("unsupported element type {0}; supported are {types}", types = supported_types())]
    UnknownType(String),
    /// A size that cannot be.
    #[error("shape {shape:?}: {source}")]
    Size {
        /// The dimensions, outermost first.
        shape: Vec<u64>,
        /// What is wrong with them.
        source: SizeError,
    },
    /// A tensor that ends before it begins.
    #[error("the tensor's data ends at {end}, before it begins at {begin}")]
    InvertedRange {
        /// The first byte, from the end of the header.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// A range of another length than shape and type need.
    #[error("{data_type} {shape} takes {expected} bytes, the data has {found}")]
    WrongSize {
        /// The tensor's type.
        data_type: DataType,
        /// Its shape.
        shape: Shape,
        /// Bytes it takes.
        expected: u64,
        /// Bytes between its offsets.
        found: u64,
    },
    /// Bytes between two tensors that belong to neither.
    #[error("a hole of {} bytes before the tensor's data: it begins at {begin}, the data before ends at {end}", begin.saturating_sub(*end))]
    Hole {
        /// Where the tensor begins, from the end of the header.
        begin: u64,
        /// Where the one before ends.
        end: u64,
    },
    /// Two tensors that share bytes.
    #[error("the tensor's data begins at {begin}, inside that of {other:?}, which ends at {end}")]
    Overlap {
        /// Where the tensor begins, from the end of the header.
        begin: u64,
        /// Where the one before ends.
        end: u64,
        /// The one before.
        other: String,
    },
    /// Data that reaches past the end of the file.
    #[error("the file has {found} bytes, its header describes {expected}: it is incomplete")]
    DataMissing {
        /// Bytes the file should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// Bytes behind the last tensor.
    #[error("the file has {found} bytes, its header describes {expected}: {} too many", found.saturating_sub(*expected))]
    TrailingBytes {
        /// Bytes the file should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// A second file behind the first one's data.
    #[error(
        "a second safetensors file begins here: shards are not joined one behind the other, they lie side by side"
    )]
    JoinedFiles,
}

fn supported_types() -> String {
    let names: Vec<&str> =
        DATA_TYPES.iter().filter_map(|data_type| data_type.spec().safetensors).collect();
    names.join(", ")
}

impl Fault {
    /// The rule's short, stable name.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::NotSafetensors(_) => "not-safetensors",
            Self::TruncatedHeader { .. } => "truncated-header",
            Self::HeaderTooLong(_) => "header-too-long",
            Self::EmptyHeader => "empty-header",
            Self::Text(fault) => fault.rule(),
            Self::DuplicateTensor => "duplicate-tensor",
            Self::Name(_) => "invalid-tensor-name",
            Self::UnknownType(_) => "unsupported-type",
            Self::Size { source: SizeError::Rank(_), .. } => "too-many-dimensions",
            Self::Size { .. } => "size-overflow",
            Self::InvertedRange { .. } => "inverted-range",
            Self::WrongSize { .. } => "wrong-size",
            Self::Hole { .. } => "hole",
            Self::Overlap { .. } => "overlap",
            Self::DataMissing { .. } => "data-missing",
            Self::TrailingBytes { .. } => "trailing-bytes",
            Self::JoinedFiles => "joined-files",
        }
    }
}

impl Error {
    /// `fault` in `file`, at byte `offset`.
    pub(crate) fn at(file: &Path, offset: u64, fault: Fault) -> Self {
        Self::Malformed { location: Location::file(file).offset(offset), fault: Box::new(fault) }
    }

    /// The same error with its tensor, if there is one to name.
    pub(crate) fn inside(mut self, name: Option<String>) -> Self {
        if let Self::Malformed { location, .. } = &mut self {
            location.tensor = name;
        }
        self
    }
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::File(error) => error.diagnosis(),
            Self::Output(error) => error.diagnosis(),
            Self::Shards(error) => error.diagnosis(),
            Self::Malformed { location, fault } => Diagnosis {
                class: FaultClass::BadInput,
                location: location.clone(),
                rule: fault.rule(),
            },
        }
    }
}
