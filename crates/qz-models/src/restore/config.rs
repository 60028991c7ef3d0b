//! `config.json`.

use qz_tensor::{Array, TensorSource, Value as Entry};
use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::rope::rope_parameters;
use super::tensors::switches;
use crate::architecture::Architecture;
use crate::config::{DEFAULT_ROPE_THETA, DefaultHeadSize, shortest};
use crate::error::Error;
use crate::settings::{GATING_FUNCTIONS, GgufKeys, MetadataKey, restored};

/// Sizes that a 32-bit integer of llama.cpp holds.
const LARGEST: u64 = i32::MAX as u64;

/// What `config.json` says, without the element type. Both the keys of
/// transformers 5 and those of version 4 are written; each passes over the other's.
pub(super) fn config_of(
    architecture: &'static dyn Architecture,
    keys: &Keys<'_>,
    source: &dyn TensorSource,
    tokens: u64,
) -> Result<Map<String, Value>, Error> {
    let prefix = architecture.gguf_name();
    let key = |name: &str| format!("{prefix}.{name}");
    let size = |name: &str| keys.required_integer(&key(name), 1..=LARGEST);
    let has = |wanted: fn(&MetadataKey) -> bool| {
        let mut known = architecture.metadata().iter().chain(architecture.own_metadata());
        known.any(wanted)
    };
    let defaults = architecture.defaults();
    let own = GgufKeys { metadata: keys.metadata, prefix };
    let mut config = Map::new();
    let mut set = |name: &str, value: Value| {
        config.insert(name.to_owned(), value);
    };
    set("architectures", json!([architecture.class_names()[0]]));
    set("model_type", json!(defaults.model_type));
    set("vocab_size", json!(tokens));
    let hidden = size("embedding_length")?;
    set("hidden_size", json!(hidden));
    let (blocks, further) = (size("block_count")?, further_layers(architecture, keys)?);
    if u64::from(further) >= blocks {
        let problem = format!("is {further} of {blocks} layers");
        return Err(keys.fault(&key(FURTHER_KEY), problem));
    }
    set("num_hidden_layers", json!(blocks - u64::from(further)));
    let mut head = HeadSize { size: 0, stated: None };
    if architecture.has_attention() {
        let width = most(keys, &key("feed_forward_length"))?;
        if architecture.has_dense_network() || width.is_some() {
            let missing = || size("feed_forward_length");
            set("intermediate_size", json!(width.map_or_else(missing, Ok)?));
        }
        let missing = || size("attention.head_count");
        let heads = most(keys, &key("attention.head_count"))?.map_or_else(missing, Ok)?;
        set("num_attention_heads", json!(heads));
        let key_value_heads = most(keys, &key("attention.head_count_kv"))?;
        set("num_key_value_heads", json!(key_value_heads.unwrap_or(heads)));
        if !architecture.has_own_heads() {
            head = head_size(architecture, keys, hidden, heads)?;
        }
        if let Some(size) = head.stated {
            set("head_dim", json!(size));
        }
    }
    let activation = architecture.activation();
    set(activation.key, json!(activation.words.first()));
    let context = keys.required_integer(&key("context_length"), 1..=u64::from(u32::MAX))?;
    set("max_position_embeddings", json!(context));
    if has(|key| matches!(key, MetadataKey::RmsEpsilon)) && defaults.rms_epsilon.is_some() {
        let epsilon = keys.required_float(&key("attention.layer_norm_rms_epsilon"))?;
        set("rms_norm_eps", shortest(epsilon));
    } else if has(|key| matches!(key, MetadataKey::LayerNormEpsilon)) {
        let epsilon = keys.required_float(&key("attention.layer_norm_epsilon"))?;
        set("layer_norm_eps", shortest(epsilon));
    }
    let reads_window = architecture.config_keys().iter().any(|key| key.name == "sliding_window");
    if !reads_window
        && let Some(window) = keys.integer(&key("attention.sliding_window"), 1..=LARGEST)?
    {
        set("sliding_window", json!(window));
    }
    if keys.metadata.get(&key("attention.causal")) == Some(&Entry::Bool(false)) {
        set("is_causal", json!(false));
    }
    if architecture.mixes_experts() {
        set(architecture.expert_key(), json!(size("expert_count")?));
        set("num_experts_per_tok", json!(size("expert_used_count")?));
    }
    for (name, value) in switches(architecture, source.tensors()) {
        set(name, json!(value));
    }

    restore_settings(architecture, keys, &mut config);
    if !(architecture.has_attention() && architecture.has_rope()) {
        architecture.complete_config(own, &mut config);
        return Ok(config);
    }
    let mut set = |name: &str, value: Value| {
        config.insert(name.to_owned(), value);
    };
    let theta = keys.float(&key("rope.freq_base"))?.filter(|theta| *theta > 0.0);
    let theta = theta.unwrap_or(DEFAULT_ROPE_THETA as f32);
    let sliding = keys.float(&key("rope.freq_base_swa"))?.filter(|theta| *theta > 0.0);
    let mut rope = rope_parameters(architecture, keys, source, head.size, theta)?;
    if rope.get("rope_type") != Some(&json!("default")) {
        set("rope_scaling", Value::Object(rope.clone()));
    }
    rope.insert("rope_theta".to_owned(), shortest(theta));
    set("rope_parameters", Value::Object(rope.clone()));
    set("rope_theta", shortest(theta));
    if let Some(sliding) = sliding {
        set("rope_parameters", of_kinds(rope, sliding));
        set("rope_local_base_freq", shortest(sliding));
    }
    architecture.complete_config(own, &mut config);
    Ok(config)
}

/// A size; of a list, in which layers without it have none, the largest.
fn most(keys: &Keys<'_>, key: &str) -> Result<Option<u64>, Error> {
    let Some(Entry::Array(Array::I32(sizes))) = keys.metadata.get(key) else {
        return keys.integer(key, 1..=LARGEST);
    };
    match sizes.iter().max() {
        Some(most @ 1..) => Ok(Some(u64::from(most.unsigned_abs()))),
        _ => Err(keys.fault(key, "is zero in all layers")),
    }
}

const FURTHER_KEY: &str = "nextn_predict_layers";

/// Layers behind the last that only predict further tokens, if files of the family have them.
pub(super) fn further_layers(
    architecture: &dyn Architecture,
    keys: &Keys<'_>,
) -> Result<u32, Error> {
    if architecture.further_names().is_none() {
        return Ok(0);
    }
    let key = format!("{}.{FURTHER_KEY}", architecture.gguf_name());
    let count = keys.integer(&key, 0..=LARGEST)?.unwrap_or(0);
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Rotary parameters of layers that see all positions, and of those that see a window.
fn of_kinds(full: Map<String, Value>, sliding: f32) -> Value {
    let sliding = json!({"rope_type": "default", "rope_theta": shortest(sliding)});
    json!({"full_attention": full, "sliding_attention": sliding})
}

/// The family's own keys, as far as the metadata say something of them.
fn restore_settings(
    architecture: &'static dyn Architecture,
    keys: &Keys<'_>,
    config: &mut Map<String, Value>,
) {
    let known = architecture.metadata().iter().chain(architecture.own_metadata());
    for key in known {
        let MetadataKey::Setting { gguf, key } = key else { continue };
        let kind = architecture.config_keys().iter().find(|known| known.name == *key);
        let full = format!("{}.{gguf}", architecture.gguf_name());
        let entry = keys.metadata.get(&full);
        let value = kind.zip(entry).and_then(|(known, entry)| restored(known.kind, entry));
        config.extend(value.map(|value| ((*key).to_owned(), value)));
    }
    let gating =
        keys.metadata.unsigned(&format!("{}.expert_gating_func", architecture.gguf_name()));
    let word = GATING_FUNCTIONS.iter().find(|(_, number)| gating == Some(u64::from(*number)));
    config.extend(word.map(|(word, _)| ("scoring_func".to_owned(), json!(word))));
}

struct HeadSize {
    size: u64,
    /// What `config.json` is to say.
    stated: Option<u64>,
}

fn head_size(
    architecture: &'static dyn Architecture,
    keys: &Keys<'_>,
    hidden: u64,
    heads: u64,
) -> Result<HeadSize, Error> {
    let key = |name: &str| format!("{}.{name}", architecture.gguf_name());
    let stated = keys.integer(&key("attention.key_length"), 1..=LARGEST)?;
    let size = match stated {
        Some(size) => size,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let problem = format!("{heads} does not divide the embedding's {hidden}");
            return Err(keys.fault(&key("attention.head_count"), problem));
        }
    };
    let is_partial =
        !architecture.has_rope() || architecture.rope_keys().contains(&"partial_rotary_factor");
    let turned = (!is_partial).then_some("rope.dimension_count");
    for name in ["attention.value_length"].into_iter().chain(turned) {
        match keys.integer(&key(name), 1..=LARGEST)? {
            Some(other) if other != size => {
                let problem = format!("is {other}, but keys have {size} elements");
                return Err(keys.fault(&key(name), problem));
            }
            _ => {}
        }
    }
    let is_implied = architecture.defaults().head_size == DefaultHeadSize::Implied;
    Ok(HeadSize { size, stated: stated.or((!is_implied).then_some(size)) })
}
