//! `general.sampling.*`: what `generation_config.json` recommends.

use qz_tensor::{Metadata, Value};

use crate::config::{JsonObject, shortest};
use crate::error::Error;

enum Kind {
    Text,
    Integer,
    Float,
}

/// Key in GGUF, kind, and the keys of `generation_config.json`, of which the
/// first that is there counts.
const KEYS: &[(&str, Kind, &[&str])] = &[
    ("sequence", Kind::Text, &["sequence"]),
    ("top_k", Kind::Integer, &["top_k"]),
    ("top_p", Kind::Float, &["top_p"]),
    ("min_p", Kind::Float, &["min_p"]),
    ("xtc_probability", Kind::Float, &["xtc_probability"]),
    ("xtc_threshold", Kind::Float, &["xtc_threshold"]),
    ("temp", Kind::Float, &["temperature"]),
    ("penalty_last_n", Kind::Integer, &["penalty_last_n"]),
    ("penalty_repeat", Kind::Float, &["penalty_repeat", "repetition_penalty"]),
    ("mirostat", Kind::Integer, &["mirostat"]),
    ("mirostat_tau", Kind::Float, &["mirostat_tau"]),
    ("mirostat_eta", Kind::Float, &["mirostat_eta"]),
];

/// The way back: recommended sampling parameters by their keys in
/// `generation_config.json`.
pub(crate) fn sampling_of(
    metadata: &Metadata,
) -> impl Iterator<Item = (&'static str, serde_json::Value)> {
    KEYS.iter().filter_map(|(name, _, sources)| {
        let value = match metadata.get(&format!("general.sampling.{name}"))? {
            Value::String(text) => text.as_str().into(),
            Value::F32(number) => shortest(*number),
            Value::I32(number) => (*number).into(),
            _ => return None,
        };
        // The last name is transformers' own.
        Some((*sources.last()?, value))
    })
}

/// Adds the recommended sampling parameters.
pub(crate) fn write_sampling(
    generation: &JsonObject,
    metadata: &mut Metadata,
) -> Result<(), Error> {
    for (name, kind, sources) in KEYS {
        let Some(source) = sources.iter().find(|source| generation.has(source)) else { continue };
        let value = match kind {
            Kind::Text => {
                generation.string(source)?.filter(|text| !text.is_empty()).map(Value::from)
            }
            Kind::Integer => generation.signed_integer(source)?.map(Value::I32),
            Kind::Float => generation.number(source)?.map(|number| Value::F32(number as f32)),
        };
        if let Some(value) = value {
            metadata.set(format!("general.sampling.{name}"), value);
        }
    }
    Ok(())
}
