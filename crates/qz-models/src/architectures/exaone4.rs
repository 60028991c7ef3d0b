//! EXAONE 4 (`Exaone4Model` in `conversion/exaone.py`): norms behind attention and network, and of each head's
//! queries and keys; in larger models windows on three of four layers, which alone turn.

use serde_json::{Map, Value, json};

use super::{decoder, llama};
use crate::architecture::{Architecture, ComputedTensor};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, FULL, GgufKeys, MetadataKey, SLIDING};

/// EXAONE 4.
pub(super) struct Exaone4;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_NORM,
    decoder::KEY_NORM,
    decoder::POST_ATTENTION_NORM,
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
    decoder::POST_FEED_FORWARD_NORM,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "exaone4",
    numbers: &[
        ("vocab_size", 102_400),
        ("hidden_size", 4_096),
        ("intermediate_size", 16_384),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 32),
        ("max_position_embeddings", 2_048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

pub(super) const WINDOW: &str = "sliding_window";
pub(super) const KINDS: &str = "layer_types";
/// Which layers see all positions: a letter for each of a period's layers, or its length.
pub(super) const PATTERN: &str = "sliding_window_pattern";

/// The kinds of layers that the pattern says.
fn kinds(pattern: Option<&Value>, layers: u64) -> Option<Vec<&'static str>> {
    let is_windowed = |layer: u64| match pattern {
        Some(Value::String(letters)) => {
            let at = usize::try_from(layer).ok()? % letters.len().max(1);
            Some(letters.as_bytes().get(at) == Some(&b'L'))
        }
        Some(Value::Number(period)) => Some(!(layer + 1).is_multiple_of(period.as_u64()?)),
        _ => None,
    };
    (0..layers).map(|layer| Some(if is_windowed(layer)? { SLIDING } else { FULL })).collect()
}

/// Lists the kinds of layers where a pattern says them.
pub(super) fn fill_kinds(config: &mut Map<String, Value>) {
    let is_there = |key: &str| config.get(key).is_some_and(|value| !value.is_null());
    if !is_there(WINDOW) {
        // Without a window the kinds of layers say nothing.
        config.shift_remove(KINDS);
        return;
    }
    let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
    if !is_there(KINDS)
        && let Some(kinds) = kinds(config.get(PATTERN), layers)
    {
        config.insert(KINDS.to_owned(), json!(kinds));
    }
}

impl Architecture for Exaone4 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Exaone4ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "exaone4"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::count_or(WINDOW, Default::Absent),
                ConfigKey::windows(KINDS),
                ConfigKey::any(PATTERN),
            ]
        }
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill_kinds(config);
    }

    /// transformers has no period of layers where none has a window, and asks for their kinds.
    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        if keys.size("attention.sliding_window").is_some() {
            config.insert(PATTERN.to_owned(), json!(4));
            return;
        }
        let layers = keys.size("block_count").unwrap_or(0).min(1 << 16);
        let kinds: Vec<&str> = (0..layers).map(|_| FULL).collect();
        config.insert(KINDS.to_owned(), json!(kinds));
        config.insert(WINDOW.to_owned(), Value::Null);
        config.insert(PATTERN.to_owned(), Value::Null);
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                llama::VOCABULARY_SIZE,
                MetadataKey::setting("attention.sliding_window", WINDOW),
                MetadataKey::setting("attention.sliding_window_pattern", KINDS),
            ]
        }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }
}
