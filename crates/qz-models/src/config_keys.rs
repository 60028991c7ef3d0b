//! Which keys of `config.json` have a say in what a model computes. Weights and biases
//! that are there or not are found by the tensors' names; what is here leaves no trace
//! in them: activations, factors, caps, the kinds of layers.
//!
//! A key is read, or harmless, or may have its neutral value only. One that nobody knows
//! is judged by the words of its name: fine-tunes bring many of their trainers' own keys.

mod tables;

use qz_tensor::{Location, Warning};
use serde_json::Value;

use crate::architecture::Architecture;
use crate::config::{ConfigDefaults, DefaultWindow, JsonObject, shown};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::{Part, Presence, Role};
use crate::settings::{FULL, SLIDING, SettingKind};
use tables::*;

/// Refuses keys that ask for a computation that ours is not, and warns of those that
/// nobody knows.
pub(crate) fn check(
    json: &JsonObject,
    config: &ModelConfig,
    defaults: Option<&ConfigDefaults>,
    architecture: &dyn Architecture,
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let is_read = |key: &str| architecture.config_keys().iter().any(|known| known.name == key);
    let expert_keys = if architecture.mixes_experts() { COMPUTING_EXPERTS } else { &[] };
    let activation = Word(architecture.activation().words);
    let activations = ACTIVATIONS.iter().map(|key| (*key, activation));
    let computing = activations.chain(COMPUTING.iter().chain(expert_keys).copied());
    for (key, neutral) in computing.filter(|(key, _)| !is_read(key)) {
        refuse(json, key, neutral, config)?;
    }
    for (key, role, part) in OF_TENSORS.iter().filter(|(key, ..)| !is_read(key)) {
        if !has_rule(architecture, *role, *part) {
            refuse(json, key, Off, config)?;
        }
    }
    for rope in rope_objects(json)? {
        let read = architecture.rope_keys();
        // Alone, 1 is what YaRN assumes.
        let is_assumed = rope.get("mscale").is_some_and(is_number_one)
            && rope.get("mscale_all_dim").is_none_or(is_off);
        let counts = |key: &str| !read.contains(&key) && (key != "mscale" || !is_assumed);
        for (key, neutral) in COMPUTING_ROPE.iter().filter(|(key, _)| counts(key)) {
            refuse(&rope, key, *neutral, config)?;
        }
    }
    match architecture.window_pattern() {
        _ if reads_windows(architecture) => {}
        Some(pattern) => check_pattern(json, config, pattern)?,
        None if is_read("layer_types") => {}
        None => check_layers(json, config, defaults)?,
    }
    let mut unknown = Vec::new();
    for (key, value) in json.entries().filter(|(key, _)| !is_known(key) && !is_read(key)) {
        // A switch that is off may switch off what is computed here.
        let is_switch_off = *value == Value::Bool(false) && computes(key);
        if is_off(value) && !is_switch_off {
            continue;
        }
        if computes(key) && !is_switch_off {
            if is_number_one(value) && scales(key) {
                continue;
            }
            let problem = format!(
                "is {}; the key is not known, and by its name it changes what the model \
                 computes: remove it from the file if it does not",
                shown(value)
            );
            return Err(json.fault(key, problem));
        }
        unknown.push(key);
    }
    let ropes = rope_objects(json)?;
    let of_ropes = ropes.iter().flat_map(|rope| rope.entries());
    unknown.extend(of_ropes.map(|(key, _)| key).filter(|key| !is_known_of_rope(key)));
    if !unknown.is_empty() {
        warnings.push(Warning {
            location: Location::file(json.path()),
            rule: "unknown-config-keys",
            message: format!("keys that are not known are passed over: {}", listed(&unknown)),
        });
    }
    Ok(())
}

fn has_rule(architecture: &dyn Architecture, role: Role, part: Part) -> bool {
    let others = architecture.other_layouts().iter().copied();
    let mut rules = others.chain([architecture.tensor_rules()]).flatten();
    rules.any(|rule| (rule.role, rule.part) == (role, part) && rule.presence != Presence::Dropped)
}

/// The first of many keys: they come from a file.
fn listed(keys: &[&str]) -> String {
    const LISTED: usize = 10;
    let first: Vec<String> = keys.iter().take(LISTED).map(|key| qz_shards::shown(key)).collect();
    match keys.len().saturating_sub(LISTED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn is_known(key: &str) -> bool {
    let tables = [COMPUTING, COMPUTING_EXPERTS];
    READ.contains(&key)
        || ACTIVATIONS.contains(&key)
        || HARMLESS.contains(&key)
        || OF_TENSORS.iter().any(|(known, ..)| *known == key)
        || tables.iter().any(|table| table.iter().any(|(known, _)| *known == key))
}

fn is_known_of_rope(key: &str) -> bool {
    READ_ROPE.contains(&key) || COMPUTING_ROPE.iter().any(|(known, _)| *known == key)
}

/// True if an unknown key's words say that something is multiplied by it: one changes
/// nothing.
fn scales(key: &str) -> bool {
    let mut words = key.split(['_', '.', '-']);
    words.any(|word| SCALING_WORDS.iter().any(|one| word.eq_ignore_ascii_case(one)))
}

fn is_number_one(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().all(is_number_one),
        value => value.as_f64() == Some(1.0),
    }
}

/// True if the kinds of layers are what the family's list says.
fn reads_windows(architecture: &dyn Architecture) -> bool {
    architecture.config_keys().iter().any(|key| key.kind == SettingKind::Windows)
}

/// True if an unknown key's words say that a computation depends on it.
fn computes(key: &str) -> bool {
    let has = |known: &[&str]| {
        key.split(['_', '.', '-'])
            .any(|word| known.iter().any(|one| word.eq_ignore_ascii_case(one)))
    };
    has(COMPUTING_WORDS) && !has(HARMLESS_WORDS)
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.iter().all(is_off),
        Value::Object(values) => values.is_empty(),
    }
}

fn refuse(
    json: &JsonObject,
    key: &str,
    neutral: Neutral,
    config: &ModelConfig,
) -> Result<(), Error> {
    let Some(value) = json.get(key) else { return Ok(()) };
    let head_size = config.head_size as f64;
    let (is_neutral, only) = match neutral {
        Off => (is_off(value), "off".to_owned()),
        NoLayers => {
            let is_empty = value.as_array().is_some_and(Vec::is_empty);
            (is_empty || value.is_null(), "an empty list".to_owned())
        }
        One => (is_one(value), if value.is_boolean() { "true" } else { "1" }.to_owned()),
        Word(words) => {
            let known = value.as_str().is_some_and(|text| words.contains(&text));
            (known, words.first().copied().unwrap_or_default().to_owned())
        }
        HeadSize => (is_near(value, head_size), format!("the head's size {head_size}")),
        ScoreScale => {
            let scale = head_size.sqrt().recip();
            (is_near(value, scale), format!("one over the root of the head's size, {scale}"))
        }
    };
    if is_neutral {
        return Ok(());
    }
    let problem = format!(
        "is {}, which changes what the model computes; of this architecture only {only} is \
         supported",
        shown(value)
    );
    Err(json.fault(key, problem))
}

/// One, or a list of ones.
fn is_one(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().all(is_one),
        Value::Bool(value) => *value,
        value => value.as_f64() == Some(1.0),
    }
}

/// Equal in the precision of a 32-bit float.
fn is_near(value: &Value, expected: f64) -> bool {
    value.as_f64().is_some_and(|number| ((number - expected) / expected).abs() < 1e-6)
}

/// The rotary parameters, of both forms, and those of kinds of layers inside them.
fn rope_objects(json: &JsonObject) -> Result<Vec<JsonObject>, Error> {
    let mut objects = Vec::new();
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(outer) = json.object(key)? else { continue };
        for key in ["full_attention", "sliding_attention"] {
            if outer.get(key).is_some_and(Value::is_object) {
                objects.extend(outer.object(key)?);
            }
        }
        objects.push(outer);
    }
    Ok(objects)
}

/// Layers see all positions, or all of them the same window; a window as long as the
/// context is none.
fn check_layers(
    json: &JsonObject,
    config: &ModelConfig,
    defaults: Option<&ConfigDefaults>,
) -> Result<(), Error> {
    let window = match defaults.map(|defaults| defaults.window) {
        Some(DefaultWindow::SomeLayers(window)) => {
            let is_used = json.boolean("use_sliding_window")? == Some(true);
            let stated = json.integer("sliding_window", 0..=u64::MAX)?;
            let window = if json.has("sliding_window") { stated } else { Some(window) };
            window.filter(|_| is_used)
        }
        _ => config.sliding_window,
    };
    let is_limit =
        |window: &u64| *window > 0 && config.context.is_none_or(|context| *window < context);
    let windowed = window.filter(is_limit).is_some();
    match kinds_of_layers(json, config)? {
        Some(kinds) => {
            let other = kinds.iter().find(|kind| *kind != FULL && *kind != SLIDING);
            if let Some(kind) = other {
                let problem =
                    format!("has layers of the kind {}; only {FULL} is supported", shown(kind));
                return Err(json.fault("layer_types", problem));
            }
            let sliding = kinds.iter().filter(|kind| *kind == SLIDING).count();
            let all_alike = config.sliding_window.is_some() && sliding == kinds.len();
            if sliding > 0 && windowed && !all_alike {
                return Err(json.fault("layer_types", MIXED_WINDOWS));
            }
        }
        None if windowed && config.sliding_window.is_none() => {
            // Layers from this one on have the window.
            let first = json.integer("max_window_layers", 0..=u64::MAX)?.unwrap_or(28);
            if first < u64::from(config.layers) {
                return Err(json.fault("use_sliding_window", MIXED_WINDOWS));
            }
        }
        None => {}
    }
    Ok(())
}

/// `layer_types`, a kind for each layer, if it is there.
fn kinds_of_layers<'a>(
    json: &'a JsonObject,
    config: &ModelConfig,
) -> Result<Option<&'a [Value]>, Error> {
    const KEY: &str = "layer_types";
    match json.get(KEY) {
        None => Ok(None),
        Some(Value::Array(kinds)) if kinds.len() == config.layers as usize => Ok(Some(kinds)),
        Some(Value::Array(kinds)) => {
            let problem = format!("has {} kinds for {} layers", kinds.len(), config.layers);
            Err(json.fault(KEY, problem))
        }
        Some(value) => {
            let problem = format!("is {}, expected a list of kinds of layers", shown(value));
            Err(json.fault(KEY, problem))
        }
    }
}

/// The kinds of layers are those of the family's graph.
fn check_pattern(json: &JsonObject, config: &ModelConfig, pattern: u32) -> Result<(), Error> {
    const KEY: &str = "layer_types";
    let Some(kinds) = kinds_of_layers(json, config)? else { return Ok(()) };
    for (layer, kind) in (0u32..).zip(kinds) {
        let expected = if (layer + 1).is_multiple_of(pattern) { FULL } else { SLIDING };
        if kind != expected {
            let problem = format!(
                "layer {layer} is {}, but of each {pattern} layers of this architecture the last \
                 is {FULL} and the others are {SLIDING}",
                shown(kind)
            );
            return Err(json.fault(KEY, problem));
        }
    }
    Ok(())
}

const MIXED_WINDOWS: &str = "some layers see only `sliding_window` positions, which is not \
                             supported for this architecture";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_key_twice() {
        let mut keys: Vec<&str> = READ.iter().chain(HARMLESS).copied().collect();
        keys.extend(ACTIVATIONS);
        keys.extend(OF_TENSORS.iter().map(|(key, ..)| *key));
        keys.extend(COMPUTING.iter().chain(COMPUTING_EXPERTS).map(|(key, _)| *key));
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn unknown_keys_are_judged_by_their_words() {
        let check = |key: &str, expected: bool| assert_eq!(computes(key), expected, "{key}");
        check("value_multiplier", true);
        check("qk_softcap", true);
        check("rope_style", true);
        check("mlp_act", true);
        check("my_training_run", false);
        check("attention_probs_dropout", false);
        check("max_grad_norm", false);
        check("norm_init_std", false);
        check("mm_hidden_size", false);
        check("exact", false);
        check("capacity", false);
    }
}
