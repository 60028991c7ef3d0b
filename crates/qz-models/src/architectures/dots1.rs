//! dots.llm1 (`Dots1Model` in `conversion/dots1.py`): DeepSeek 3's experts behind Qwen 3's
//! attention.

use serde_json::{Map, Value};

use super::decoder::rules;
use super::experts::{DENSE_KEY, SHARED_KEY};
use super::{decoder, experts};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// dots.llm1.
pub(super) struct Dots1;

const SCALE_KEY: &str = "routed_scaling_factor";
const NORMALIZES_KEY: &str = "norm_topk_prob";

/// What is no expert.
const OTHERS: &[TensorRule] = rules![
    &decoder::AROUND,
    &decoder::ATTENTION,
    &decoder::HEAD_NORMS,
    &[decoder::FEED_FORWARD_NORM, experts::BIAS],
];
static RULES: &[TensorRule] = rules![OTHERS, &experts::behind_dense(experts::EACH)];
const FUSED_RULES: &[TensorRule] = rules![OTHERS, &experts::behind_dense(experts::FUSED)];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "dots1",
    numbers: &[
        ("vocab_size", 152_064),
        ("hidden_size", 4608),
        ("intermediate_size", 10_944),
        ("num_hidden_layers", 62),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 32),
        ("max_position_embeddings", 2048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::None,
};

impl Architecture for Dots1 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Dots1ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "dots1"
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
        "n_routed_experts"
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::count_or(DENSE_KEY, Default::Size(0)),
                ConfigKey::count_or(SHARED_KEY, Default::Absent),
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(1408)),
                ConfigKey::count_or("n_group", Default::Size(1)),
                ConfigKey::count_or("topk_group", Default::Size(1)),
                ConfigKey::number(SCALE_KEY, Default::Number(1.0)),
                ConfigKey::flag(NORMALIZES_KEY, Default::Flag(false)),
                ConfigKey::word("scoring_func", &["sigmoid"], Default::Absent),
                ConfigKey::any("mlp_layer_types"),
                ConfigKey::word("topk_method", &["noaux_tc"], Default::Absent),
            ]
        }
    }

    /// The published file calls the scores by how experts are chosen with them.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        if let Some(word) = config.get_mut("scoring_func").filter(|word| **word == "noaux_tc") {
            *word = "sigmoid".into();
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        if let Some(window) = config.sliding_window {
            let problem = format!("is {window}; only models whose layers see all are supported");
            return Some(Contradiction { key: "sliding_window", problem });
        }
        experts::wrong_groups(config)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
                MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
                MetadataKey::setting("expert_shared_count", SHARED_KEY),
                MetadataKey::setting("expert_weights_scale", SCALE_KEY),
                MetadataKey::setting("expert_weights_norm", NORMALIZES_KEY),
            ]
        }
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert("sliding_window".to_owned(), Value::Null);
        config.insert("attention_bias".to_owned(), Value::Bool(false));
    }
}
