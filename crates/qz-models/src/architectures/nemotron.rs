//! Nemotron 3 and 4 (`NemotronModel` in `conversion/nemotron.py`): norms that take the mean away
//! and multiply by one more than their weight, a network without a gate, heads that turn in
//! part.

use qz_tensor::Value as Entry;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::{decoder, gemma, llama, partial};
use crate::architecture::{Activation, Architecture, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::rope::RopeScaling;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, GgufKeys, MetadataKey};

/// Nemotron 3 and 4.
pub(super) struct Nemotron;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    gemma::shifted(decoder::OUTPUT_NORM),
    decoder::OUTPUT_NORM_BIAS,
    decoder::OUTPUT,
    gemma::shifted(decoder::ATTENTION_NORM),
    decoder::ATTENTION_NORM_BIAS,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::KEY_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::VALUE_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::ATTENTION_OUTPUT_BIAS.when(decoder::ATTENTION_OUTPUT_BIAS_ALLOWED),
    gemma::shifted(decoder::FEED_FORWARD_NORM),
    decoder::FEED_FORWARD_NORM_BIAS,
    decoder::UP,
    decoder::DOWN,
    decoder::UP_BIAS.when(decoder::MLP_BIAS),
    decoder::DOWN_BIAS.when(decoder::MLP_BIAS),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "nemotron",
    numbers: &[
        ("vocab_size", 256_000),
        ("hidden_size", 6_144),
        ("intermediate_size", 24_576),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 48),
        ("max_position_embeddings", 4_096),
    ],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// What older files call the part of a head that turns.
const PART: &str = "rope_percent";

impl Architecture for Nemotron {
    fn class_names(&self) -> &'static [&'static str] {
        &["NemotronForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "nemotron"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        Activation::RELU_SQUARED
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[Spelling { own: "norm_eps", common: "layer_norm_eps" }]
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::any(partial::KEY), ConfigKey::any(PART), ConfigKey::any("kv_channels")] }
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        partial::fill_from(config, PART, 0.5);
        config.entry("layer_norm_eps").or_insert(json!(1e-5));
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::Layers,
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Intermediate,
                MetadataKey::Heads,
                MetadataKey::KeyValueHeads,
                MetadataKey::NotCausal,
                MetadataKey::RopeScaling,
                MetadataKey::RopeBases,
                MetadataKey::computed("attention.layer_norm_rms_epsilon", |config| {
                    Some((config.layer_norm_epsilon? as f32).into())
                }),
                MetadataKey::HeadSize,
                MetadataKey::FileType,
                llama::VOCABULARY_SIZE,
                MetadataKey::LayerNormEpsilon,
                partial::TURNED,
                MetadataKey::computed("rope.scaling.type", |config| {
                    let is_linear = matches!(config.rope.scaling, RopeScaling::Linear { .. });
                    Some(Entry::from(if is_linear { "linear" } else { "none" }))
                }),
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        partial::restore(keys, config);
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Nemotron
    }
}
