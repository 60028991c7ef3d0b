//! Seed-OSS (`SeedOssModel` in `conversion/olmo.py`): Llama with pairs of halves, and biases.

use super::decoder;
use crate::architecture::Architecture;
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::rules::{Presence, TensorRule};
use crate::settings::{ConfigKey, Default};

/// A bias of attention's output.
const OUTPUT_BIAS: &str = "attention_out_bias";

/// Seed-OSS.
pub(super) struct SeedOss;

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
    decoder::ATTENTION_OUTPUT_BIAS.when(Presence::WhenTrue(OUTPUT_BIAS)),
    decoder::FEED_FORWARD_NORM.gguf("blk.{layer}.post_attention_norm.weight"),
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "seed_oss",
    numbers: &[
        ("vocab_size", 155_136),
        ("hidden_size", 4_096),
        ("intermediate_size", 27_648),
        ("num_hidden_layers", 64),
        ("num_attention_heads", 80),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 524_288),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for SeedOss {
    fn class_names(&self) -> &'static [&'static str] {
        &["SeedOssForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "seed_oss"
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
                ConfigKey::flag(OUTPUT_BIAS, Default::Flag(false)),
                ConfigKey::any("residual_dropout"),
            ]
        }
    }
}
