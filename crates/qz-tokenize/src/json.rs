//! Side files as JSON, with the truth values of Python: the reference's rules
//! speak of them.

use qz_tensor::{SideFiles, recognise};
use serde_json::{Map, Value};

use crate::error::Error;

/// The settings beside `tokenizer.json`; empty where there is no such file.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// `tokenizer_config.json`.
    pub(crate) tokenizer: Map<String, Value>,
    /// `config.json`.
    pub(crate) model: Map<String, Value>,
}

impl Settings {
    pub(crate) fn read(files: &dyn SideFiles) -> Result<Self, Error> {
        Ok(Self {
            tokenizer: read_object(files, "tokenizer_config.json")?.unwrap_or_default(),
            model: read_object(files, "config.json")?.unwrap_or_default(),
        })
    }
}

/// What a file begins with that Git LFS left in the place of another.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// A side file's bytes, if they do not show that it is another file; `None` if there
/// is no such file.
pub(crate) fn read_bytes(files: &dyn SideFiles, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let Some(bytes) = files.read(name)? else { return Ok(None) };
    refuse_other_files(files, name, &bytes)?;
    Ok(Some(bytes))
}

fn refuse_other_files(files: &dyn SideFiles, name: &str, bytes: &[u8]) -> Result<(), Error> {
    match recognise(bytes) {
        Some(found) => Err(Error::OtherFile { path: files.path(name), found }),
        None => Ok(()),
    }
}

/// A side file as a JSON object; `None` if there is no such file.
pub(crate) fn read_object(
    files: &dyn SideFiles,
    name: &str,
) -> Result<Option<Map<String, Value>>, Error> {
    let Some(bytes) = read_bytes(files, name)? else { return Ok(None) };
    match qz_shards::json::settings(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(fault(files, name, "(root)", "is not a JSON object")),
        Err(source) => Err(Error::Json { path: files.path(name), source }),
    }
}

/// A side file as text; `None` if there is no such file.
pub(crate) fn read_text(files: &dyn SideFiles, name: &str) -> Result<Option<String>, Error> {
    let Some(bytes) = files.read(name)? else { return Ok(None) };
    if bytes.starts_with(LFS_POINTER) {
        refuse_other_files(files, name, &bytes)?;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(Error::Text { path: files.path(name), source: error.utf8_error() }),
    }
}

/// The error that `key` of the file `name` is wrong.
pub(crate) fn fault(
    files: &dyn SideFiles,
    name: &str,
    key: impl Into<String>,
    problem: impl Into<String>,
) -> Error {
    Error::Key { path: files.path(name), key: key.into(), problem: problem.into() }
}

/// Python's truth value.
pub(crate) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
    }
}

/// The content of a token that is written as a string or as an object.
pub(crate) fn token_content(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Object(token) => token.get("content")?.as_str(),
        _ => None,
    }
}

/// A JSON value in a message, at most `longest` characters of it.
pub(crate) fn shown(value: &Value, longest: usize) -> String {
    let text = value.to_string();
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
