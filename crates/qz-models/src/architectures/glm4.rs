//! GLM 4 (`Glm4Model` in `conversion/glm.py`): norms around attention and network, gate and up projection in
//! one matrix, heads that turn in part.

use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value};

use super::decoder::layer_weight;
use super::{decoder, partial};
use crate::architecture::Architecture;
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::rules::Dimension::{GateAndUp, Hidden};
use crate::rules::{Role, TensorRule};
use crate::settings::{ConfigKey, GgufKeys, MetadataKey};

/// GLM 4.
pub(super) struct Glm4;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::KEY_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::VALUE_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::POST_ATTENTION_NORM.named("model.layers.{layer}.post_self_attn_layernorm.weight"),
    decoder::FEED_FORWARD_NORM,
    layer_weight!(Role::FeedForwardGateUp, "mlp.gate_up_proj", "ffn_up", &[GateAndUp, Hidden]),
    decoder::DOWN,
    decoder::POST_FEED_FORWARD_NORM.named("model.layers.{layer}.post_mlp_layernorm.weight"),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "glm4",
    numbers: &[
        ("vocab_size", 151_552),
        ("hidden_size", 4_096),
        ("intermediate_size", 13_696),
        ("num_hidden_layers", 40),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 2),
        ("max_position_embeddings", 131_072),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: Some(0.000_000_156_25),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for Glm4 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Glm4ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "glm4"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::any(partial::KEY)] }
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        partial::fill(config, 0.5);
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[partial::TURNED] }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        partial::restore(keys, config);
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Glm4
    }
}
