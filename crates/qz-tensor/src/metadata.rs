//! Typed key-value metadata, in order. The value kinds are GGUF's, which
//! contain those of every other container.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::texts::{ByteTexts, Texts};

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `uint8`
    U8(u8),
    /// `int8`
    I8(i8),
    /// `uint16`
    U16(u16),
    /// `int16`
    I16(i16),
    /// `uint32`
    U32(u32),
    /// `int32`
    I32(i32),
    /// `float32`
    F32(f32),
    /// `bool`
    Bool(bool),
    /// `string`
    String(String),
    /// `string` whose bytes are no UTF-8
    Bytes(Vec<u8>),
    /// `array`
    Array(Array),
    /// `uint64`
    U64(u64),
    /// `int64`
    I64(i64),
    /// `float64`
    F64(f64),
}

/// A homogeneous array value. Arrays do not nest.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// of `uint8`
    U8(Vec<u8>),
    /// of `int8`
    I8(Vec<i8>),
    /// of `uint16`
    U16(Vec<u16>),
    /// of `int16`
    I16(Vec<i16>),
    /// of `uint32`
    U32(Vec<u32>),
    /// of `int32`
    I32(Vec<i32>),
    /// of `float32`
    F32(Vec<f32>),
    /// of `bool`
    Bool(Vec<bool>),
    /// of `string`
    String(Texts),
    /// of `string`, where at least one is no UTF-8
    Bytes(ByteTexts),
    /// of `uint64`
    U64(Vec<u64>),
    /// of `int64`
    I64(Vec<i64>),
    /// of `float64`
    F64(Vec<f64>),
}

/// The kind of a value or of an array's elements; the discriminant is the number
/// that GGUF files store (`enum gguf_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ValueKind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

macro_rules! kinds {
    ($($kind:ident),*) => {
        impl Value {
            /// The value's kind.
            pub fn kind(&self) -> ValueKind {
                match self {
                    $(Value::$kind(_) => ValueKind::$kind,)*
                    Value::Bytes(_) => ValueKind::String,
                    Value::Array(_) => ValueKind::Array,
                }
            }
        }
        impl Array {
            /// The elements' kind.
            pub fn kind(&self) -> ValueKind {
                match self {
                    $(Array::$kind(_) => ValueKind::$kind,)*
                    Array::Bytes(_) => ValueKind::String,
                }
            }

            /// How many elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$kind(elements) => elements.len(),)*
                    Array::Bytes(elements) => elements.len(),
                }
            }
        }
    };
}
kinds!(U8, I8, U16, I16, U32, I32, F32, Bool, String, U64, I64, F64);

impl Array {
    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

macro_rules! from_value {
    ($($type:ty => $variant:expr;)*) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self { $variant(value) }
        })*
    };
}
from_value! {
    u8 => Value::U8; i8 => Value::I8; u16 => Value::U16; i16 => Value::I16;
    u32 => Value::U32; i32 => Value::I32; u64 => Value::U64; i64 => Value::I64;
    f32 => Value::F32; f64 => Value::F64; bool => Value::Bool; String => Value::String;
    Array => Value::Array;
    Vec<String> => |v: Vec<String>| Value::Array(Array::String(v.into()));
    Vec<i32> => |v| Value::Array(Array::I32(v));
    Vec<u32> => |v| Value::Array(Array::U32(v));
    Vec<f32> => |v| Value::Array(Array::F32(v));
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::String(value.to_owned())
    }
}

impl ValueKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [ValueKind; 13] = [
        ValueKind::U8,
        ValueKind::I8,
        ValueKind::U16,
        ValueKind::I16,
        ValueKind::U32,
        ValueKind::I32,
        ValueKind::F32,
        ValueKind::Bool,
        ValueKind::String,
        ValueKind::Array,
        ValueKind::U64,
        ValueKind::I64,
        ValueKind::F64,
    ];

    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// Key-value pairs in file order; keys are unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    keys: Texts,
    /// As many.
    values: Vec<Value>,
}

impl Metadata {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// All of these, in order. Unlike repeated [`Metadata::set`] this takes
    /// time proportional to their number, which a hostile file chooses.
    ///
    /// # Errors
    /// The first key that occurs twice.
    ///
    /// # Panics
    /// If there are not as many values as keys.
    pub fn from_unique(keys: Texts, values: Vec<Value>) -> Result<Self, String> {
        assert_eq!(keys.len(), values.len(), "a value for each key");
        let mut seen = HashSet::with_capacity(keys.len());
        let repeated = keys.iter().find(|key| !seen.insert(*key)).map(str::to_owned);
        match repeated {
            Some(key) => Err(key),
            None => Ok(Self { keys, values }),
        }
    }

    /// Sets `key`: in place if it exists, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.position(&key).and_then(|position| self.values.get_mut(position)) {
            Some(old) => *old = value,
            None => {
                self.keys.push(&key);
                self.values.push(value);
            }
        }
    }

    /// Removes `key` and returns what it held.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let position = self.position(key)?;
        self.keys.remove(position);
        Some(self.values.remove(position))
    }

    /// What `key` holds.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(self.position(key)?)
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.keys.iter().position(|existing| existing == key)
    }

    /// The string under `key`.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    /// The same where all strings are text: what is no UTF-8 in one is replaced. For
    /// readers that want to know what is meant; whoever copies takes it as it is.
    pub fn as_text(&self) -> Cow<'_, Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let is_text =
            |value: &Value| !matches!(value, Value::Bytes(_) | Value::Array(Array::Bytes(_)));
        if self.values.iter().all(is_text) {
            return Cow::Borrowed(self);
        }
        let as_text = |value: &Value| match value {
            Value::Bytes(bytes) => Value::String(text(bytes)),
            Value::Array(Array::Bytes(list)) => {
                Value::Array(Array::String(list.iter().map(text).collect()))
            }
            value => value.clone(),
        };
        let values = self.values.iter().map(as_text).collect();
        Cow::Owned(Self { keys: self.keys.clone(), values })
    }

    /// The non-negative integer under `key`, whatever its width.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        match *self.get(key)? {
            Value::U8(value) => Some(value.into()),
            Value::U16(value) => Some(value.into()),
            Value::U32(value) => Some(value.into()),
            Value::U64(value) => Some(value),
            Value::I8(value) => value.try_into().ok(),
            Value::I16(value) => value.try_into().ok(),
            Value::I32(value) => value.try_into().ok(),
            Value::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.keys.iter().zip(&self.values)
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl IntoIterator for Metadata {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    /// The entries in order.
    fn into_iter(self) -> Self::IntoIter {
        let keys = self.keys.iter().map(str::to_owned);
        keys.zip(self.values).collect::<Vec<_>>().into_iter()
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut metadata = Self::new();
        for (key, value) in pairs {
            metadata.set(key, value);
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_can_be_taken_as_text() {
        let values = vec![
            Value::Bytes(b"caf\xe9".to_vec()),
            Value::Array(Array::Bytes(vec![&b"x"[..], &[0xff]].into())),
            Value::U8(1),
        ];
        let metadata = Metadata::from_unique(vec!["a", "b", "c"].into(), values);
        let metadata = metadata.expect("no key occurs twice");
        assert_eq!(metadata.string("a"), None);
        let text = metadata.as_text();
        assert_eq!(text.string("a"), Some("caf\u{fffd}"));
        assert_eq!(text.get("b"), Some(&vec!["x".to_owned(), "\u{fffd}".to_owned()].into()));
        assert_eq!(text.get("c"), metadata.get("c"));
        assert!(matches!(text.as_text(), Cow::Borrowed(_)));
    }

    #[test]
    fn unique_entries_keep_their_order() {
        let values = || vec![Value::U8(1), Value::U8(2)];
        let metadata = Metadata::from_unique(vec!["b", "a"].into(), values());
        let metadata = metadata.expect("no key occurs twice");
        assert!(metadata.iter().map(|(key, _)| key).eq(["b", "a"]));
        let repeated = Metadata::from_unique(vec!["b", "b"].into(), values());
        assert_eq!(repeated, Err("b".to_owned()));
    }
}
