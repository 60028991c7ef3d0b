//! OLMoE (`OlmoeModel` in `conversion/olmo.py`): experts whose weights are not divided by
//! their sum, and norms of all heads together.

use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{decoder, experts, qwen2moe};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// OLMoE.
pub(super) struct Olmoe;

/// What is no expert.
const OTHERS: &[TensorRule] = rules![
    &decoder::AROUND,
    &decoder::ATTENTION,
    &decoder::ROW_NORMS,
    &[decoder::FEED_FORWARD_NORM],
];
static RULES: &[TensorRule] = rules![OTHERS, &experts::of_all_layers(experts::EACH_AS_NETWORK)];
const FUSED_RULES: &[TensorRule] =
    rules![OTHERS, &experts::of_all_layers(experts::FUSED_AS_NETWORK)];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "olmoe",
    numbers: &[
        ("vocab_size", 50_304),
        ("hidden_size", 2048),
        ("intermediate_size", 2048),
        ("num_hidden_layers", 16),
        ("num_attention_heads", 16),
        ("max_position_embeddings", 4096),
        ("num_experts", 64),
        ("num_experts_per_tok", 8),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for Olmoe {
    fn class_names(&self) -> &'static [&'static str] {
        &["OlmoeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "olmoe"
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

    fn expert_key(&self) -> &'static str {
        "num_experts"
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::flag(qwen2moe::NORMALIZES, Default::Flag(false))] }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        if config.rms_epsilon.is_some_and(|epsilon| (epsilon - 1e-5).abs() > 1e-9) {
            let problem = "is not 1e-5, which files of this architecture always say".to_owned();
            return Some(Contradiction { key: "rms_norm_eps", problem });
        }
        qwen2moe::other_normalization(config, false)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        &[]
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert(qwen2moe::NORMALIZES.to_owned(), json!(false));
        config.insert("attention_bias".to_owned(), json!(false));
    }
}
