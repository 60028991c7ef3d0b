//! `tokenizer.json`, read into what a GGUF vocabulary needs. Vocabulary and
//! merges go straight into their final form: as generic JSON a large vocabulary
//! would take ten times the memory.

use std::collections::{HashMap, HashSet};
use std::fmt;

use qz_shards::json;
use qz_tensor::SideFiles;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use crate::definition::space_prefix;
use crate::error::Error;
use crate::json::{fault, read_bytes, read_object, shown};

/// The file's name.
pub(crate) const NAME: &str = "tokenizer.json";

/// More tokens than any vocabulary has (the largest today has 262 144).
pub(crate) const MOST_TOKENS: u64 = 1 << 24;

/// More values than a normalizer, pre-tokenizer, post-processor or decoder has: those of today
/// have some hundreds.
const MOST_VALUES: usize = 1 << 16;

/// A part whose values are kept as they are.
fn part<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    json::few_values(deserializer, MOST_VALUES)
}

/// What `tokenizer.json` says.
#[derive(Debug, Deserialize)]
#[serde(from = "Fields")]
pub(crate) struct TokenizerFile {
    pub(crate) surroundings: Surroundings,
    pub(crate) pre_tokenizer: Value,
    pub(crate) decoder: Value,
    pub(crate) padding: Value,
    pub(crate) model: Model,
}

/// What of `tokenizer.json` counts for a vocabulary from any file.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Surroundings {
    #[serde(default)]
    pub(crate) added_tokens: Vec<DeclaredToken>,
    #[serde(default, deserialize_with = "part")]
    pub(crate) normalizer: Value,
    #[serde(default, deserialize_with = "part")]
    pub(crate) post_processor: Value,
}

/// The fields as they stand in the file.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    added_tokens: Vec<DeclaredToken>,
    #[serde(default, deserialize_with = "part")]
    normalizer: Value,
    #[serde(default, deserialize_with = "part")]
    pre_tokenizer: Value,
    #[serde(default, deserialize_with = "part")]
    post_processor: Value,
    #[serde(default, deserialize_with = "part")]
    decoder: Value,
    #[serde(default, deserialize_with = "part")]
    padding: Value,
    model: Model,
}

impl From<Fields> for TokenizerFile {
    fn from(fields: Fields) -> Self {
        let Fields { added_tokens, normalizer, pre_tokenizer, post_processor, .. } = fields;
        Self {
            surroundings: Surroundings { added_tokens, normalizer, post_processor },
            pre_tokenizer,
            decoder: fields.decoder,
            padding: fields.padding,
            model: fields.model,
        }
    }
}

/// An entry of `added_tokens`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DeclaredToken {
    pub(crate) id: TokenId,
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) special: bool,
    /// Whether it is searched for in normalized text. tokenizers' own default.
    pub(crate) normalized: Option<bool>,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
}

impl DeclaredToken {
    /// A token with the flags that stand in `value`, the same way as here.
    pub(crate) fn new(id: TokenId, content: &str, special: bool, value: &Value) -> Self {
        let flag = |flag: &str| value.get(flag).and_then(Value::as_bool);
        let TokenFlags { lstrip, rstrip, single_word } = TokenFlags::of(value);
        Self {
            id,
            content: content.to_owned(),
            special,
            normalized: flag("normalized"),
            lstrip,
            rstrip,
            single_word,
        }
    }

    pub(crate) fn flags(&self) -> TokenFlags {
        TokenFlags { lstrip: self.lstrip, rstrip: self.rstrip, single_word: self.single_word }
    }
}

/// Where an added token is found, and what it takes along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenFlags {
    /// White space before it.
    pub(crate) lstrip: bool,
    /// White space behind it.
    pub(crate) rstrip: bool,
    /// Not inside of words.
    pub(crate) single_word: bool,
}

impl TokenFlags {
    /// The flags of a token that is written as an object; a string has none.
    pub(crate) fn of(value: &Value) -> Self {
        let flag = |flag: &str| value.get(flag).and_then(Value::as_bool).unwrap_or(false);
        Self { lstrip: flag("lstrip"), rstrip: flag("rstrip"), single_word: flag("single_word") }
    }
}

/// The model.
#[derive(Debug, Deserialize)]
pub(crate) struct Model {
    /// Old files leave it out.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) byte_fallback: Option<bool>,
    #[serde(default)]
    pub(crate) ignore_merges: Option<bool>,
    /// The token for letters without one.
    #[serde(default)]
    pub(crate) unk_token: Option<String>,
    /// Its id, in a unigram model.
    #[serde(default)]
    pub(crate) unk_id: Option<u64>,
    /// Whether several such letters are one token.
    #[serde(default)]
    pub(crate) fuse_unk: Option<bool>,
    /// How often a merge is left out by chance.
    #[serde(default)]
    pub(crate) dropout: Option<f64>,
    /// What stands in front of tokens inside of words, if they are written so.
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    /// What stands behind tokens at a word's end, if they are written so.
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(crate) vocab: Tokens,
    #[serde(default)]
    pub(crate) merges: Merges,
}

impl Model {
    /// The ids of what each merge joins and of what it gives, in order. Those of
    /// [`TokenizerFile::read`] have all three.
    pub(crate) fn merge_ids(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        self.merges.lines.iter().filter_map(|line| {
            let (left, right) = line.split_once(' ')?;
            let product = self.id_in_merge(&format!("{left}{right}"))?;
            Some((self.id_in_merge(left)?.0, self.id_in_merge(right)?.0, product.0))
        })
    }

    /// The place of each token among those that merges give, by when one first does.
    pub(crate) fn merge_order(&self) -> HashMap<u32, u32> {
        let mut order = HashMap::new();
        for (_, _, product) in self.merge_ids() {
            let next = order.len() as u32;
            order.entry(product).or_insert(next);
        }
        order
    }

    /// The token that is written so in a merge.
    fn id_in_merge(&self, token: &str) -> Option<TokenId> {
        let ids = &self.vocab.ids;
        let with_spaces =
            || token.contains('\u{120}').then(|| ids.get(&token.replace('\u{120}', " "))).flatten();
        ids.get(token).or_else(with_spaces).copied()
    }
}

/// A token's id. One read from a file is below 2^24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub u32);

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = json::few_values(deserializer, 1)?;
        value
            .as_u64()
            .filter(|id| *id < MOST_TOKENS)
            .and_then(|id| u32::try_from(id).ok())
            .map(TokenId)
            .ok_or_else(|| {
                de::Error::custom(format!(
                    "a token's id is {}, expected an integer from 0 to {}",
                    shown(&value, 80),
                    MOST_TOKENS - 1
                ))
            })
    }
}

/// The model's own tokens with their ids.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// By id and by content; both unique.
    pub(crate) ids: HashMap<String, TokenId>,
    /// A list of tokens with scores, which is another kind of model; an id is a place in it.
    pub(crate) scored: Vec<(String, f64)>,
    /// True if there is such a list.
    pub(crate) is_scored_list: bool,
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TokensVisitor;
        impl<'de> Visitor<'de> for TokensVisitor {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
                let mut ids = HashMap::new();
                while let Some((token, id)) = map.next_entry::<String, TokenId>()? {
                    if let Some(first) = ids.insert(token.clone(), id) {
                        return Err(de::Error::custom(format!(
                            "model.vocab: the token {token:?} is there twice, with ids {} and {}",
                            first.0, id.0
                        )));
                    }
                }
                Ok(Tokens { ids, ..Tokens::default() })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tokens, A::Error> {
                let mut scored = Vec::new();
                while let Some((token, score)) = list.next_element::<(String, f64)>()? {
                    if scored.len() as u64 >= MOST_TOKENS {
                        return Err(de::Error::custom("model.vocab has too many tokens"));
                    }
                    if !(score as f32).is_finite() {
                        let problem = format!("model.vocab: the score of {token:?} is {score}");
                        return Err(de::Error::custom(problem));
                    }
                    scored.push((token, score));
                }
                let ids =
                    (0u32..).zip(&scored).map(|(id, (token, _))| (token.clone(), TokenId(id)));
                Ok(Tokens { ids: ids.collect(), scored, is_scored_list: true })
            }
        }
        deserializer.deserialize_any(TokensVisitor)
    }
}

/// Merges as GGUF stores them: two tokens with a space between, and spaces
/// inside a token written as U+0120.
#[derive(Debug, Default)]
pub(crate) struct Merges {
    pub(crate) lines: Vec<String>,
}

impl Merges {
    /// Of a merge that is there twice the last counts, as in the tokenizers library
    /// (`BpeBuilder::build`); in llama.cpp the first does.
    fn keep_last(&mut self) {
        let mut seen = HashSet::with_capacity(self.lines.len());
        let is_last: Vec<bool> =
            self.lines.iter().rev().map(|line| seen.insert(line.as_str())).collect();
        if seen.len() < self.lines.len() {
            let mut is_last = is_last.into_iter().rev();
            self.lines.retain(|_| is_last.next() == Some(true));
        }
    }
}

/// One merge, in either of the two forms, as a line.
struct Merge(String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge, \"a b\" or [\"a\", \"b\"]")
            }

            fn visit_str<E: de::Error>(self, line: &str) -> Result<Merge, E> {
                Ok(Merge(line.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Merge, A::Error> {
                let (left, right) =
                    (pair.next_element::<String>()?, pair.next_element::<String>()?);
                match (left, right, pair.next_element::<de::IgnoredAny>()?) {
                    (Some(left), Some(right), None) => {
                        Ok(Merge(format!("{} {}", spaces_mapped(&left), spaces_mapped(&right))))
                    }
                    _ => Err(de::Error::custom("a merge is a list of two tokens")),
                }
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergesVisitor;
        impl<'de> Visitor<'de> for MergesVisitor {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges, each \"a b\" or [\"a\", \"b\"]")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Merges, E> {
                Ok(Merges::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut lines = Vec::new();
                while let Some(Merge(line)) = list.next_element()? {
                    lines.push(line);
                }
                Ok(Merges { lines })
            }
        }
        deserializer.deserialize_any(MergesVisitor)
    }
}

fn spaces_mapped(token: &str) -> String {
    token.replace(' ', "\u{120}")
}

/// The error that there is no `tokenizer.json`, with what there is instead.
fn missing(files: &dyn SideFiles) -> Result<Error, Error> {
    for (name, kind) in [("tekken.json", "Tekken"), ("vocab.json", "vocab.json with merges.txt")] {
        if files.read(name)?.is_some() {
            return Ok(Error::Unsupported { path: files.path(name), kind: kind.to_owned() });
        }
    }
    Ok(Error::MissingFile(files.path(NAME)))
}

impl Surroundings {
    /// Reads them alone: the model in the file may be of any kind. Empty if there
    /// is no such file.
    pub(crate) fn read(files: &dyn SideFiles) -> Result<Self, Error> {
        let Some(bytes) = read_bytes(files, NAME)? else { return Ok(Self::default()) };
        json::from_slice(&bytes).map_err(|source| Error::Json { path: files.path(NAME), source })
    }
}

impl TokenizerFile {
    /// Reads `tokenizer.json`.
    pub(crate) fn read(files: &dyn SideFiles) -> Result<Self, Error> {
        match Self::read_if_there(files)? {
            Some(file) => Ok(file),
            None => Err(missing(files)?),
        }
    }

    /// Reads `tokenizer.json` if there is one.
    pub(crate) fn read_if_there(files: &dyn SideFiles) -> Result<Option<Self>, Error> {
        let Some(bytes) = read_bytes(files, NAME)? else { return Ok(None) };
        let mut file: Self = json::from_slice(&bytes)
            .map_err(|source| Error::Json { path: files.path(NAME), source })?;
        drop(bytes);
        file.rebuild(files)?;
        if file.is_bpe() {
            file.check_vocabulary(files)?;
            file.model.merges.keep_last();
        }
        Ok(Some(file))
    }

    /// Where `tokenizer_config.json` states for Llama's own classes whether texts get a space
    /// in front, transformers makes these parts anew (`tokenization_llama.py`; version 4 by
    /// `from_slow`).
    fn rebuild(&mut self, files: &dyn SideFiles) -> Result<(), Error> {
        let config = read_object(files, "tokenizer_config.json")?.unwrap_or_default();
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        let stated = config.get("add_prefix_space").and_then(Value::as_bool);
        let (Some("LlamaTokenizer" | "LlamaTokenizerFast"), Some(stated)) = (class, stated) else {
            return Ok(());
        };
        if !self.is_llama_with_byte_tokens() || space_prefix(self) == Some(stated) {
            return Ok(());
        }
        let is_legacy = config.get("legacy").and_then(Value::as_bool) == Some(true);
        let scheme = match (stated, is_legacy) {
            (false, _) => "never",
            (true, true) => "always",
            (true, false) => "first",
        };
        self.surroundings.normalizer = Value::Null;
        self.pre_tokenizer = json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false
        });
        Ok(())
    }

    pub(crate) fn is_bpe(&self) -> bool {
        matches!(self.model.kind.as_deref(), Some("BPE") | None) && !self.model.vocab.is_scored_list
    }

    /// True for what the reference takes for a Llama vocabulary
    /// (`LlamaHfVocab.__init__` in `gguf-py/gguf/vocab.py`).
    pub(crate) fn is_llama_with_byte_tokens(&self) -> bool {
        self.is_bpe()
            && self.model.kind.is_some()
            && self.model.byte_fallback == Some(true)
            && self.decoder.get("type").and_then(Value::as_str) == Some("Sequence")
    }

    /// Refuses what is not a byte-level BPE vocabulary.
    pub(crate) fn refuse_other_kinds(&self, files: &dyn SideFiles) -> Result<(), Error> {
        let unsupported =
            |kind: &str| Err(Error::Unsupported { path: files.path(NAME), kind: kind.to_owned() });
        match self.model.kind.as_deref() {
            _ if self.model.vocab.is_scored_list => unsupported("SentencePiece (Unigram)"),
            Some("BPE") | None if self.model.byte_fallback == Some(true) => {
                unsupported("BPE with byte_fallback")
            }
            Some("BPE") | None => Ok(()),
            Some(kind) => unsupported(kind),
        }
    }

    fn check_vocabulary(&self, files: &dyn SideFiles) -> Result<(), Error> {
        let vocab = &self.model.vocab.ids;
        if vocab.is_empty() {
            return Err(fault(files, NAME, "model.vocab", "has no tokens"));
        }
        if self.model.merges.lines.is_empty() {
            return Err(fault(files, NAME, "model.merges", "has no merges"));
        }
        let mut owners: HashMap<TokenId, &str> = HashMap::with_capacity(vocab.len());
        for (token, id) in vocab {
            if let Some(other) = owners.insert(*id, token) {
                let (first, second) = if other < token.as_str() {
                    (other, token.as_str())
                } else {
                    (token.as_str(), other)
                };
                let problem = format!("{first:?} and {second:?} have the same id {}", id.0);
                return Err(fault(files, NAME, "model.vocab", problem));
            }
        }
        drop(owners);
        self.check_merges(files)?;
        self.check_marks(files)
    }

    /// Tokens that say where a word begins or ends are written by rules that neither llama.cpp
    /// nor the encoder here has.
    fn check_marks(&self, files: &dyn SideFiles) -> Result<(), Error> {
        let marks = [
            ("continuing_subword_prefix", &self.model.continuing_subword_prefix),
            ("end_of_word_suffix", &self.model.end_of_word_suffix),
        ];
        for (key, mark) in marks {
            if let Some(mark) = mark.as_ref().filter(|mark| !mark.is_empty()) {
                let problem = format!("is {mark:?}; BPE tokens with such a mark are not supported");
                return Err(fault(files, NAME, format!("model.{key}"), problem));
            }
        }
        Ok(())
    }

    /// A merge joins two tokens of the vocabulary to a third; tokenizers refuses
    /// a file where one of them is missing.
    fn check_merges(&self, files: &dyn SideFiles) -> Result<(), Error> {
        let known = |token: &str| self.model.id_in_merge(token).is_some();
        for (position, line) in self.model.merges.lines.iter().enumerate() {
            let problem = match line.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => {
                    let joined = format!("{left}{right}");
                    [left, right, &joined].into_iter().find(|token| !known(token)).map(|token| {
                        format!("{line:?} needs the token {token:?}, which model.vocab lacks")
                    })
                }
                _ => Some(format!("{line:?} is not two tokens with a space between")),
            };
            if let Some(problem) = problem {
                return Err(fault(files, NAME, format!("model.merges[{position}]"), problem));
            }
        }
        Ok(())
    }
}
