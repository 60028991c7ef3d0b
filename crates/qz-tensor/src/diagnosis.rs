//! What went wrong, where: the part of every library error that a person or a
//! CI job acts on.

use std::fmt;
use std::path::PathBuf;

/// Whose fault it is. The binary turns this into its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// What was asked for does not exist, or does not fit the input (exit code 2).
    Usage,
    /// The input breaks a rule of its format (exit code 3).
    BadInput,
    /// The disk, a permission, a lock, a device (exit code 4).
    Environment,
    /// A rule of ours that a flag can lift (exit code 5).
    Refused,
    /// A weight or result that is no number, or overflows (exit code 6).
    Numeric,
}

/// Where a fault lies. Parts that make no sense for a fault stay `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The file at fault.
    pub file: Option<PathBuf>,
    /// The tensor or metadata key at fault.
    pub tensor: Option<String>,
    /// Bytes from the start of the file.
    pub offset: Option<u64>,
}

impl Location {
    /// In `file`.
    pub fn file(file: impl Into<PathBuf>) -> Self {
        Self { file: Some(file.into()), ..Self::default() }
    }

    /// The same place, with the tensor or key named.
    pub fn tensor(mut self, name: impl Into<String>) -> Self {
        self.tensor = Some(name.into());
        self
    }

    /// The same place, at this byte.
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            separator = ": ";
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "{separator}{}", tensor.escape_debug())?;
            separator = ": ";
        }
        if let Some(offset) = self.offset {
            write!(f, "{separator}at byte {offset}")?;
            separator = ": ";
        }
        if separator.is_empty() { f.write_str("input") } else { Ok(()) }
    }
}

/// Class, place and rule of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Whose fault.
    pub class: FaultClass,
    /// Where.
    pub location: Location,
    /// The broken rule's short, stable name, for scripts ("duplicate-tensor").
    pub rule: &'static str,
}

/// Something a person should know although the work went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub location: Location,
    /// A short, stable name, for scripts ("auto-map-ignored").
    pub rule: &'static str,
    /// What was found and what was done about it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.message)
    }
}

/// Implemented by every library error.
pub trait Diagnose: std::error::Error {
    /// Class, place and rule.
    fn diagnosis(&self) -> Diagnosis;
}
