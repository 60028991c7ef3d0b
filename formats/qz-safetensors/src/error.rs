//! What can be wrong with a safetensors file or a folder of them.

use std::path::Path;

use qz_tensor::{
    DATA_TYPES, DataType, Diagnose, Diagnosis, FaultClass, FileError, Location, OutputError, Shape,
    SizeError,
};

use crate::header::MAX_HEADER;
use crate::index::{MAX_INDEX, MAX_SHARDS};

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
    /// A file or folder breaks a rule.
    #[error("{location}: {fault}")]
    Malformed {
        /// The file, the tensor, and the byte.
        location: Location,
        /// The broken rule.
        fault: Box<Fault>,
    },
}

/// A broken rule of the format or of a model folder.
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
    /// An index that is too long to be one.
    #[error("the index has {0} bytes, at most {MAX_INDEX} are supported")]
    IndexTooLong(u64),
    /// Bytes that are not UTF-8.
    #[error("the {0} is not valid UTF-8")]
    Utf8(&'static str),
    /// Not JSON.
    #[error("invalid JSON: {0}")]
    Json(String),
    /// JSON that nests too deep.
    #[error("the JSON nests too deep")]
    Depth,
    /// A header padded with NUL bytes.
    #[error(
        "the header is padded with NUL bytes, the format wants spaces (0x20): save the file anew or replace them"
    )]
    NulPadding,
    /// JSON of another form than the format's.
    #[error("{0}")]
    Field(String),
    /// A field that must be there.
    #[error("`{0}` is missing")]
    MissingField(&'static str),
    /// A field that occurs twice.
    #[error("`{0}` occurs twice")]
    DuplicateField(String),
    /// A tensor name that occurs twice.
    #[error("the tensor name occurs twice")]
    DuplicateTensor,
    /// A tensor name that is empty or would not print.
    #[error("a tensor name is empty or has control characters: {0}")]
    Name(String),
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
    /// A path where a folder is needed.
    #[error("not a folder")]
    NotAFolder,
    /// A folder without weights in this format.
    #[error(
        "no safetensors weights here: neither `model.safetensors.index.json` nor `model.safetensors`"
    )]
    NoWeights,
    /// A folder with two sets of weights.
    #[error(
        "two sets of weights: `model.safetensors`, and an index that does not name it; give the path of the one that is meant"
    )]
    AmbiguousWeights,
    /// A shard name that is more than a file name.
    #[error("the shard name {0} leads outside the model folder")]
    OutsideFolder(String),
    /// A link out of the folder.
    #[error("a link that leads outside the model folder, to {0}")]
    LinkOutside(String),
    /// More shards than any model has.
    #[error("the index names more than {MAX_SHARDS} shards")]
    TooManyShards,
    /// Shards that are not in the folder.
    #[error("missing shards: {0}")]
    MissingShards(NameList),
    /// An index that does not match its shards.
    #[error(
        "index and shards disagree: named in the index but not in their shard: {absent}; in a shard but not named for it: {unlisted}"
    )]
    IndexMismatch {
        /// In the index only.
        absent: NameList,
        /// In a shard only.
        unlisted: NameList,
    },
    /// A tensor that two shards hold.
    #[error("the tensor is also in {0}")]
    TensorInTwoShards(String),
    /// Names that only case tells apart.
    #[error("the name differs from {0:?} in case only")]
    CaseOnly(String),
}

/// Some of many names, for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameList {
    first: Vec<String>,
    count: usize,
}

/// How many names of a list are shown.
const SHOWN_NAMES: usize = 10;

impl NameList {
    /// The first of `names`, and how many they are.
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut names = names.into_iter();
        let first: Vec<String> =
            names.by_ref().take(SHOWN_NAMES).map(|name| shown(&name)).collect();
        let count = first.len() + names.count();
        Self { first, count }
    }

    /// True for no names.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many names there are in all.
    pub fn len(&self) -> usize {
        self.count
    }
}

impl std::fmt::Display for NameList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.count - self.first.len() {
            _ if self.is_empty() => f.write_str("none"),
            0 => f.write_str(&self.first.join(", ")),
            more => write!(f, "{} and {more} more", self.first.join(", ")),
        }
    }
}

fn supported_types() -> String {
    let names: Vec<&str> =
        DATA_TYPES.iter().filter_map(|data_type| data_type.spec().safetensors).collect();
    names.join(", ")
}

/// Text of a file as a message may show it: escaped, and not all of a long one.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut out: String = text.escape_debug().take(LONGEST).collect();
    if text.escape_debug().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

impl Fault {
    /// The rule's short, stable name.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::NotSafetensors(_) => "not-safetensors",
            Self::TruncatedHeader { .. } => "truncated-header",
            Self::HeaderTooLong(_) => "header-too-long",
            Self::EmptyHeader => "empty-header",
            Self::IndexTooLong(_) => "index-too-long",
            Self::Utf8(_) => "invalid-utf8",
            Self::Json(_) => "invalid-json",
            Self::Depth => "json-too-deep",
            Self::NulPadding => "nul-padding",
            Self::Field(_) | Self::MissingField(_) => "invalid-field",
            Self::DuplicateField(_) => "duplicate-field",
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
            Self::NotAFolder => "not-a-folder",
            Self::NoWeights => "no-weights",
            Self::AmbiguousWeights => "ambiguous-weights",
            Self::OutsideFolder(_) | Self::LinkOutside(_) => "outside-folder",
            Self::TooManyShards => "too-many-shards",
            Self::MissingShards(_) => "missing-shards",
            Self::IndexMismatch { .. } => "index-mismatch",
            Self::TensorInTwoShards(_) => "tensor-in-two-shards",
            Self::CaseOnly(_) => "case-only-names",
        }
    }

    /// Reaching outside a folder is refused by policy; all else is bad input.
    fn class(&self) -> FaultClass {
        match self {
            Self::OutsideFolder(_) | Self::LinkOutside(_) => FaultClass::Refused,
            _ => FaultClass::BadInput,
        }
    }
}

impl Error {
    /// `fault` in `file`.
    pub(crate) fn new(file: &Path, fault: Fault) -> Self {
        Self::Malformed { location: Location::file(file), fault: Box::new(fault) }
    }

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
            Self::Malformed { location, fault } => {
                Diagnosis { class: fault.class(), location: location.clone(), rule: fault.rule() }
            }
        }
    }
}
