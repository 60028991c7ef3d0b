//! What a projector's file says of it, in the reference's order
//! (`MmprojModel.set_gguf_parameters` in `conversion/base.py`).

use qz_tensor::{Array, Metadata, Value};

use super::{LAYERS, ProjectorConfig, ProjectorFamily, TowerKind};
use crate::config::{JsonObject, shown};
use crate::error::Error;

/// A key behind `clip.`, and what its value follows from.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    Text(&'static str, &'static str),
    Flag(&'static str),
    Count(&'static str, u32),
    /// An integer of a configuration, and what it is if it is absent.
    Integer(&'static str, Of, &'static str, Absent<u64>),
    /// A number of a configuration.
    Number(&'static str, Of, &'static str, Absent<f64>),
    /// The same, of models that hear alone.
    OfAudio(&'static Entry),
    /// Anything else; left out if it is none.
    Computed(&'static str, fn(&ProjectorConfig) -> Result<Option<Value>, Error>),
}

/// A part of the configuration.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Model,
    Text,
    Vision,
    Audio,
}

/// What a key is where it is absent.
#[derive(Clone, Copy)]
pub(super) enum Absent<T> {
    /// This.
    Default(T),
    /// The file does not say it.
    LeftOut,
    /// An error.
    Fault,
}

impl Entry {
    fn key(&self) -> &'static str {
        match self {
            Self::Text(key, _)
            | Self::Flag(key)
            | Self::Count(key, _)
            | Self::Integer(key, ..)
            | Self::Number(key, ..)
            | Self::Computed(key, _) => key,
            Self::OfAudio(entry) => entry.key(),
        }
    }

    fn value(&self, config: &ProjectorConfig) -> Result<Option<Value>, Error> {
        match *self {
            Self::Text(_, text) => Ok(Some(text.into())),
            Self::Flag(_) => Ok(Some(true.into())),
            Self::Count(_, count) => Ok(Some(count.into())),
            Self::Integer(_, of, name, absent) => {
                let object = of.object(config)?;
                let found = object.integer(name, 0..=u32::MAX.into())?;
                let value = absent.fill(found, &object, name)?;
                value.map(|value| number(value, &object, name)).transpose()
            }
            Self::Number(_, of, name, absent) => {
                let object = of.object(config)?;
                let value = absent.fill(object.number(name)?, &object, name)?;
                Ok(value.map(|value| (value as f32).into()))
            }
            Self::OfAudio(entry) if config.has(TowerKind::Audio) => entry.value(config),
            Self::OfAudio(_) => Ok(None),
            Self::Computed(_, value) => value(config),
        }
    }
}

impl Of {
    fn object(self, config: &ProjectorConfig) -> Result<JsonObject, Error> {
        const TEXT: &str = "text_config";
        Ok(match self {
            Self::Model => config.model.clone(),
            Self::Text => match config.model.object(TEXT)? {
                Some(text) => text,
                None => config.model.empty_child(TEXT),
            },
            Self::Vision => config.vision.clone(),
            Self::Audio => config.audio.clone(),
        })
    }
}

impl<T> Absent<T> {
    fn fill(self, found: Option<T>, object: &JsonObject, key: &str) -> Result<Option<T>, Error> {
        match (found, self) {
            (Some(found), _) | (None, Self::Default(found)) => Ok(Some(found)),
            (None, Self::LeftOut) => Ok(None),
            (None, Self::Fault) => Err(object.fault(key, "is missing")),
        }
    }
}

/// The sizes of a tower: what the file calls them, and what configurations do.
const SIZES_SEEN: &[(&str, &[&str])] =
    &[("image_size", &["image_size"]), ("patch_size", &["patch_size"])];
const SIZES: &[(&str, &[&str])] = &[
    ("embedding_length", &["hidden_size", "width"]),
    ("feed_forward_length", &["intermediate_size"]),
    ("block_count", LAYERS),
    ("attention.head_count", &["num_attention_heads", "num_heads", "heads"]),
];

/// Writes what all projectors have, and what the family has.
pub(super) fn write(
    config: &ProjectorConfig,
    family: &ProjectorFamily,
    metadata: &mut Metadata,
) -> Result<(), Error> {
    metadata.set("general.file_type", 0u32);
    let mut set = |key: String, value: Value| metadata.set(format!("clip.{key}"), value);
    for tower in TowerKind::ALL.into_iter().filter(|tower| config.has(*tower)) {
        let part = config.part(tower);
        let (name, seen) = match tower {
            TowerKind::Vision => ("vision", SIZES_SEEN),
            TowerKind::Audio => ("audio", &[][..]),
        };
        set(format!("has_{name}_encoder"), true.into());
        set(format!("{name}.projection_dim"), number(text_width(config)?, part, "hidden_size")?);
        for (key, names) in seen.iter().chain(SIZES) {
            let value = number(first_integer(part, names)?, part, names[0])?;
            set(format!("{name}.{key}"), value);
        }
        if tower == TowerKind::Vision {
            for key in ["image_mean", "image_std"] {
                let values = numbers(&config.preprocessor, key)?;
                set(format!("vision.{key}"), Value::Array(Array::F32(values)));
            }
        }
    }
    for entry in family.metadata {
        if let Some(value) = entry.value(config)? {
            set(entry.key().to_owned(), value);
        }
    }
    metadata.set("general.quantization_version", 2u32);
    Ok(())
}

/// Numbers of a hidden state of the text's part.
fn text_width(config: &ProjectorConfig) -> Result<u64, Error> {
    for key in ["text_config", "llm_config"] {
        let Some(text) = config.model.object(key)? else { continue };
        if let Some(width) = text.integer("hidden_size", 1..=u32::MAX.into())? {
            return Ok(width);
        }
    }
    first_integer(&config.model, &["hidden_size"])
}

/// The first of these keys that is there.
pub(super) fn first_integer(object: &JsonObject, keys: &[&str]) -> Result<u64, Error> {
    for key in keys {
        if let Some(value) = object.integer(key, 1..=u32::MAX.into())? {
            return Ok(value);
        }
    }
    Err(object.fault(keys[0], "is missing"))
}

/// A size as files have it.
pub(super) fn number(value: u64, object: &JsonObject, key: &str) -> Result<Value, Error> {
    let value = u32::try_from(value).map_err(|_| object.fault(key, "is too large"))?;
    Ok(value.into())
}

/// One over a fraction such as a half, as an integer: what several patches become one by.
pub(super) fn reciprocal(object: &JsonObject, key: &str) -> Result<Value, Error> {
    let fraction = object.positive_number(key)?;
    let fraction = fraction.ok_or_else(|| object.fault(key, "is missing"))?;
    number((1.0 / fraction) as u64, object, key)
}

/// The keys that say which activation a tower has.
pub(super) const ACTIVATION: [Entry; 2] = [
    Entry::Computed("use_silu", |config| has_activation(config, "silu")),
    Entry::Computed("use_gelu", |config| has_activation(config, "gelu")),
];

/// True if it is this one; nothing if it is the other.
fn has_activation(config: &ProjectorConfig, wanted: &str) -> Result<Option<Value>, Error> {
    const KEY: &str = "hidden_act";
    match config.vision.string(KEY)? {
        Some(own @ ("silu" | "gelu")) => Ok((own == wanted).then_some(true.into())),
        Some(other) => {
            let problem = format!("is {other:?}, and files can say silu and gelu alone");
            Err(config.vision.fault(KEY, problem))
        }
        None => Err(config.vision.fault(KEY, "is missing")),
    }
}

fn numbers(object: &JsonObject, key: &str) -> Result<Vec<f32>, Error> {
    let value = object.get(key).ok_or_else(|| object.fault(key, "is missing"))?;
    let wrong = || object.fault(key, format!("is {}, expected a list of numbers", shown(value)));
    let number = |value: &serde_json::Value| {
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(|number| number as f32).ok_or_else(wrong)
    };
    value.as_array().ok_or_else(wrong)?.iter().map(number).collect()
}
