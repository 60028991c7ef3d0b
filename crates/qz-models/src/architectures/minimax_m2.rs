//! MiniMax M2 (`MiniMaxM2Model` in `conversion/minimax.py`): Mixtral's names, sigmoids with a
//! bias to choose by, norms of all heads together, heads that turn in part.

use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{decoder, experts, mixtral, partial};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{ConfigDefaults, DEFAULT_RMS_EPSILON, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// MiniMax M2.
pub(super) struct MiniMaxM2;

static RULES: &[TensorRule] = rules![
    &decoder::AROUND,
    &decoder::ATTENTION,
    &decoder::ROW_NORMS,
    &[
        decoder::FEED_FORWARD_NORM,
        experts::SELECTION_BIAS
            .named("model.layers.{layer}.block_sparse_moe.e_score_correction_bias"),
    ],
    &mixtral::EXPERTS,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "minimax_m2",
    numbers: &[
        ("vocab_size", 200_064),
        ("hidden_size", 3072),
        ("intermediate_size", 1536),
        ("num_hidden_layers", 62),
        ("num_attention_heads", 48),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 196_608),
        ("num_local_experts", 256),
        ("num_experts_per_tok", 8),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: 5e6,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// How many elements of a head turn.
const TURNED: &str = "rotary_dim";

impl Architecture for MiniMaxM2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["MiniMaxM2ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "minimax-m2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(TURNED, Default::Required),
                ConfigKey::word("scoring_func", &["sigmoid"], Default::Absent),
                ConfigKey::any(partial::KEY),
                ConfigKey::any("use_routing_bias"),
                ConfigKey::any("qk_norm_type"),
                ConfigKey::any("use_mtp"),
                ConfigKey::any("num_mtp_modules"),
                ConfigKey::any("mtp_transformer_layers"),
                ConfigKey::any("shared_intermediate_size"),
                ConfigKey::any("attn_type_list"),
                ConfigKey::any("mlp_intermediate_size"),
                ConfigKey::any("shared_moe_mode"),
                ConfigKey::exactly("layernorm_full_attention_beta", 1.0),
                ConfigKey::exactly("layernorm_linear_attention_beta", 1.0),
                ConfigKey::exactly("layernorm_mlp_beta", 1.0),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        config.rope.part?;
        let (stated, implied) = (config.size(TURNED)?, config.rope.turned(config.head_size));
        (stated != implied).then(|| Contradiction {
            key: TURNED,
            problem: format!("is {stated}, but partial_rotary_factor means {implied}"),
        })
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::computed("expert_feed_forward_length", |config| {
                    Some((config.intermediate as u32).into())
                }),
                MetadataKey::setting("rope.dimension_count", TURNED),
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        partial::restore(keys, config);
        config.insert("use_qk_norm".to_owned(), json!(true));
    }
}
