//! The `tokenizer.*` entries of a GGUF file, each of the kind it has to be.

use qz_tensor::{Array, Metadata, Texts, Value};

use crate::error::Error;
use crate::tokenizer_file::{MOST_TOKENS, TokenId};

/// Reads entries by key.
#[derive(Clone, Copy)]
pub(super) struct Entries<'a>(pub(super) &'a Metadata);

/// The error that `key` is wrong.
pub(super) fn fault(key: &str, problem: impl Into<String>) -> Error {
    Error::Metadata { key: key.to_owned(), problem: problem.into() }
}

impl<'a> Entries<'a> {
    pub(super) fn string(self, key: &str) -> Result<Option<&'a str>, Error> {
        self.read(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn flag(self, key: &str) -> Result<Option<bool>, Error> {
        self.read(key, "a bool", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn strings(self, key: &str) -> Result<Option<&'a Texts>, Error> {
        self.read(key, "an array of strings", |value| match value {
            Value::Array(Array::String(strings)) => Some(strings),
            _ => None,
        })
    }

    pub(super) fn integers(self, key: &str) -> Result<Option<&'a [i32]>, Error> {
        self.read(key, "an array of i32", |value| match value {
            Value::Array(Array::I32(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// Floats, or the integers that some files hold in their place.
    pub(super) fn floats(self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        self.read(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(numbers)) => Some(numbers.clone()),
            Value::Array(Array::I32(numbers)) => {
                Some(numbers.iter().map(|number| *number as f32).collect())
            }
            _ => None,
        })
    }

    pub(super) fn bytes(self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.read(key, "an array of bytes", |value| match value {
            Value::Array(Array::U8(bytes)) => Some(bytes.clone()),
            Value::Array(Array::I8(bytes)) => {
                Some(bytes.iter().map(|byte| byte.cast_unsigned()).collect())
            }
            _ => None,
        })
    }

    /// The id of one of `count` tokens.
    pub(super) fn token(self, key: &str, count: usize) -> Result<Option<TokenId>, Error> {
        let id = self.read(key, "a token's id", |_| self.0.unsigned(key))?;
        let Some(id) = id else { return Ok(None) };
        match u32::try_from(id) {
            Ok(number) if id < count as u64 => Ok(Some(TokenId(number))),
            _ => Err(fault(key, format!("is {id}, but there are {count} tokens"))),
        }
    }

    /// The vocabulary's tokens, at most as many as there can be ids.
    pub(super) fn tokens(self) -> Result<&'a Texts, Error> {
        const KEY: &str = "tokenizer.ggml.tokens";
        let tokens = self.strings(KEY)?.ok_or_else(|| fault(KEY, "is missing"))?;
        if tokens.len() as u64 > MOST_TOKENS {
            let problem = format!("has {} tokens, more than {MOST_TOKENS}", tokens.len());
            return Err(fault(KEY, problem));
        }
        Ok(tokens)
    }

    fn read<T>(
        self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(fault(key, format!("is not {wanted}"))),
        }
    }
}
