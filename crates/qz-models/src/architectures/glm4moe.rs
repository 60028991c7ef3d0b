//! GLM 4.5 and its successors with experts (`Glm4MoeModel` in `conversion/glm.py`): DeepSeek
//! 3's experts behind attention whose heads turn in part, and layers that predict further
//! tokens.

use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value};

use super::decoder::rules;
use super::experts::{DENSE_KEY, SHARED_KEY};
use super::{decoder, experts, further, partial};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::further::FurtherNames;
use crate::hyperparameters::ModelConfig;
use crate::rules::{Presence, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// GLM 4.5 and its successors with experts.
pub(super) struct Glm4Moe;

const FURTHER_KEY: &str = "num_nextn_predict_layers";
const SCALE_KEY: &str = "routed_scaling_factor";
const NORMALIZES_KEY: &str = "norm_topk_prob";
const NORMS_HEADS: Presence = Presence::WhenTrue("use_qk_norm");

/// What is no expert.
const OTHERS: &[TensorRule] = rules![
    &decoder::AROUND,
    &decoder::ATTENTION,
    &decoder::attention_biases(decoder::ATTENTION_BIAS),
    &[
        decoder::QUERY_NORM.when(NORMS_HEADS),
        decoder::KEY_NORM.when(NORMS_HEADS),
        // Named after its place behind attention; it is the one in front of the network.
        decoder::FEED_FORWARD_NORM.gguf("blk.{layer}.post_attention_norm.weight"),
        experts::BIAS,
    ],
    &further::ALL,
];
static RULES: &[TensorRule] = rules![OTHERS, &experts::behind_dense(experts::EACH)];
const FUSED_RULES: &[TensorRule] = rules![OTHERS, &experts::behind_dense(experts::FUSED)];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "glm4_moe",
    numbers: &[
        ("vocab_size", 151_552),
        ("hidden_size", 4096),
        ("intermediate_size", 10_944),
        ("num_hidden_layers", 46),
        ("num_attention_heads", 96),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 131_072),
        ("n_routed_experts", 128),
        ("num_experts_per_tok", 8),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for Glm4Moe {
    fn class_names(&self) -> &'static [&'static str] {
        &["Glm4MoeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "glm4moe"
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

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        partial::fill(config, 0.5);
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::count_or(DENSE_KEY, Default::Size(1)),
                ConfigKey::count_or(SHARED_KEY, Default::Size(1)),
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(1408)),
                ConfigKey::count_or("n_group", Default::Size(1)),
                ConfigKey::count_or("topk_group", Default::Size(1)),
                ConfigKey::number(SCALE_KEY, Default::Number(1.0)),
                ConfigKey::flag(NORMALIZES_KEY, Default::Flag(true)),
                ConfigKey::word("scoring_func", &["sigmoid"], Default::Absent),
                ConfigKey::count_or(FURTHER_KEY, Default::Absent),
                ConfigKey::flag("use_qk_norm", Default::Flag(false)),
                ConfigKey::any(partial::KEY),
                ConfigKey::any("num_mtp_layers"),
                ConfigKey::any("topk_method"),
                ConfigKey::any("mlp_layer_types"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        experts::wrong_groups(config)
    }

    fn further_layers(&self, config: &ModelConfig) -> u32 {
        u32::try_from(config.size(FURTHER_KEY).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    fn further_names(&self) -> Option<FurtherNames> {
        Some(FurtherNames::Numbered)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                partial::TURNED,
                MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
                MetadataKey::setting("expert_shared_count", SHARED_KEY),
                MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
                MetadataKey::computed("expert_gating_func", |_| Some(2u32.into())),
                MetadataKey::setting("expert_weights_scale", SCALE_KEY),
                MetadataKey::setting("expert_weights_norm", NORMALIZES_KEY),
                MetadataKey::computed("nextn_predict_layers", |config| {
                    config.size(FURTHER_KEY).map(|_| config.further.into())
                }),
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        partial::restore(keys, config);
        further::restore_count(FURTHER_KEY, keys, config);
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Glm4Experts
    }
}
