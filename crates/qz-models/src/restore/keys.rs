//! Keys of a GGUF file with their kinds.

use std::ops::RangeInclusive;
use std::path::Path;

use qz_tensor::{Metadata, Value};

use crate::error::Error;

/// The metadata of a file.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    /// The file, for messages.
    pub(super) path: &'a Path,
}

impl<'a> Keys<'a> {
    pub(super) fn fault(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Key { path: self.path.to_owned(), key: key.to_owned(), problem: problem.into() }
    }

    fn missing(&self, key: &str) -> Error {
        Error::MissingKey { path: self.path.to_owned(), key: key.to_owned() }
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.fault(key, "expected a string")),
        }
    }

    pub(super) fn required_string(&self, key: &str) -> Result<&'a str, Error> {
        self.string(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn integer(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Error> {
        if self.metadata.get(key).is_none() {
            return Ok(None);
        }
        match self.metadata.unsigned(key).filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (start, end) = (range.start(), range.end());
                Err(self.fault(key, format!("expected an integer from {start} to {end}")))
            }
        }
    }

    pub(super) fn required_integer(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<u64, Error> {
        self.integer(key, range)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::F32(number)) if number.is_finite() => Ok(Some(*number)),
            Some(_) => Err(self.fault(key, "expected a finite float")),
        }
    }

    pub(super) fn required_float(&self, key: &str) -> Result<f32, Error> {
        self.float(key)?.ok_or_else(|| self.missing(key))
    }
}
