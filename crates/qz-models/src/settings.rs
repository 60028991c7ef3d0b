//! What a family reads of `config.json` beside what every decoder has, and what it
//! writes of it into GGUF metadata: lists that work in both directions.

use qz_tensor::{Array, Value as Entry};
use serde_json::{Value, json};

use crate::config::{JsonObject, shortest, shown};
use crate::error::Error;
pub use crate::gguf_keys::GgufKeys;
use crate::hyperparameters::ModelConfig;
use crate::rules::LayerIndex;

/// Sizes fit llama.cpp's 32-bit hyperparameters with their sign.
pub(crate) const LARGEST_SIZE: u64 = i32::MAX as u64;

/// A key of `config.json` that a family reads.
#[derive(Clone, Copy, Debug)]
pub struct ConfigKey {
    /// The key.
    pub name: &'static str,
    /// What it may hold.
    pub kind: SettingKind,
    /// What is there if it is missing or `null`.
    pub default: Default,
}

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SettingKind {
    /// An integer of at least so much.
    Size(u64),
    /// The same, or a list with one for each layer.
    SizePerLayer(u64),
    /// A finite number.
    Number,
    /// True or false.
    Flag,
    /// A list with one of these words for each layer.
    Words(&'static [&'static str]),
    /// A list of the kinds of layers: those that see a window, and others.
    Windows,
    /// A list of sizes.
    List,
    /// A list of so many finite numbers.
    Numbers(usize),
    /// A list with a finite number for each layer.
    NumbersPerLayer,
    /// One of these words.
    Word(&'static [&'static str]),
    /// This number, which the graph has built in; any other is refused.
    Exactly(f64),
    /// Anything: it is read elsewhere, or changes nothing in this family.
    Any,
}

/// What a missing key stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// Nothing.
    Absent,
    /// An error.
    Required,
    /// A size.
    Size(u64),
    /// A number.
    Number(f64),
    /// True or false.
    Flag(bool),
    /// A word.
    Word(&'static str),
}

impl ConfigKey {
    const fn new(name: &'static str, kind: SettingKind, default: Default) -> Self {
        Self { name, kind, default }
    }

    /// A size, at least 1, that must be there.
    pub const fn size(name: &'static str) -> Self {
        Self::new(name, SettingKind::Size(1), Default::Required)
    }

    /// A size, at least 1, that may be missing.
    pub const fn size_or(name: &'static str, default: Default) -> Self {
        Self::new(name, SettingKind::Size(1), default)
    }

    /// A number of things, or none, that may be missing.
    pub const fn count_or(name: &'static str, default: Default) -> Self {
        Self::new(name, SettingKind::Size(0), default)
    }

    /// A size, or a list with one for each layer, that must be there.
    pub const fn size_per_layer(name: &'static str) -> Self {
        Self::new(name, SettingKind::SizePerLayer(1), Default::Required)
    }

    /// A number of things, or none, or a list with one for each layer, that may be missing.
    pub const fn count_per_layer(name: &'static str) -> Self {
        Self::new(name, SettingKind::SizePerLayer(0), Default::Absent)
    }

    /// A list of a few sizes, that may be missing.
    pub const fn list(name: &'static str) -> Self {
        Self::new(name, SettingKind::List, Default::Absent)
    }

    /// A list with a number for each layer, that may be missing.
    pub const fn numbers_per_layer(name: &'static str) -> Self {
        Self::new(name, SettingKind::NumbersPerLayer, Default::Absent)
    }

    /// A list of the kinds of layers: those that see a window, and others.
    pub const fn windows(name: &'static str) -> Self {
        Self::new(name, SettingKind::Windows, Default::Absent)
    }

    /// A number.
    pub const fn number(name: &'static str, default: Default) -> Self {
        Self::new(name, SettingKind::Number, default)
    }

    /// A list of so many numbers, that may be missing.
    pub const fn numbers(name: &'static str, count: usize) -> Self {
        Self::new(name, SettingKind::Numbers(count), Default::Absent)
    }

    /// True or false.
    pub const fn flag(name: &'static str, default: Default) -> Self {
        Self::new(name, SettingKind::Flag, default)
    }

    /// One of some words.
    pub const fn word(
        name: &'static str,
        words: &'static [&'static str],
        default: Default,
    ) -> Self {
        Self::new(name, SettingKind::Word(words), default)
    }

    /// A list with one of some words for each layer, that may be missing.
    pub const fn words_per_layer(name: &'static str, words: &'static [&'static str]) -> Self {
        Self::new(name, SettingKind::Words(words), Default::Absent)
    }

    /// A number that cannot be another.
    pub const fn exactly(name: &'static str, number: f64) -> Self {
        Self::new(name, SettingKind::Exactly(number), Default::Absent)
    }

    /// A key that is read elsewhere, or that changes nothing here.
    pub const fn any(name: &'static str) -> Self {
        Self::new(name, SettingKind::Any, Default::Absent)
    }

    /// Its value in a configuration.
    fn read(&self, config: &JsonObject, layers: u32) -> Result<Option<Setting>, Error> {
        let found = match self.kind {
            SettingKind::Size(least) => {
                config.integer(self.name, least..=LARGEST_SIZE)?.map(Setting::Size)
            }
            SettingKind::SizePerLayer(least) => self.sizes(config, least, layers)?,
            SettingKind::Number => config.number(self.name)?.map(Setting::Number),
            SettingKind::Words(words) => self.words(config, words, layers)?,
            SettingKind::Windows => self.windows_of(config, layers)?,
            SettingKind::List => self.list_of(config)?,
            SettingKind::Numbers(count) => self.numbers_of(config, count)?,
            SettingKind::NumbersPerLayer => self.numbers_of(config, layers as usize)?,
            SettingKind::Flag => config.boolean(self.name)?.map(Setting::Flag),
            SettingKind::Word(words) => {
                let stated = config.string(self.name)?;
                let known = |word: &&str| words.contains(word);
                match stated {
                    Some(word) if !known(&word) => {
                        let problem = format!(
                            "is {}, of which this architecture knows {} only",
                            shown(&json!(word)),
                            words.join(", ")
                        );
                        return Err(config.fault(self.name, problem));
                    }
                    word => word.map(|word| Setting::Word(word.to_owned())),
                }
            }
            SettingKind::Exactly(number) => {
                let stated = config.number(self.name)?;
                if stated.is_some_and(|stated| stated != number) {
                    let problem = format!(
                        "is {}, but this architecture computes with {number}",
                        stated.unwrap_or_default()
                    );
                    return Err(config.fault(self.name, problem));
                }
                None
            }
            SettingKind::Any => None,
        };
        match (found, self.default) {
            (Some(setting), _) => Ok(Some(setting)),
            (None, Default::Absent) => Ok(None),
            (None, Default::Required) => Err(config.fault(self.name, "is missing")),
            (None, Default::Size(size)) => Ok(Some(Setting::Size(size))),
            (None, Default::Number(number)) => Ok(Some(Setting::Number(number))),
            (None, Default::Flag(value)) => Ok(Some(Setting::Flag(value))),
            (None, Default::Word(word)) => Ok(Some(Setting::Word(word.to_owned()))),
        }
    }
}

impl ConfigKey {
    /// A list of words, one for each layer.
    fn words(
        &self,
        config: &JsonObject,
        words: &[&str],
        layers: u32,
    ) -> Result<Option<Setting>, Error> {
        let Some(stated) = config.get(self.name) else { return Ok(None) };
        let Value::Array(values) = stated else {
            let problem =
                format!("is {}, expected a list with a word for each layer", shown(stated));
            return Err(config.fault(self.name, problem));
        };
        if values.len() != layers as usize {
            let problem = format!("has {} words for {layers} layers", values.len());
            return Err(config.fault(self.name, problem));
        }
        let word = |value: &Value| match value.as_str().filter(|word| words.contains(word)) {
            Some(word) => Ok(word.to_owned()),
            None => {
                let (found, known) = (shown(value), words.join(", "));
                let problem = format!("has {found}, of which this architecture knows {known} only");
                Err(config.fault(self.name, problem))
            }
        };
        Ok(Some(Setting::Words(values.iter().map(word).collect::<Result<_, _>>()?)))
    }

    fn list_of(&self, config: &JsonObject) -> Result<Option<Setting>, Error> {
        const LONGEST: usize = 16;
        let Some(stated) = config.get(self.name) else { return Ok(None) };
        let sizes = stated.as_array().filter(|sizes| sizes.len() <= LONGEST);
        let size = |size: &Value| size.as_u64().filter(|size| *size <= LARGEST_SIZE);
        let sizes: Option<Vec<u64>> = sizes.and_then(|sizes| sizes.iter().map(size).collect());
        let problem = || format!("is {}, expected a list of a few integers", shown(stated));
        match sizes {
            Some(sizes) => Ok(Some(Setting::Sizes(sizes))),
            None => Err(config.fault(self.name, problem())),
        }
    }

    fn numbers_of(&self, config: &JsonObject, count: usize) -> Result<Option<Setting>, Error> {
        let Some(stated) = config.get(self.name) else { return Ok(None) };
        let numbers = stated.as_array().filter(|numbers| numbers.len() == count);
        let number = |number: &Value| number.as_f64().filter(|number| number.is_finite());
        let numbers: Option<Vec<f64>> =
            numbers.and_then(|numbers| numbers.iter().map(number).collect());
        let problem = || format!("is {}, expected a list of {count} numbers", shown(stated));
        match numbers {
            Some(numbers) => Ok(Some(Setting::Numbers(numbers))),
            None => Err(config.fault(self.name, problem())),
        }
    }

    fn windows_of(&self, config: &JsonObject, layers: u32) -> Result<Option<Setting>, Error> {
        let Some(stated) = config.get(self.name) else { return Ok(None) };
        let Value::Array(kinds) = stated else {
            let problem = format!("is {}, expected a list of kinds of layers", shown(stated));
            return Err(config.fault(self.name, problem));
        };
        if kinds.len() != layers as usize {
            let problem = format!("has {} kinds for {layers} layers", kinds.len());
            return Err(config.fault(self.name, problem));
        }
        let is_windowed = |kind: &Value| match kind.as_str() {
            Some(FULL) => Ok(false),
            Some(SLIDING) => Ok(true),
            _ => {
                let problem =
                    format!("has {}; only {FULL} and {SLIDING} are supported", shown(kind));
                Err(config.fault(self.name, problem))
            }
        };
        Ok(Some(Setting::Flags(kinds.iter().map(is_windowed).collect::<Result<_, _>>()?)))
    }

    /// A size, or one for each layer. Those that are all the same are one.
    fn sizes(
        &self,
        config: &JsonObject,
        least: u64,
        layers: u32,
    ) -> Result<Option<Setting>, Error> {
        let Some(Value::Array(values)) = config.get(self.name) else {
            return Ok(config.integer(self.name, least..=LARGEST_SIZE)?.map(Setting::Size));
        };
        if values.len() != layers as usize {
            let problem = format!("has {} numbers for {layers} layers", values.len());
            return Err(config.fault(self.name, problem));
        }
        let size = |value: &Value| {
            let size = value.as_u64().filter(|size| (least..=LARGEST_SIZE).contains(size));
            size.ok_or_else(|| {
                let problem = format!(
                    "has {}, expected integers from {least} to {LARGEST_SIZE}",
                    shown(value)
                );
                config.fault(self.name, problem)
            })
        };
        let sizes = values.iter().map(size).collect::<Result<Vec<_>, _>>()?;
        Ok(match sizes.first() {
            Some(first) if sizes.iter().all(|size| size == first) => Some(Setting::Size(*first)),
            _ => Some(Setting::Sizes(sizes)),
        })
    }
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq)]
enum Setting {
    Size(u64),
    /// One for each layer.
    Sizes(Vec<u64>),
    Number(f64),
    Numbers(Vec<f64>),
    Flag(bool),
    /// One for each layer.
    Flags(Vec<bool>),
    Word(String),
    /// One for each layer.
    Words(Vec<String>),
}

/// Kinds of layers.
pub(crate) const FULL: &str = "full_attention";
pub(crate) const SLIDING: &str = "sliding_attention";

/// The values of a family's own keys.
#[derive(Clone, Debug, PartialEq, std::default::Default)]
pub(crate) struct Settings(Vec<(&'static str, Setting)>);

impl Settings {
    pub(crate) fn read(
        config: &JsonObject,
        keys: &[ConfigKey],
        layers: u32,
    ) -> Result<Self, Error> {
        let mut settings = Vec::with_capacity(keys.len());
        for key in keys {
            settings.extend(key.read(config, layers)?.map(|setting| (key.name, setting)));
        }
        Ok(Self(settings))
    }

    fn get(&self, key: &str) -> Option<&Setting> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, setting)| setting)
    }

    pub(crate) fn size(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Setting::Size(size)) => Some(*size),
            _ => None,
        }
    }

    /// A size in one layer; where no layer is meant, that of the first.
    pub(crate) fn size_in(&self, key: &str, layer: Option<LayerIndex>) -> Option<u64> {
        match self.get(key) {
            Some(Setting::Sizes(sizes)) => {
                sizes.get(layer.map_or(0, |layer| layer.0 as usize)).copied()
            }
            _ => self.size(key),
        }
    }

    pub(crate) fn sizes(&self, key: &str) -> Option<&[u64]> {
        match self.get(key) {
            Some(Setting::Sizes(sizes)) => Some(sizes),
            _ => None,
        }
    }

    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        match self.get(key) {
            Some(Setting::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn numbers(&self, key: &str) -> Option<&[f64]> {
        match self.get(key) {
            Some(Setting::Numbers(numbers)) => Some(numbers),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Setting::Flag(value)) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn words(&self, key: &str) -> Option<&[String]> {
        match self.get(key) {
            Some(Setting::Words(words)) => Some(words),
            _ => None,
        }
    }

    pub(crate) fn flags(&self, key: &str) -> Option<&[bool]> {
        match self.get(key) {
            Some(Setting::Flags(flags)) => Some(flags),
            _ => None,
        }
    }

    pub(crate) fn word(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Setting::Word(word)) => Some(word),
            _ => None,
        }
    }
}

/// A key of a model's GGUF metadata, without the architecture's name in front.
#[derive(Clone, Copy, Debug)]
pub enum MetadataKey {
    /// `block_count`.
    Layers,
    /// `context_length`.
    Context,
    /// `embedding_length`.
    Hidden,
    /// `feed_forward_length`.
    Intermediate,
    /// `attention.head_count`.
    Heads,
    /// `attention.head_count_kv`.
    KeyValueHeads,
    /// `attention.causal`, where it is false.
    NotCausal,
    /// `rope.scaling.*`.
    RopeScaling,
    /// `rope.freq_base`, `rope.freq_base_swa`.
    RopeBases,
    /// `attention.layer_norm_rms_epsilon`.
    RmsEpsilon,
    /// `attention.layer_norm_epsilon`.
    LayerNormEpsilon,
    /// `expert_count`.
    Experts,
    /// `expert_used_count`.
    ExpertsUsed,
    /// `attention.key_length` and `attention.value_length`.
    HeadSize,
    /// `general.file_type`, for the caller to set.
    FileType,
    /// What a key of the family's own holds, if it holds something.
    Setting {
        /// The metadata's key.
        gguf: &'static str,
        /// That of `config.json`.
        key: &'static str,
    },
    /// What follows from the rest.
    Computed {
        /// The metadata's key.
        gguf: &'static str,
        /// Its value, if it is to be written.
        value: fn(&ModelConfig) -> Option<Entry>,
    },
}

impl MetadataKey {
    /// A key that holds what one of `config.json` holds.
    pub const fn setting(gguf: &'static str, key: &'static str) -> Self {
        Self::Setting { gguf, key }
    }

    /// A key whose value follows from others.
    pub const fn computed(gguf: &'static str, value: fn(&ModelConfig) -> Option<Entry>) -> Self {
        Self::Computed { gguf, value }
    }
}

/// What `TextModel.set_gguf_parameters` writes (`conversion/base.py`), in its order.
pub const STANDARD_METADATA: &[MetadataKey] = &[
    MetadataKey::Layers,
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::Heads,
    MetadataKey::KeyValueHeads,
    MetadataKey::NotCausal,
    MetadataKey::RopeScaling,
    MetadataKey::RopeBases,
    MetadataKey::RmsEpsilon,
    MetadataKey::LayerNormEpsilon,
    MetadataKey::Experts,
    MetadataKey::ExpertsUsed,
    MetadataKey::setting("expert_group_count", "n_group"),
    MetadataKey::setting("expert_group_used_count", "topk_group"),
    MetadataKey::computed("expert_gating_func", gating_function),
    MetadataKey::HeadSize,
    MetadataKey::FileType,
];

/// How a router's logits become weights (`ExpertGatingFuncType` in
/// `gguf-py/gguf/constants.py`).
pub(crate) const GATING_FUNCTIONS: &[(&str, u32)] = &[("softmax", 1), ("sigmoid", 2)];

pub(crate) fn gating_function(config: &ModelConfig) -> Option<Entry> {
    let word = config.word("scoring_func")?;
    let (_, number) = GATING_FUNCTIONS.iter().find(|(known, _)| *known == word)?;
    Some((*number).into())
}

impl ModelConfig {
    /// The metadata's value of a key of the family's own.
    pub(crate) fn entry(&self, key: &str) -> Option<Entry> {
        let size = || self.size(key).map(|size| Entry::from(size as u32));
        let number = || self.number(key).map(|number| Entry::from(number as f32));
        let flag = || self.flag(key).map(Entry::from);
        let sizes = || {
            let sizes = self.sizes(key)?.iter().map(|size| *size as i32);
            Some(Entry::Array(Array::I32(sizes.collect())))
        };
        let flags = || Some(Entry::Array(Array::Bool(self.flags(key)?.to_vec())));
        size().or_else(number).or_else(flag).or_else(sizes).or_else(flags)
    }
}

/// A metadata value as `config.json` has it.
pub(crate) fn restored(kind: SettingKind, entry: &Entry) -> Option<Value> {
    match (kind, entry) {
        (SettingKind::Number, Entry::F32(number)) => Some(shortest(*number)),
        (SettingKind::Flag, Entry::Bool(value)) => Some(json!(value)),
        (SettingKind::Size(_) | SettingKind::SizePerLayer(_), Entry::U32(size)) => {
            Some(json!(size))
        }
        (SettingKind::SizePerLayer(_), Entry::Array(Array::I32(sizes))) => Some(json!(sizes)),
        (SettingKind::Windows, Entry::Array(Array::Bool(flags))) => {
            Some(flags.iter().map(|is| if *is { SLIDING } else { FULL }).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_differ_by_layer() {
        let check = |value: &str, expected: Result<[Option<u64>; 2], &str>| {
            let text = format!(r#"{{"heads": {value}}}"#);
            let config = JsonObject::parse("config.json".into(), text.as_bytes()).expect("JSON");
            let keys = [ConfigKey::size_per_layer("heads")];
            let found = Settings::read(&config, &keys, 2).map(|settings| {
                [0, 1].map(|layer| settings.size_in("heads", Some(LayerIndex(layer))))
            });
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{value}"),
                (Err(error), Err(problem)) => {
                    assert_eq!(error.to_string(), format!("config.json: heads: {problem}"));
                }
                (found, expected) => panic!("{value}: {found:?}, expected {expected:?}"),
            }
        };
        check("4", Ok([Some(4), Some(4)]));
        check("[4, 4]", Ok([Some(4), Some(4)]));
        check("[4, 8]", Ok([Some(4), Some(8)]));
        check("[4]", Err("has 1 numbers for 2 layers"));
        check("[4, 0]", Err("has 0, expected integers from 1 to 2147483647"));
        check("null", Err("is missing"));
    }
}
