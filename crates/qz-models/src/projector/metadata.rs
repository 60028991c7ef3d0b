//! What a projector's file says of it, in the reference's order
//! (`MmprojModel.set_gguf_parameters` in `conversion/base.py`).

use qz_tensor::{Array, Metadata, Value};

use super::{ProjectorConfig, ProjectorFamily};
use crate::config::JsonObject;
use crate::error::Error;

/// A key behind `clip.`, and its value.
pub(super) type Entry = (&'static str, Value);

/// Writes what all projectors have, and what the family has.
pub(super) fn write(
    config: &ProjectorConfig,
    family: &ProjectorFamily,
    metadata: &mut Metadata,
) -> Result<(), Error> {
    metadata.set("general.file_type", 0u32);
    let mut set = |key: &str, value: Value| metadata.set(format!("clip.{key}"), value);
    let vision = &config.vision;
    set("has_vision_encoder", true.into());
    set("vision.projection_dim", number(text_width(config)?, vision, "hidden_size")?);
    for (key, names) in [
        ("vision.image_size", &["image_size"][..]),
        ("vision.patch_size", &["patch_size"]),
        ("vision.embedding_length", &["hidden_size"]),
        ("vision.feed_forward_length", &["intermediate_size"]),
        ("vision.block_count", &["num_hidden_layers", "depth"]),
        ("vision.attention.head_count", &["num_attention_heads", "num_heads"]),
    ] {
        set(key, number(first_integer(vision, names)?, vision, names[0])?);
    }
    for (key, name) in [("vision.image_mean", "image_mean"), ("vision.image_std", "image_std")] {
        set(key, Value::Array(Array::F32(numbers(&config.preprocessor, name)?)));
    }
    for (key, value) in (family.metadata)(config)? {
        set(key, value);
    }
    metadata.set("general.quantization_version", 2u32);
    Ok(())
}

/// Numbers of a hidden state of the text's part.
fn text_width(config: &ProjectorConfig) -> Result<u64, Error> {
    let text = config.model.object("text_config")?;
    let width = text.as_ref().map(|text| text.integer("hidden_size", 1..=u32::MAX.into()));
    match width.transpose()?.flatten() {
        Some(width) => Ok(width),
        None => first_integer(&config.model, &["hidden_size"]),
    }
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

fn numbers(object: &JsonObject, key: &str) -> Result<Vec<f32>, Error> {
    let values = object.get(key).and_then(serde_json::Value::as_array);
    let values = values.ok_or_else(|| object.fault(key, "expected a list of numbers"))?;
    let number = |value: &serde_json::Value| {
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(|number| number as f32).ok_or_else(|| object.fault(key, "expected numbers"))
    };
    values.iter().map(number).collect()
}
