//! What can be wrong with a folder of weights, whatever their format.

use std::path::Path;

use qz_tensor::{Diagnose, Diagnosis, FaultClass, FileError, Location};

use crate::index::{MAX_INDEX, MAX_SHARDS};
use crate::json::TextFault;

/// A failure to read a folder of weights, but for what is in its shards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder or its index breaks a rule.
    #[error("{location}: {fault}")]
    Malformed {
        /// The file, the tensor, and the byte.
        location: Location,
        /// The broken rule.
        fault: Box<Fault>,
    },
}

/// A broken rule of a model folder.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The index is recognised as something else.
    #[error("not an index; it looks like {0}")]
    NotAnIndex(&'static str),
    /// An index that is too long to be one.
    #[error("the index has {0} bytes, at most {MAX_INDEX} are supported")]
    IndexTooLong(u64),
    /// Not JSON, or not of the form that is wanted.
    #[error(transparent)]
    Text(#[from] TextFault),
    /// A tensor name that occurs twice.
    #[error("the tensor name occurs twice")]
    DuplicateTensor,
    /// A path where a folder is needed.
    #[error("not a folder")]
    NotAFolder,
    /// A folder without weights in this format.
    #[error("no {format} weights here: neither `{index}` nor `{single}`")]
    NoWeights {
        /// The format that was looked for.
        format: &'static str,
        /// What its index is called.
        index: &'static str,
        /// What its file is called where there is one alone.
        single: &'static str,
    },
    /// A folder with files of weights that do not go together, and no index.
    #[error("several sets of weights and no index: {0}; give the path of the one that is meant")]
    SeveralWeights(NameList),
    /// A shard name that is more than a file name.
    #[error("the shard name {0} leads outside the model folder")]
    OutsideFolder(String),
    /// A shard name with a folder in it.
    #[error(
        "the shard name {0} is in a subfolder; shards are read only from beside their index: move them there"
    )]
    InSubfolder(String),
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
    /// Names that only case or Unicode form tells apart.
    #[error("the name differs from {0:?} in case or Unicode form only")]
    AlikeName(String),
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

/// Text of a file as a message may show it: escaped, and not all of a long one.
pub fn shown(text: &str) -> String {
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
            Self::NotAnIndex(_) => "not-an-index",
            Self::IndexTooLong(_) => "index-too-long",
            Self::Text(fault) => fault.rule(),
            Self::DuplicateTensor => "duplicate-tensor",
            Self::NotAFolder => "not-a-folder",
            Self::NoWeights { .. } => "no-weights",
            Self::SeveralWeights(_) => "ambiguous-weights",
            Self::OutsideFolder(_) | Self::InSubfolder(_) => "outside-folder",
            Self::TooManyShards => "too-many-shards",
            Self::MissingShards(_) => "missing-shards",
            Self::IndexMismatch { .. } => "index-mismatch",
            Self::TensorInTwoShards(_) => "tensor-in-two-shards",
            Self::AlikeName(_) => "alike-names",
        }
    }

    /// Reaching outside a folder is refused by policy; all else is bad input.
    fn class(&self) -> FaultClass {
        match self {
            Self::OutsideFolder(_) | Self::InSubfolder(_) => FaultClass::Refused,
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
            Self::Malformed { location, fault } => {
                Diagnosis { class: fault.class(), location: location.clone(), rule: fault.rule() }
            }
        }
    }
}
