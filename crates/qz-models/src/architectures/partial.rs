//! Heads that turn in part: what several families say of it, in both directions.

use serde_json::{Map, Value, json};

use crate::settings::{GgufKeys, MetadataKey};

/// The key, beside the rotary parameters or among them.
pub(super) const KEY: &str = "partial_rotary_factor";
/// The same, as a list of those that a family reads.
pub(super) const KEYS: &[&str] = &[KEY];

/// The way back: the part follows from how many elements turn.
pub(super) fn restore(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let heads = keys.size("attention.head_count").unwrap_or(1).max(1);
    let implied = keys.size("embedding_length").unwrap_or(0) / heads;
    let head = keys.size("attention.key_length").unwrap_or(implied).max(1);
    let Some(turned) = keys.size("rope.dimension_count") else { return };
    let part = json!(turned as f64 / head as f64);
    config.insert(KEY.to_owned(), part.clone());
    for rope in ["rope_parameters", "rope_scaling"] {
        if let Some(Value::Object(rope)) = config.get_mut(rope) {
            rope.insert(KEY.to_owned(), part.clone());
        }
    }
}

/// How many elements of a head turn.
pub(super) const TURNED: MetadataKey = MetadataKey::computed("rope.dimension_count", |config| {
    Some((config.rope.turned(config.head_size) as u32).into())
});

/// Names the part where the configuration is silent.
pub(super) fn fill(config: &mut Map<String, Value>, part: f64) {
    let is_there = |within: &Value| within.get(KEY).is_some_and(|part| !part.is_null());
    let ropes = ["rope_parameters", "rope_scaling"];
    let is_stated = ropes.iter().filter_map(|rope| config.get(*rope)).any(is_there)
        || config.get(KEY).is_some_and(|part| !part.is_null());
    if !is_stated {
        config.insert(KEY.to_owned(), json!(part));
    }
}

/// The same of a configuration that calls it otherwise.
pub(super) fn fill_from(config: &mut Map<String, Value>, key: &str, part: f64) {
    let stated = config.get(key).and_then(Value::as_f64);
    fill(config, stated.unwrap_or(part));
}
