//! Heads that turn in part: what several families say of it.

use serde_json::{Map, Value, json};

use crate::settings::MetadataKey;

/// The key, beside the rotary parameters or among them.
pub(super) const KEY: &str = "partial_rotary_factor";
/// The same, as a list of those that a family reads.
pub(super) const KEYS: &[&str] = &[KEY];

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
