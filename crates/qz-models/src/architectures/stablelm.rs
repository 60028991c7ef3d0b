//! StableLM (`StableLMModel` in `conversion/stablelm.py`): Llama with norms that take the mean
//! away, and heads that turn in part; some compute attention beside the network.

use serde_json::{Map, Value, json};

use super::{decoder, gemma, partial};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{HeadSize, Heads, KeyValues, Quotient};
use crate::rules::{Condition, Presence, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// StableLM.
pub(super) struct StableLm;

const BIAS: &str = "use_qkv_bias";
const PARALLEL: &str = "use_parallel_residual";
/// Keys of the first configurations.
const OLD_PART: &str = "rope_pct";
const OLD_EPSILON: &str = "norm_eps";

/// Norms of heads. Files have those of all heads in one tensor; checkpoints, which have one for
/// each, are refused by this key.
const NORMS_HEADS: &str = "qk_layernorm";

/// Layers whose network has a norm of its own.
const IN_TURN: Condition =
    Condition { key: PARALLEL, holds: |config, _| config.flag(PARALLEL) != Some(true) };

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT_NORM_BIAS,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::ATTENTION_NORM_BIAS,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_BIAS.when(Presence::WhenTrue(BIAS)),
    decoder::KEY_BIAS.when(Presence::WhenTrue(BIAS)),
    decoder::VALUE_BIAS.when(Presence::WhenTrue(BIAS)),
    decoder::QUERY_NORM
        .named("model.layers.{layer}.self_attn.q_layernorm.weight")
        .shaped(&[Heads, HeadSize])
        .when(Presence::WhenTrue(NORMS_HEADS)),
    decoder::KEY_NORM
        .named("model.layers.{layer}.self_attn.k_layernorm.weight")
        .shaped(&[Quotient(&KeyValues, &HeadSize), HeadSize])
        .when(Presence::WhenTrue(NORMS_HEADS)),
    decoder::FEED_FORWARD_NORM.only(IN_TURN),
    decoder::FEED_FORWARD_NORM_BIAS.only(IN_TURN),
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "stablelm",
    numbers: &[
        ("vocab_size", 50_304),
        ("hidden_size", 2_560),
        ("intermediate_size", 6_912),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 32),
        ("max_position_embeddings", 4_096),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for StableLm {
    fn class_names(&self) -> &'static [&'static str] {
        &["StableLmForCausalLM", "StableLMEpochForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "stablelm"
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
                ConfigKey::flag(BIAS, Default::Flag(false)),
                ConfigKey::flag(PARALLEL, Default::Flag(false)),
                ConfigKey::flag(NORMS_HEADS, Default::Flag(false)),
                ConfigKey::any(partial::KEY),
                ConfigKey::any(OLD_PART),
                ConfigKey::any(OLD_EPSILON),
                ConfigKey::word("norm_type", &["LayerNorm"], Default::Absent),
            ]
        }
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        partial::fill_from(config, OLD_PART, 0.25);
        let stated = config.get(OLD_EPSILON).filter(|value| !value.is_null());
        let epsilon = stated.cloned().unwrap_or_else(|| json!(1e-5));
        config.entry("layer_norm_eps").or_insert(epsilon);
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        if config.flag(NORMS_HEADS) == Some(true) {
            let problem = "is true, and norms that each head has as a tensor are not supported";
            return Some(Contradiction { key: NORMS_HEADS, problem: problem.to_owned() });
        }
        gemma::unsaid_rope(config)
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Layers,
                MetadataKey::Intermediate,
                partial::TURNED,
                MetadataKey::Heads,
                MetadataKey::KeyValueHeads,
                MetadataKey::setting(PARALLEL, PARALLEL),
                MetadataKey::LayerNormEpsilon,
                MetadataKey::FileType,
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        partial::restore(keys, config);
    }
}
