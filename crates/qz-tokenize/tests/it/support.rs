//! Tokenizer files in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use qz_tensor::{FileError, SideFiles};
use qz_tokenize::{Error, Vocabulary, VocabularyOptions, vocabulary};
use serde_json::{Value, json};

/// Llama 3's pattern.
pub(crate) const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(crate) struct Files(pub(crate) BTreeMap<String, Vec<u8>>);

impl SideFiles for Files {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.0.get(name).cloned())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, FileError> {
        let name = |path: &String| Some(path.strip_prefix(folder)?.strip_prefix('/')?.to_owned());
        Ok(self.0.keys().filter_map(name).collect())
    }

    fn folder_name(&self) -> Option<&str> {
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

impl Files {
    /// A small tokenizer: eight tokens of the model, `<|end|>` with id 8 and
    /// `<t>` with id 9, of which the first is special.
    pub(crate) fn small() -> Self {
        let tokenizer = json!({
            "added_tokens": [added(8, "<|end|>", true), added(9, "<t>", false)],
            "normalizer": null,
            "pre_tokenizer": split_then_bytes(LLAMA_3),
            "post_processor": null,
            "decoder": {"type": "ByteLevel"},
            "model": {
                "type": "BPE",
                "ignore_merges": true,
                "vocab": {"a": 0, "b": 1, "\u{120}": 2, "ab": 3, "\u{120}a": 4, "c": 5, "d": 6, "\u{120}ab": 7},
                "merges": ["a b", "\u{120} a", "\u{120}a b"],
            },
        });
        let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"});
        Self(BTreeMap::new())
            .write("tokenizer.json", tokenizer.to_string())
            .write("tokenizer_config.json", config.to_string())
    }

    pub(crate) fn write(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.0.insert(name.to_owned(), content.into());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    pub(crate) fn edit(self, name: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let mut value = serde_json::from_slice(&self.0[name]).expect("JSON");
        edit(&mut value);
        self.write(name, value.to_string())
    }

    pub(crate) fn tokenizer(self, edit: impl FnOnce(&mut Value)) -> Self {
        self.edit("tokenizer.json", edit)
    }

    pub(crate) fn config(self, key: &str, value: Value) -> Self {
        self.edit("tokenizer_config.json", |config| config[key] = value)
    }

    /// The vocabulary of a model with room for `size` tokens.
    pub(crate) fn vocabulary(&self, size: u64) -> Result<Vocabulary, Error> {
        vocabulary(self, VocabularyOptions { size: Some(size), ..VocabularyOptions::default() })
    }
}

pub(crate) fn added(id: i64, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special,
    })
}

pub(crate) fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

pub(crate) fn bytes(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": use_regex})
}

pub(crate) fn sequence(steps: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": steps})
}

pub(crate) fn split_then_bytes(pattern: &str) -> Value {
    sequence(&[split(pattern), bytes(false)])
}
