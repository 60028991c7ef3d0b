//! What can be wrong with a GGUF file.

use std::path::{Path, PathBuf};

use qz_tensor::{
    DataType, Diagnose, Diagnosis, FaultClass, FileError, Location, OutputError, Shape, SizeError,
};

use crate::rules::{MAX_ALIGNMENT, MAX_DIMENSIONS, MAX_HEADER, MAX_KEY, MAX_NAME};
use crate::split::MAX_PARTS;

/// A failure to read or write a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The output cannot be placed or written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The file breaks a rule of the format, or would if it were written.
    #[error("{location}: {fault}")]
    Malformed {
        /// The file, the key or tensor, and the byte.
        location: Location,
        /// The broken rule.
        fault: Box<Fault>,
    },
}

/// A broken rule of the format.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Other magic bytes.
    #[error("not a GGUF file: it begins with {:?}{}", .start.escape_ascii().to_string(), .looks_like.map(|found| format!("; it looks like {found}")).unwrap_or_default())]
    NotGguf {
        /// The first bytes, at most four.
        start: Vec<u8>,
        /// What the file seems to be instead.
        looks_like: Option<&'static str>,
    },
    /// The version is written in the other byte order.
    #[error("a big-endian GGUF file (version {version}); only little-endian files are supported")]
    BigEndian {
        /// The version, read as big-endian.
        version: u32,
    },
    /// A version other than 2 and 3.
    #[error("GGUF version {0} is not supported, only 2 and 3 are")]
    Version(u32),
    /// The file ends inside its header.
    #[error("the file ends inside its header: {wanted} bytes are needed here, {left} are left")]
    Truncated {
        /// Bytes that the item takes.
        wanted: u64,
        /// Bytes from here to the file's end.
        left: u64,
    },
    /// More header than anyone needs.
    #[error("the header is longer than the supported {MAX_HEADER} bytes")]
    HeaderTooLong,
    /// More tensors and metadata than anyone needs.
    #[error("{tensors} tensors and {pairs} metadata pairs are more than is supported")]
    TooManyEntries {
        /// How many tensors.
        tensors: u64,
        /// How many pairs.
        pairs: u64,
    },
    /// A count that the rest of the file cannot hold.
    #[error("{count} {items} cannot fit in the {left} bytes that are left")]
    Count {
        /// What is counted, in the plural.
        items: &'static str,
        /// How many there are said to be.
        count: u64,
        /// Bytes left for them.
        left: u64,
    },
    /// A metadata key of no bytes.
    #[error("a metadata key is empty")]
    EmptyKey,
    /// A metadata key above the format's limit.
    #[error("a metadata key has {0} bytes, at most {MAX_KEY} are allowed")]
    LongKey(u64),
    /// A key that occurs twice.
    #[error("the metadata key occurs twice, first at byte {first}")]
    DuplicateKey {
        /// Where the first one is.
        first: u64,
    },
    /// A text that is not UTF-8, or a name with a NUL byte.
    #[error("the {what} is not valid text: {text}")]
    Text {
        /// Whose text.
        what: &'static str,
        /// Its first bytes, escaped.
        text: String,
    },
    /// A value kind that the format does not have.
    #[error("unknown {what} kind {kind}, the format has 0 to 12")]
    Kind {
        /// "value" or "array element".
        what: &'static str,
        /// The number in the file.
        kind: u32,
    },
    /// An array of arrays.
    #[error("an array of arrays; nested arrays are not supported")]
    NestedArray,
    /// A boolean that is neither 0 nor 1.
    #[error("a boolean is stored as {0}, only 0 and 1 are allowed")]
    Bool(u8),
    /// `general.alignment` of another kind than `uint32`.
    #[error("the alignment must be a uint32, it is {0}")]
    AlignmentKind(String),
    /// `general.alignment` with a value that is not supported.
    #[error("the alignment {0} is not a power of two from 1 to {MAX_ALIGNMENT}")]
    Alignment(u32),
    /// A tensor name of no bytes.
    #[error("a tensor name is empty")]
    EmptyName,
    /// A tensor name that loaders have no room for.
    #[error("a tensor name has {0} bytes, at most {MAX_NAME} are allowed")]
    LongName(u64),
    /// A tensor name that occurs twice.
    #[error("the tensor name occurs twice, tensors {first} and {second} (from 0)")]
    DuplicateName {
        /// The first one's place in the list.
        first: usize,
        /// The second one's.
        second: usize,
    },
    /// More dimensions than the format has.
    #[error("{0} dimensions, at most {MAX_DIMENSIONS} are allowed")]
    Dimensions(u64),
    /// A size that cannot be.
    #[error("dimensions {dimensions:?} (innermost first): {source}")]
    Size {
        /// As the file lists them.
        dimensions: Vec<u64>,
        /// What is wrong with them.
        source: SizeError,
    },
    /// Tensors that together overflow a file size.
    #[error("the tensors up to this one take more than 63 bits of bytes")]
    TotalSize,
    /// An element type that does not exist.
    #[error("unknown element type {0}")]
    UnknownType(u32),
    /// An element type that once existed.
    #[error("element type {id} ({name}) was removed from GGUF; quantize the original model anew")]
    RemovedType {
        /// The type's number.
        id: u32,
        /// Its name.
        name: &'static str,
    },
    /// An element type that has no GGUF number.
    #[error("GGUF has no element type {0}")]
    NoSuchType(DataType),
    /// Tensor data that does not follow the one before.
    #[error(
        "the tensor's data begins at {found} in the data section, it must begin at {expected}, right after the one before"
    )]
    DataOffset {
        /// The offset in the file.
        found: u64,
        /// The padded sum of the tensors before.
        expected: u64,
    },
    /// Data that reaches past the end of the file.
    #[error(
        "the tensor ({data_type} {shape}) reaches to byte {end}, the file has {length} bytes: it is incomplete"
    )]
    DataMissing {
        /// The tensor's type.
        data_type: DataType,
        /// Its shape.
        shape: Shape,
        /// One past its last byte.
        end: u64,
        /// Bytes of the file.
        length: u64,
    },
    /// A `split.*` key of a kind that is no number.
    #[error("the key must hold a whole number, it is {0}")]
    SplitKey(String),
    /// A part of a set lacks a key that says its place.
    #[error("the key is missing: the file is not a part of this set")]
    SplitKeyMissing,
    /// A part of a set by its keys, but not by its name.
    #[error(
        "the file is part {number} of {count}, but its name does not end in -{number:05}-of-{count:05}.gguf, so that the others cannot be found"
    )]
    SplitName {
        /// Which file it is, from 1.
        number: u64,
        /// Files of the set.
        count: u64,
    },
    /// Files of a set that are not there.
    #[error("{}", missing_parts(names, *count))]
    PartsMissing {
        /// Their names.
        names: Vec<String>,
        /// Files of the set.
        count: u64,
    },
    /// A part whose key names another place than its name.
    #[error("the key says {found} (from 0), the file's name says {expected}")]
    SplitNumber {
        /// The key's number.
        found: u64,
        /// The place by the file's name.
        expected: u64,
    },
    /// A place past the end of its set.
    #[error("the key says {number} (from 0), in a set of {count} files")]
    SplitOutside {
        /// The key's number.
        number: u64,
        /// Files of the set.
        count: u64,
    },
    /// Parts that disagree about how many they are.
    #[error("the file belongs to a set of {found} files, another part to one of {expected}")]
    SplitCount {
        /// This file's number.
        found: u64,
        /// The other's.
        expected: u64,
    },
    /// A set with other tensors than it should have.
    #[error("the set has {found} tensors here, another part says {expected}")]
    SplitTensors {
        /// Tensors counted, or this part's number.
        found: u64,
        /// The number in another part.
        expected: u64,
    },
    /// A tensor in two files of a set.
    #[error("the tensor is in two files of the set, also in {}", first.display())]
    DuplicateInParts {
        /// The other file.
        first: PathBuf,
    },
    /// A set of more files than its keys can count.
    #[error("a set of {0} files, at most {MAX_PARTS} are allowed")]
    TooManyParts(u64),
    /// A set of more tensors than its keys can count.
    #[error("a set of {0} tensors, at most 2147483647 are allowed")]
    TooManyTensors(u64),
    /// A second file behind the first one's data.
    #[error(
        "a second GGUF file begins here: files of a set are not joined one behind the other; give the first of them, or merge them with `llama-gguf-split --merge`"
    )]
    JoinedFiles,
}

/// The first few names, and how many there are.
fn missing_parts(names: &[String], count: u64) -> String {
    const LISTED: usize = 4;
    let shown: Vec<&str> = names.iter().take(LISTED).map(String::as_str).collect();
    let more = names.len().saturating_sub(LISTED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("no such file: of a set of {count} files there is no {}{rest}", shown.join(", "))
}

impl Fault {
    /// The rule's short, stable name.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::NotGguf { .. } => "not-gguf",
            Self::BigEndian { .. } => "big-endian",
            Self::Version(_) => "unsupported-version",
            Self::Truncated { .. } => "truncated-header",
            Self::HeaderTooLong => "header-too-long",
            Self::TooManyEntries { .. } => "too-many-entries",
            Self::Count { .. } => "count-too-large",
            Self::EmptyKey => "empty-key",
            Self::LongKey(_) => "key-too-long",
            Self::DuplicateKey { .. } => "duplicate-key",
            Self::Text { .. } => "invalid-text",
            Self::Kind { .. } => "unknown-value-kind",
            Self::NestedArray => "nested-array",
            Self::Bool(_) => "invalid-bool",
            Self::AlignmentKind(_) | Self::Alignment(_) => "invalid-alignment",
            Self::EmptyName => "empty-tensor-name",
            Self::LongName(_) => "tensor-name-too-long",
            Self::DuplicateName { .. } => "duplicate-tensor",
            Self::Dimensions(_) => "too-many-dimensions",
            Self::Size { source: SizeError::PartialBlock { .. }, .. } => "partial-block",
            Self::Size { .. } | Self::TotalSize => "size-overflow",
            Self::UnknownType(_) | Self::NoSuchType(_) => "unknown-type",
            Self::RemovedType { .. } => "removed-type",
            Self::DataOffset { .. } => "data-offset",
            Self::DataMissing { .. } => "data-missing",
            Self::JoinedFiles => "joined-files",
            Self::SplitKey(_) | Self::SplitKeyMissing => "split-key",
            Self::SplitName { .. } => "split-name",
            Self::PartsMissing { .. } => "split-part-missing",
            Self::SplitNumber { .. } | Self::SplitOutside { .. } => "split-number",
            Self::SplitCount { .. } => "split-count",
            Self::SplitTensors { .. } => "split-tensors",
            Self::DuplicateInParts { .. } => "duplicate-tensor",
            Self::TooManyParts(_) | Self::TooManyTensors(_) => "split-too-large",
        }
    }
}

impl Error {
    /// `fault` in `file`, at byte `offset`.
    pub(crate) fn at(file: &Path, offset: u64, fault: Fault) -> Self {
        Self::Malformed { location: Location::file(file).offset(offset), fault: Box::new(fault) }
    }

    /// The same error with the key or tensor it lies in, if none is named yet.
    pub(crate) fn inside(mut self, name: &str) -> Self {
        if let Self::Malformed { location: Location { tensor: tensor @ None, .. }, .. } = &mut self
        {
            *tensor = Some(name.to_owned());
        }
        self
    }
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::File(error) => error.diagnosis(),
            Self::Output(error) => error.diagnosis(),
            Self::Malformed { location, fault } => Diagnosis {
                class: FaultClass::BadInput,
                location: location.clone(),
                rule: fault.rule(),
            },
        }
    }
}
