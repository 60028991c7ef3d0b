//! OLMo 2 and 3 (`Olmo2Model` in `conversion/olmo.py`): norms behind attention and network, and of all heads'
//! queries and keys together. OLMo 3 has windows on three of four layers.

use qz_tensor::Metadata;
use serde_json::{Map, Value, json};

use super::decoder;
use crate::architecture::Architecture;
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::rules::Dimension::{KeyValues, Queries};
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, FULL, MetadataKey, SLIDING};

/// OLMo 2.
pub(super) struct Olmo2;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_NORM.shaped(&[Queries]),
    decoder::KEY_NORM.shaped(&[KeyValues]),
    decoder::POST_ATTENTION_NORM,
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
    decoder::POST_FEED_FORWARD_NORM,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "olmo2",
    numbers: &[
        ("vocab_size", 50_304),
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2_048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

static DEFAULTS_OF_3: ConfigDefaults = ConfigDefaults {
    model_type: "olmo3",
    numbers: DEFAULTS.numbers,
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: 500_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

const WINDOW: &str = "sliding_window";
const KINDS: &str = "layer_types";

fn has_window(metadata: &Metadata) -> bool {
    metadata.get("olmo2.attention.sliding_window").is_some()
}

impl Architecture for Olmo2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Olmo2ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "olmo2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        !has_window(metadata)
    }
}

/// OLMo 3.
pub(super) struct Olmo3;

/// Rotary parameters of one kind become those of layers that see all positions; the others
/// have the same base, and nothing is scaled (`Olmo3Config` in transformers).
fn divide_rope(config: &mut Map<String, Value>) {
    const BOTH: &str = "rope_parameters";
    const OLD: &str = "rope_scaling";
    let old = config.shift_remove(OLD);
    if config.get(BOTH).is_some_and(|rope| rope.get(FULL).is_some()) {
        return;
    }
    let old = old.filter(|rope| rope.as_object().is_some_and(|rope| !rope.is_empty()));
    let stated = old.or_else(|| config.get(BOTH).cloned()).unwrap_or(Value::Null);
    let mut full = match stated {
        Value::Object(rope) => rope,
        _ => Map::new(),
    };
    let theta = full.get("rope_theta").or_else(|| config.get("rope_theta")).cloned();
    let theta = theta.unwrap_or(json!(DEFAULTS_OF_3.rope_theta));
    full.entry("rope_theta").or_insert(theta.clone());
    let own = config.get("rope_local_base_freq").cloned().unwrap_or(theta);
    let sliding = json!({ "rope_type": "default", "rope_theta": own });
    let both = Map::from_iter([(FULL.to_owned(), full.into()), (SLIDING.to_owned(), sliding)]);
    config.insert(BOTH.to_owned(), both.into());
}

impl Architecture for Olmo3 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Olmo3ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        Olmo2.gguf_name()
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        has_window(metadata)
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS_OF_3
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::count_or(WINDOW, Default::Size(4096)),
                ConfigKey::windows(KINDS),
                ConfigKey::any("rope_local_base_freq"),
            ]
        }
    }

    /// Of each four layers the last sees all positions; scaled frequencies are theirs.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        divide_rope(config);
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
        let kind = |layer: u64| if (layer + 1).is_multiple_of(4) { FULL } else { SLIDING };
        let kinds: Vec<&str> = (0..layers.min(1 << 16)).map(kind).collect();
        if config.get(KINDS).is_none_or(Value::is_null) {
            config.insert(KINDS.to_owned(), json!(kinds));
        }
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::setting("attention.sliding_window", WINDOW),
                MetadataKey::setting("attention.sliding_window_pattern", KINDS),
            ]
        }
    }
}
