//! OLMo 1 (`OlmoModel` in `conversion/olmo.py`): Llama with norms that take the mean away and
//! have no weights; some clamp queries, keys and values.

use super::decoder;
use crate::architecture::Architecture;
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, MetadataKey};

/// OLMo 1.
pub(super) struct Olmo;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT,
    decoder::QUERY.paired(),
    decoder::KEY.paired(),
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "olmo",
    numbers: &[
        ("vocab_size", 50_304),
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2_048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// Files say how far queries, keys and values go; a forward pass refuses them.
const CLAMP: &str = "clip_qkv";

impl Architecture for Olmo {
    fn class_names(&self) -> &'static [&'static str] {
        &["OlmoForCausalLM", "OLMoForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "olmo"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::number(CLAMP, Default::Absent)] }
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::computed("attention.layer_norm_epsilon", |_| Some(1e-5f32.into())),
                MetadataKey::setting("attention.clamp_kqv", CLAMP),
            ]
        }
    }
}
