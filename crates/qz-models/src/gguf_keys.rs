//! What a file says about its model.

use qz_tensor::{Array, Metadata, Value as Entry};

/// A model's own keys in the metadata of a GGUF file.
#[derive(Clone, Copy)]
pub struct GgufKeys<'a> {
    /// The metadata.
    pub metadata: &'a Metadata,
    /// The architecture's name, which they begin with.
    pub prefix: &'a str,
}

impl GgufKeys<'_> {
    fn get(&self, key: &str) -> Option<&Entry> {
        self.metadata.get(&format!("{}.{key}", self.prefix))
    }

    /// A size.
    pub fn size(&self, key: &str) -> Option<u64> {
        self.metadata.unsigned(&format!("{}.{key}", self.prefix))
    }

    /// A number.
    pub fn number(&self, key: &str) -> Option<f32> {
        match self.get(key)? {
            Entry::F32(number) => Some(*number),
            _ => None,
        }
    }

    /// Sizes, one for each layer.
    pub fn sizes(&self, key: &str) -> Option<&[i32]> {
        match self.get(key)? {
            Entry::Array(Array::I32(sizes)) => Some(sizes),
            _ => None,
        }
    }

    /// Numbers, one for each layer.
    pub fn numbers(&self, key: &str) -> Option<&[f32]> {
        match self.get(key)? {
            Entry::Array(Array::F32(numbers)) => Some(numbers),
            _ => None,
        }
    }

    /// Booleans, one for each layer.
    pub fn flags(&self, key: &str) -> Option<&[bool]> {
        match self.get(key)? {
            Entry::Array(Array::Bool(flags)) => Some(flags),
            _ => None,
        }
    }

    /// True if a boolean is there and true.
    pub fn is_set(&self, key: &str) -> bool {
        self.get(key) == Some(&Entry::Bool(true))
    }
}
