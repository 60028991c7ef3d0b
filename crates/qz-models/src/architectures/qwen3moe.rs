//! Qwen 3 with experts (`Qwen3MoeModel` in `conversion/qwen.py`).

use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{decoder, experts, qwen2moe};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Qwen 3 with experts.
pub(super) struct Qwen3Moe;

/// What is no expert.
pub(super) const OTHERS: &[TensorRule] = rules![
    &decoder::AROUND,
    &decoder::ATTENTION,
    &decoder::HEAD_NORMS,
    &decoder::attention_biases(decoder::ATTENTION_BIAS),
    &[
        decoder::ATTENTION_OUTPUT_BIAS.when(decoder::ATTENTION_OUTPUT_BIAS_ALLOWED),
        decoder::FEED_FORWARD_NORM,
    ],
];
pub(super) static RULES: &[TensorRule] = rules![OTHERS, &experts::of_all_layers(experts::EACH)];
pub(super) const FUSED_RULES: &[TensorRule] =
    rules![OTHERS, &experts::of_all_layers(experts::FUSED)];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "qwen3_moe",
    numbers: &[
        ("vocab_size", 151_936),
        ("hidden_size", 2048),
        ("intermediate_size", 6144),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 32_768),
        ("num_experts_per_tok", 8),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::SomeLayers(4096),
};

impl Architecture for Qwen3Moe {
    fn class_names(&self) -> &'static [&'static str] {
        &["Qwen3MoeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "qwen3moe"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
        &[FUSED_RULES]
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(768)),
                ConfigKey::flag(qwen2moe::NORMALIZES, Default::Flag(false)),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        qwen2moe::other_normalization(config, true)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY)] }
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        complete(config);
    }
}

/// What is the same in all models of this family.
pub(super) fn complete(config: &mut Map<String, Value>) {
    config.insert(qwen2moe::NORMALIZES.to_owned(), json!(true));
    qwen2moe::all_layers_alike(config);
    // What transformers called it before version 5.
    let experts = config.get("num_local_experts").cloned();
    config.insert("num_experts".to_owned(), json!(experts));
}
