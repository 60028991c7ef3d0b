//! What can be wrong with a checkpoint's tokenizer.

use qz_tensor::{Diagnose, Diagnosis, FileError};

/// A fault of a checkpoint's tokenizer files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::File(error) => error.diagnosis(),
        }
    }
}
