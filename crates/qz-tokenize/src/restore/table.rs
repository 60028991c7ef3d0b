//! The vocabulary as a GGUF file has it, checked.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use qz_tensor::{Array, Metadata, Value};
use serde_json::{Map, json};

use crate::definition::SPACE;
use crate::error::Error;
use crate::token_types::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, looks_special};
use crate::word_piece_tokens::CONTINUES;

/// The kinds of vocabulary whose files can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `gpt2`.
    ByteLevel,
    /// `llama`.
    SentencePiece,
    /// `gemma4`: pieces with U+2581, and merges.
    MergedPieces,
    /// `bert`.
    WordPiece,
    /// `t5`.
    Unigram,
}

/// The token in front of a text, as all models with WordPiece vocabularies call it.
const CLASSIFIER: &str = "[CLS]";

/// The tokens with a job.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SpecialIds {
    pub(super) beginning: Option<u32>,
    pub(super) end: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) separator: Option<u32>,
    pub(super) padding: Option<u32>,
    pub(super) mask: Option<u32>,
    /// The token in front of a text for WordPiece, which GGUF has no key for.
    pub(super) classifier: Option<u32>,
    pub(super) end_of_turn: Option<u32>,
    pub(super) end_of_message: Option<u32>,
}

impl SpecialIds {
    /// Those that `tokenizer_config.json` names, with their names there; the last
    /// ones only where there is one.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, Option<u32>)> {
        let always = [
            ("bos", self.beginning),
            ("eos", self.end),
            ("unk", self.unknown),
            ("pad", self.padding),
        ];
        let sometimes = [("sep", self.separator), ("mask", self.mask), ("cls", self.classifier)];
        always.into_iter().chain(sometimes.into_iter().filter(|(_, id)| id.is_some()))
    }
}

/// A vocabulary. Every token that is not [`UNUSED`] is there once.
pub(super) struct Table<'a> {
    pub(super) path: &'a Path,
    pub(super) kind: Kind,
    pub(super) tokens: Vec<&'a str>,
    pub(super) types: Vec<i32>,
    /// As many as tokens.
    pub(super) scores: Option<&'a [f32]>,
    pub(super) merges: Vec<&'a str>,
    pub(super) special: SpecialIds,
    /// The tokens from here on are on top of the model's own.
    pub(super) model_tokens: usize,
}

impl<'a> Table<'a> {
    /// Reads it. `size` is how many rows the token embedding has.
    pub(super) fn read(metadata: &'a Metadata, path: &'a Path, size: u64) -> Result<Self, Error> {
        let keys = Keys { metadata, path };
        let kind = match keys.string("tokenizer.ggml.model")? {
            "gpt2" => Kind::ByteLevel,
            "llama" => Kind::SentencePiece,
            "gemma4" => Kind::MergedPieces,
            "bert" => Kind::WordPiece,
            "t5" => Kind::Unigram,
            "none" | "no_vocab" => {
                return Err(Error::MissingKey { path: path.into(), key: "tokenizer.ggml.tokens" });
            }
            other => {
                let kind = format!("tokenizer.ggml.model {other:?}:");
                return Err(Error::Unsupported { path: path.into(), kind });
            }
        };
        let tokens = keys.strings("tokenizer.ggml.tokens")?;
        if tokens.is_empty() || tokens.len() as u64 > size {
            let problem =
                format!("has {} tokens, but the token embedding has {size} rows", tokens.len());
            return Err(keys.fault("tokenizer.ggml.tokens", problem));
        }
        let merges = match kind {
            Kind::ByteLevel | Kind::MergedPieces => keys.strings("tokenizer.ggml.merges")?,
            Kind::SentencePiece | Kind::WordPiece | Kind::Unigram => Vec::new(),
        };
        let mut table = Self {
            path,
            kind,
            types: keys.types(tokens.len())?,
            scores: keys.scores(tokens.len())?,
            merges,
            special: keys.special(kind, tokens.len())?,
            tokens,
            model_tokens: 0,
        };
        if kind == Kind::WordPiece {
            let id = table.tokens.iter().position(|token| *token == CLASSIFIER);
            table.special.classifier = id.and_then(|id| u32::try_from(id).ok());
        }
        table.check_unique()?;
        table.model_tokens = table.count_model_tokens();
        Ok(table)
    }

    fn check_unique(&self) -> Result<(), Error> {
        let mut first_ids: HashMap<&str, usize> = HashMap::with_capacity(self.tokens.len());
        for (id, token) in self.used() {
            if let Some(first) = first_ids.insert(token, id) {
                let problem = format!("{token:?} has two ids, {first} and {id}");
                return Err(fault(self.path, "tokenizer.ggml.tokens", problem));
            }
        }
        Ok(())
    }

    /// A token of the model as `tokenizer.json` has it.
    pub(super) fn own_text(&self, id: usize, text: &'a str) -> Cow<'a, str> {
        if self.kind != Kind::WordPiece || matches!(self.types[id], CONTROL | UNKNOWN) {
            return text.into();
        }
        match text.strip_prefix(SPACE) {
            Some(word) => word.into(),
            None => format!("{CONTINUES}{text}").into(),
        }
    }

    /// tokenizers gives added tokens that the model does not know the next free
    /// ids. So they may stay out of the model's vocabulary if they follow it
    /// without a gap; else all tokens belong to it.
    fn count_model_tokens(&self) -> usize {
        // A unigram model has a score for each id.
        if self.kind == Kind::Unigram {
            return self.tokens.len();
        }
        let is_model = |kind: &i32| matches!(*kind, NORMAL | BYTE | UNKNOWN);
        let end = self.types.iter().rposition(is_model).map_or(0, |last| last + 1);
        let used = self.types.iter().rposition(|kind| *kind != UNUSED).map_or(0, |last| last + 1);
        if self.types[..used].contains(&UNUSED) { used } else { end }
    }

    /// The tokens that stand for something, with their ids.
    pub(super) fn used(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        tokens.filter(|(_, (_, kind))| **kind != UNUSED).map(|(id, (text, _))| (id, *text))
    }

    /// The token of the model for text that no other token fits: the one that is
    /// named, else the one of that type, else llama.cpp's, which is the first.
    pub(super) fn unknown(&self) -> Option<usize> {
        let named = self.special.unknown.map(|id| id as usize);
        let typed = || self.types.iter().position(|kind| *kind == UNKNOWN);
        let first = || (*self.tokens.first()? == "<unk>").then_some(0);
        named.or_else(typed).or_else(first).filter(|id| *id < self.model_tokens)
    }

    /// A token's text; the id is one of the table.
    pub(super) fn text(&self, id: u32) -> &'a str {
        self.tokens.get(id as usize).copied().unwrap_or_default()
    }

    /// True if a text is searched for the token as it stands; then also whether it
    /// is special.
    pub(super) fn added(&self, id: usize) -> Option<bool> {
        let is_named = || self.special.named().any(|(_, named)| named == Some(id as u32));
        // Of a tokenizer.json without a name for it GGUF has it as a normal token.
        let has_pieces = matches!(self.kind, Kind::SentencePiece | Kind::MergedPieces);
        let is_unknown = || has_pieces && self.unknown() == Some(id);
        match self.types[id] {
            CONTROL | UNKNOWN => Some(true),
            USER_DEFINED => Some(false),
            NORMAL if is_named() || is_unknown() => Some(true),
            // The mask of XLM-RoBERTa's files has a job and no name.
            UNUSED if self.kind == Kind::Unigram && is_named() => Some(true),
            _ => None,
        }
    }

    /// `added_tokens_decoder` of `tokenizer_config.json`: what a GGUF file of
    /// `tokenizer.model` and it marks as control or user-defined.
    pub(super) fn declared_by_id(&self) -> serde_json::Value {
        let declared = self.used().filter_map(|(id, text)| {
            let special = match self.types[id] {
                CONTROL => true,
                USER_DEFINED if !looks_special(text) => false,
                _ => return None,
            };
            let flags = json!({
                "content": text, "lstrip": false, "normalized": false, "rstrip": false,
                "single_word": false, "special": special,
            });
            Some((id.to_string(), flags))
        });
        serde_json::Value::Object(declared.collect::<Map<_, _>>())
    }

    /// `added_tokens.json`: user-defined tokens that the other file would have taken
    /// for control tokens, by their looks.
    pub(super) fn declared_by_content(&self) -> Map<String, serde_json::Value> {
        let declared = self
            .used()
            .filter(|(id, text)| self.types[*id] == USER_DEFINED && looks_special(text))
            .map(|(id, text)| (text.to_owned(), json!(id)));
        declared.collect()
    }
}

pub(super) fn fault(path: &Path, key: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Key { path: path.into(), key: key.into(), problem: problem.into() }
}

/// Reads keys with their kinds.
struct Keys<'a> {
    metadata: &'a Metadata,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    fn fault(&self, key: &str, problem: impl Into<String>) -> Error {
        fault(self.path, key, problem)
    }

    fn required(&self, key: &'static str) -> Result<&'a Value, Error> {
        self.metadata.get(key).ok_or_else(|| Error::MissingKey { path: self.path.into(), key })
    }

    fn string(&self, key: &'static str) -> Result<&'a str, Error> {
        match self.required(key)? {
            Value::String(text) => Ok(text),
            _ => Err(self.fault(key, "expected a string")),
        }
    }

    fn strings(&self, key: &'static str) -> Result<Vec<&'a str>, Error> {
        match self.required(key)? {
            Value::Array(Array::String(list)) => Ok(list.iter().collect()),
            _ => Err(self.fault(key, "expected a list of strings")),
        }
    }

    fn types(&self, count: usize) -> Result<Vec<i32>, Error> {
        let key = "tokenizer.ggml.token_type";
        let types: Vec<i32> = match self.metadata.get(key) {
            None => vec![NORMAL; count],
            Some(Value::Array(Array::I32(types))) => types.clone(),
            Some(Value::Array(Array::U32(types))) => {
                types.iter().map(|kind| i32::try_from(*kind).unwrap_or(0)).collect()
            }
            Some(_) => return Err(self.fault(key, "expected a list of integers")),
        };
        self.check_length(key, types.len(), count)?;
        match types.iter().position(|kind| !(NORMAL..=BYTE).contains(kind)) {
            Some(id) => {
                Err(self.fault(key, format!("token {id} has the unknown type {}", types[id])))
            }
            None => Ok(types),
        }
    }

    fn scores(&self, count: usize) -> Result<Option<&'a [f32]>, Error> {
        let key = "tokenizer.ggml.scores";
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(scores))) => {
                self.check_length(key, scores.len(), count)?;
                match scores.iter().position(|score| !score.is_finite()) {
                    Some(id) => Err(self.fault(key, format!("token {id} has no finite score"))),
                    None => Ok(Some(scores)),
                }
            }
            Some(_) => Err(self.fault(key, "expected a list of floats")),
        }
    }

    fn check_length(&self, key: &str, found: usize, count: usize) -> Result<(), Error> {
        if found == count {
            return Ok(());
        }
        Err(self.fault(key, format!("has {found} entries, but there are {count} tokens")))
    }

    fn special(&self, kind: Kind, count: usize) -> Result<SpecialIds, Error> {
        let id = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            if self.metadata.get(&key).is_none() {
                return Ok(None);
            }
            let id = self.metadata.unsigned(&key).filter(|id| *id < count as u64);
            match id.and_then(|id| u32::try_from(id).ok()) {
                Some(id) => Ok(Some(id)),
                None => Err(self.fault(&key, format!("expected an id below {count}"))),
            }
        };
        // llama.cpp's own, where a SentencePiece vocabulary names none.
        let fallback = |id: u32| (kind == Kind::SentencePiece && count > 2).then_some(id);
        Ok(SpecialIds {
            beginning: id("bos")?.or(fallback(1)),
            end: id("eos")?.or(fallback(2)),
            unknown: id("unknown")?,
            separator: id("seperator")?,
            padding: id("padding")?,
            mask: id("mask")?,
            classifier: None,
            end_of_turn: id("eot")?,
            end_of_message: id("eom")?,
        })
    }
}
