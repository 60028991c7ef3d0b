//! How `tokenizer.json` says that text becomes tokens: normalizer, pre-tokenizer
//! and the flags of added tokens, as the tokenizers library carries them out; and
//! which of that a GGUF file cannot say.

pub(crate) mod cuts;
pub(crate) mod normalizer;
mod unsaid;

use serde_json::Value;

pub(crate) use unsaid::{space_prefix, unsaid, unsaid_flags, unsaid_texts, warn_of_unknown};

/// What SentencePiece writes for a space.
pub(crate) const SPACE: char = '\u{2581}';

/// The steps of a part of `tokenizer.json`, with sequences as their steps.
#[derive(Clone, Debug)]
pub(crate) struct Steps<T> {
    pub(crate) known: Vec<T>,
    /// The kinds of steps that this program does not know.
    pub(crate) unknown: Vec<String>,
}

impl<T> Steps<T> {
    /// Reads `definition`. The steps of a sequence stand under `list`; `read` is for
    /// a single one, by its type, and gives what it consists of.
    pub(crate) fn read(
        definition: &Value,
        list: &str,
        read: &impl Fn(&str, &Value) -> Option<Vec<T>>,
    ) -> Self {
        let mut steps = Self { known: Vec::new(), unknown: Vec::new() };
        steps.collect(definition, list, read);
        steps
    }

    fn collect(
        &mut self,
        definition: &Value,
        list: &str,
        read: &impl Fn(&str, &Value) -> Option<Vec<T>>,
    ) {
        if definition.is_null() {
            return;
        }
        let kind = definition.get("type").and_then(Value::as_str).unwrap_or("?");
        let inner = definition.get(list).and_then(Value::as_array);
        match (kind, inner) {
            // serde_json's own depth limit bounds the recursion.
            ("Sequence", Some(inner)) => {
                inner.iter().for_each(|step| self.collect(step, list, read));
            }
            _ => match read(kind, definition) {
                Some(parts) => self.known.extend(parts),
                None => self.unknown.push(kind.to_owned()),
            },
        }
    }
}
