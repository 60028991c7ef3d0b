//! What can be wrong with a PyTorch checkpoint.

use std::path::Path;

use qz_shards::InvalidName;
use qz_tensor::{DATA_TYPES, Diagnose, Diagnosis, FaultClass, FileError, Location, SizeError};

use crate::archive::{MAX_DIRECTORY, MAX_ENTRIES};
use crate::machine::MAX_PICKLE;

/// A failure to read a PyTorch checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened or read.
    #[error(transparent)]
    File(#[from] FileError),
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

/// A broken rule of the format, or of what we are willing to read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Recognised as something else, or not at all.
    #[error("not a PyTorch checkpoint; it looks like {0}")]
    NotPyTorch(&'static str),
    /// A zip archive that `torch.save` did not write.
    #[error("a zip archive without `data.pkl` in its one folder: torch.save did not write it")]
    NoPickle,
    /// A program, which is more than its weights.
    #[error("a TorchScript program, not a checkpoint: save its state_dict instead")]
    TorchScript,
    /// Written on a machine of the other byte order.
    #[error("the storages are big-endian: save the checkpoint anew on a little-endian machine")]
    BigEndian,
    /// An older file of a layout that came and went.
    #[error("{0}: load and save it anew with a current PyTorch")]
    OldLayout(&'static str),

    /// No end record where a zip archive ends.
    #[error("the zip archive has no end record: the file is incomplete, or has bytes behind it")]
    NoEndRecord,
    /// An end record that does not fit the file.
    #[error("the zip archive's end record does not fit the file: {0}")]
    EndRecord(&'static str),
    /// A directory that is too large to be one.
    #[error(
        "the zip directory has {entries} entries in {bytes} bytes; at most {MAX_ENTRIES} in {MAX_DIRECTORY} are read"
    )]
    DirectoryTooLarge {
        /// Entries it is said to have.
        entries: u64,
        /// Bytes it is said to have.
        bytes: u64,
    },
    /// A directory entry that cannot be.
    #[error("the zip directory is damaged: {0}")]
    Directory(&'static str),
    /// An entry whose name could be a path.
    #[error("the zip entry's name is not allowed: {0}")]
    EntryName(String),
    /// Two entries of one name.
    #[error("the zip entry {0} is there twice")]
    DuplicateEntry(String),
    /// Compressed data.
    #[error("the zip entry {0} is compressed; torch.save stores without compression")]
    Compressed(String),
    /// Flags for encryption or other things that are not read.
    #[error("the zip entry {name} has the flags {flags:#06x}, which are not supported")]
    EntryFlags {
        /// The entry.
        name: String,
        /// Its flags.
        flags: u16,
    },
    /// What the directory says is not what the entry says.
    #[error("the zip entry {name}: its {field} differs between directory and entry")]
    HeaderMismatch {
        /// The entry.
        name: String,
        /// What differs.
        field: &'static str,
    },
    /// An entry that begins before the one before it ends.
    #[error(
        "the zip entry {name} begins at byte {begin}, inside the one before, which ends at {end}"
    )]
    EntryOverlap {
        /// The entry.
        name: String,
        /// Where it begins.
        begin: u64,
        /// Where the one before ends.
        end: u64,
    },
    /// Bytes between two entries that belong to neither.
    #[error("{} bytes before {name} belong to no zip entry", begin.saturating_sub(*end))]
    EntryGap {
        /// What follows.
        name: String,
        /// Where it begins.
        begin: u64,
        /// Where the entry before ends.
        end: u64,
    },
    /// Data whose checksum is another than the directory says.
    #[error(
        "the zip entry {name} has the checksum {found:08x}, its directory says {expected:08x}: the file is damaged"
    )]
    Checksum {
        /// The entry.
        name: String,
        /// What the directory says.
        expected: u32,
        /// What the data has.
        found: u32,
    },

    /// Bytes that are no pickle.
    #[error("not a pickle of protocol 2 or newer")]
    NotAPickle,
    /// A protocol that does not exist yet.
    #[error("pickle protocol {0}; 2 to 5 are supported")]
    Protocol(u8),
    /// A pickle that is too long to describe tensors.
    #[error("the pickle has {0} bytes, at most {MAX_PICKLE} are read")]
    PickleTooLong(u64),
    /// More of something than any checkpoint has.
    #[error("the pickle has more than {limit} {what}")]
    PickleLimit {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
    /// A pickle that ends before its program does.
    #[error("the pickle ends too early: {needed} bytes are needed here, {left} are left")]
    TruncatedPickle {
        /// Bytes that were to be read.
        needed: u64,
        /// Bytes before its end.
        left: u64,
    },
    /// A class or function that checkpoints have no use for.
    #[error(
        "the pickle names {0}, which is not among the few names that a state_dict needs; nothing was executed"
    )]
    ForbiddenGlobal(String),
    /// An opcode that checkpoints have no use for.
    #[error(
        "the pickle has the opcode {0}, which a state_dict does not need; nothing was executed"
    )]
    ForbiddenOpcode(&'static str),
    /// A call of something that is no function here.
    #[error("the pickle calls a class that a state_dict does not call; nothing was executed")]
    ForbiddenCall,
    /// Attributes for something that must not have any.
    #[error("the pickle sets attributes of {0}; nothing was executed")]
    ForbiddenBuild(&'static str),
    /// Something behind the end of the pickle.
    #[error("{0} bytes behind the pickle's end")]
    TrailingPickle(u64),
    /// A byte that is no opcode here.
    #[error("no pickle opcode, or one that is out of place")]
    UnknownOpcode,
    /// An opcode that wants more than there is.
    #[error("the pickle takes more from its stack than is there")]
    StackUnderflow,
    /// An opcode that wants a mark where there is none.
    #[error("the pickle goes back to a mark that it did not set")]
    NoMark,
    /// More on the stack than the result.
    #[error("the pickle ends with more on its stack than its result")]
    LeftOnStack,
    /// A memo place that nothing was put in.
    #[error("the pickle recalls value {0}, which it did not keep")]
    MemoUnset(u32),
    /// A memo place far behind the last.
    #[error("the pickle keeps a value as number {0}, out of order")]
    MemoGap(usize),
    /// A number with too many bytes.
    #[error("a number of {0} bytes, at most 8 are supported")]
    NumberTooLong(u8),
    /// A line without an end.
    #[error("a name of more than {0} bytes")]
    LineTooLong(usize),
    /// Text that is none.
    #[error("a text that is not valid UTF-8")]
    Utf8,
    /// A value of another kind than is needed.
    #[error("{expected} is needed here, the pickle has {found}")]
    WrongValue {
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A persistent id that is no storage.
    #[error("a persistent id that is not a storage's")]
    NotAStorage,

    /// No dictionary of tensors, or several.
    #[error("no state_dict: {0}")]
    NoStateDict(String),
    /// A tensor name that occurs twice.
    #[error("the tensor name occurs twice")]
    DuplicateTensor,
    /// A tensor name that is empty or would not print.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// An element type that is not supported.
    #[error("unsupported element type {0}; supported are {types}", types = supported_types())]
    UnknownType(String),
    /// A tensor with something that changes its values.
    #[error("the tensor has {0}, which is not supported")]
    Unsupported(&'static str),
    /// The arguments a tensor is made of have another form.
    #[error("the tensor is made of {0}")]
    Arguments(String),
    /// A size that cannot be.
    #[error("shape {shape:?}: {source}")]
    Size {
        /// The dimensions, outermost first.
        shape: Vec<u64>,
        /// What is wrong with them.
        source: SizeError,
    },
    /// A storage that is not in the file.
    #[error("its storage {0} is not in the file")]
    MissingStorage(String),
    /// A storage of another size than the pickle says.
    #[error("its storage {key} has {found} bytes, the pickle says {expected}")]
    StorageSize {
        /// The storage.
        key: String,
        /// Bytes by the pickle.
        expected: u128,
        /// Bytes by the file.
        found: u64,
    },
    /// Elements that lie behind the storage's end.
    #[error("the tensor reaches to element {last} of its storage, which has {elements}")]
    OutsideStorage {
        /// The last element it needs.
        last: u128,
        /// How many there are.
        elements: u64,
    },
    /// Elements that lie in one place.
    #[error("shape {shape:?} with strides {strides:?} puts several elements in one place")]
    OverlappingStrides {
        /// The dimensions, outermost first.
        shape: Vec<u64>,
        /// Elements from one to the next in each dimension.
        strides: Vec<u64>,
    },
    /// Storages that do not fill the file.
    #[error("{0} bytes behind the last storage")]
    TrailingBytes(u64),
    /// A storage that reaches past the end of the file.
    #[error("the storage {key} needs {needed} bytes, the file has {left} more")]
    StorageMissing {
        /// The storage.
        key: String,
        /// Bytes it needs.
        needed: u128,
        /// Bytes before the file's end.
        left: u64,
    },
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
            Self::NotPyTorch(_) | Self::NoPickle | Self::NotAPickle => "not-pytorch",
            Self::TorchScript => "torchscript",
            Self::BigEndian => "big-endian",
            Self::OldLayout(_) => "old-layout",
            Self::NoEndRecord => "zip-no-end",
            Self::EndRecord(_) => "zip-end-record",
            Self::DirectoryTooLarge { .. } => "zip-directory-too-large",
            Self::Directory(_) => "zip-directory",
            Self::EntryName(_) => "zip-entry-name",
            Self::DuplicateEntry(_) => "zip-duplicate-entry",
            Self::Compressed(_) => "zip-compressed",
            Self::EntryFlags { .. } => "zip-flags",
            Self::HeaderMismatch { .. } => "zip-header-mismatch",
            Self::EntryOverlap { .. } => "zip-overlap",
            Self::EntryGap { .. } => "zip-gap",
            Self::Checksum { .. } => "zip-checksum",
            Self::Protocol(_) => "pickle-protocol",
            Self::PickleTooLong(_) | Self::PickleLimit { .. } => "pickle-limit",
            Self::TruncatedPickle { .. } => "truncated-pickle",
            Self::ForbiddenGlobal(_) => "forbidden-global",
            Self::ForbiddenOpcode(_) => "forbidden-opcode",
            Self::ForbiddenCall => "forbidden-call",
            Self::ForbiddenBuild(_) => "forbidden-build",
            Self::TrailingPickle(_) => "trailing-pickle",
            Self::UnknownOpcode => "unknown-opcode",
            Self::StackUnderflow => "stack-underflow",
            Self::NoMark => "no-mark",
            Self::LeftOnStack => "left-on-stack",
            Self::MemoUnset(_) | Self::MemoGap(_) => "pickle-memo",
            Self::NumberTooLong(_) => "number-too-long",
            Self::LineTooLong(_) => "name-too-long",
            Self::Utf8 => "invalid-utf8",
            Self::WrongValue { .. } => "wrong-value",
            Self::NotAStorage => "not-a-storage",
            Self::NoStateDict(_) => "no-state-dict",
            Self::DuplicateTensor => "duplicate-tensor",
            Self::Name(_) => "invalid-tensor-name",
            Self::UnknownType(_) => "unsupported-type",
            Self::Unsupported(_) => "unsupported-tensor",
            Self::Arguments(_) => "tensor-arguments",
            Self::Size { source: SizeError::Rank(_), .. } => "too-many-dimensions",
            Self::Size { .. } => "size-overflow",
            Self::MissingStorage(_) => "missing-storage",
            Self::StorageSize { .. } => "storage-size",
            Self::OutsideStorage { .. } => "outside-storage",
            Self::OverlappingStrides { .. } => "overlapping-strides",
            Self::TrailingBytes(_) => "trailing-bytes",
            Self::StorageMissing { .. } => "data-missing",
        }
    }

    /// What could make a loader run code is refused by policy; all else is bad
    /// input.
    fn class(&self) -> FaultClass {
        match self {
            Self::ForbiddenGlobal(_)
            | Self::ForbiddenOpcode(_)
            | Self::ForbiddenCall
            | Self::ForbiddenBuild(_)
            | Self::TrailingPickle(_) => FaultClass::Refused,
            _ => FaultClass::BadInput,
        }
    }
}

impl Error {
    /// `fault` in `file`, at byte `offset`.
    pub(crate) fn at(file: &Path, offset: u64, fault: Fault) -> Self {
        Self::Malformed { location: Location::file(file).offset(offset), fault: Box::new(fault) }
    }

    /// The same error with its tensor.
    pub(crate) fn inside(mut self, name: &str) -> Self {
        if let Self::Malformed { location, .. } = &mut self {
            location.tensor = Some(name.to_owned());
        }
        self
    }
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::File(error) => error.diagnosis(),
            Self::Shards(error) => error.diagnosis(),
            Self::Malformed { location, fault } => {
                Diagnosis { class: fault.class(), location: location.clone(), rule: fault.rule() }
            }
        }
    }
}
