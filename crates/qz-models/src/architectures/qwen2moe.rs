//! Qwen 1.5 and 2 with experts (`Qwen2MoeModel` in `conversion/qwen.py`): experts' weights
//! are not normalized again, and an expert of its own weight is given every token.

use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{decoder, experts};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Size};
use crate::rules::{Dimension, Presence, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Qwen 1.5 and 2 with experts.
pub(super) struct Qwen2Moe;

const SHARED_KEY: &str = "shared_expert_intermediate_size";
const SHARED: Dimension = Size(SHARED_KEY);
const BIAS: Presence = Presence::WhenTrue("qkv_bias");

/// What is no expert that tokens are given to by a router.
const OTHERS: &[TensorRule] = rules![
    &decoder::AROUND,
    &decoder::ATTENTION,
    &decoder::attention_biases(BIAS),
    &[
        decoder::FEED_FORWARD_NORM,
        experts::SHARED_GATE.shaped(&[SHARED, Hidden]),
        experts::SHARED_UP.shaped(&[SHARED, Hidden]),
        experts::SHARED_DOWN.shaped(&[Hidden, SHARED]),
        experts::SHARED_ROUTER,
    ],
];
static RULES: &[TensorRule] = rules![OTHERS, &experts::of_all_layers(experts::EACH)];
const FUSED_RULES: &[TensorRule] = rules![OTHERS, &experts::of_all_layers(experts::FUSED)];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "qwen2_moe",
    numbers: &[
        ("vocab_size", 151_936),
        ("hidden_size", 2048),
        ("intermediate_size", 5632),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 16),
        ("max_position_embeddings", 32_768),
        ("num_experts_per_tok", 4),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::SomeLayers(4096),
};

pub(super) const NORMALIZES: &str = "norm_topk_prob";

/// A model whose graph treats the weights of chosen experts otherwise.
pub(super) fn other_normalization(config: &ModelConfig, expected: bool) -> Option<Contradiction> {
    let stated = config.flag(NORMALIZES)?;
    (stated != expected).then(|| Contradiction {
        key: NORMALIZES,
        problem: format!("is {stated}, but graphs of this architecture compute as with {expected}"),
    })
}

/// GGUF files have experts in all layers.
pub(super) fn all_layers_alike(config: &mut Map<String, Value>) {
    config.insert("decoder_sparse_step".to_owned(), json!(1));
    config.insert("mlp_only_layers".to_owned(), json!([]));
}

impl Architecture for Qwen2Moe {
    fn class_names(&self) -> &'static [&'static str] {
        &["Qwen2MoeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "qwen2moe"
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
        const {
            &[
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(1408)),
                ConfigKey::size_or(SHARED_KEY, Default::Size(5632)),
                ConfigKey::flag(NORMALIZES, Default::Flag(false)),
                ConfigKey::flag("qkv_bias", Default::Flag(true)),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        other_normalization(config, false)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
                MetadataKey::setting("expert_shared_feed_forward_length", SHARED_KEY),
            ]
        }
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert(NORMALIZES.to_owned(), json!(false));
        all_layers_alike(config);
    }
}
