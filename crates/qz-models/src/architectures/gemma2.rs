//! Gemma 2 (`Gemma2Model` in `conversion/gemma.py`): norms before and behind attention
//! and feed-forward network, capped scores and logits, a window in every second layer.

use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::{decoder, gemma};
use crate::architecture::{Activation, Architecture, Contradiction};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Gemma 2.
pub(super) struct Gemma2;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    gemma::shifted(decoder::OUTPUT_NORM),
    gemma::TIED_OUTPUT,
    gemma::shifted(decoder::ATTENTION_NORM),
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    gemma::shifted(decoder::POST_ATTENTION_NORM),
    gemma::shifted(decoder::PRE_FEED_FORWARD_NORM),
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
    gemma::shifted(decoder::POST_FEED_FORWARD_NORM),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "gemma2",
    numbers: &[
        ("vocab_size", 256_000),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 8192),
    ],
    head_size: DefaultHeadSize::Fixed(256),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

const SCALAR: &str = "query_pre_attn_scalar";

/// The layers by which llama.cpp knows the model with 27 billion weights.
const LAYERS_OF_27B: u32 = 46;

/// What scores are divided by the root of, as llama.cpp has it.
pub(super) fn score_scalar(layers: u64, of_27b: u32, width: u64, heads: u64, head: u64) -> u64 {
    if layers == u64::from(of_27b) { width / heads.max(1) } else { head }
}

/// A divisor of scores that llama.cpp does not divide by.
pub(super) fn other_scalar(config: &ModelConfig, of_27b: u32) -> Option<Contradiction> {
    let layers = u64::from(config.layers);
    let expected = score_scalar(layers, of_27b, config.hidden, config.heads, config.head_size);
    let stated = config.number(SCALAR)?;
    (stated != expected as f64).then(|| Contradiction {
        key: SCALAR,
        problem: format!(
            "is {stated}, but graphs of this architecture with {layers} layers compute with \
             {expected}, and files cannot say it"
        ),
    })
}

/// The same for the way back.
pub(super) fn restore_scalar(config: &mut Map<String, Value>, of_27b: u32) {
    let size = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or_default();
    let scalar = score_scalar(
        size("num_hidden_layers"),
        of_27b,
        size("hidden_size"),
        size("num_attention_heads"),
        size("head_dim"),
    );
    config.insert(SCALAR.to_owned(), json!(scalar));
}

impl Architecture for Gemma2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Gemma2ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "gemma2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        gemma::GELU
    }

    fn window_pattern(&self) -> Option<u32> {
        Some(2)
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::count_or("sliding_window", Default::Size(4096)),
                ConfigKey::number("attn_logit_softcapping", Default::Number(50.0)),
                ConfigKey::number("final_logit_softcapping", Default::Number(30.0)),
                ConfigKey::number(SCALAR, Default::Number(256.0)),
                ConfigKey::any("sliding_window_size"),
                ConfigKey::any("cache_implementation"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        other_scalar(config, LAYERS_OF_27B).or_else(|| gemma::unsaid_rope(config))
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        gemma::METADATA
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::setting("attn_logit_softcapping", "attn_logit_softcapping"),
                MetadataKey::setting("final_logit_softcapping", "final_logit_softcapping"),
                MetadataKey::setting("attention.sliding_window", "sliding_window"),
            ]
        }
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        restore_scalar(config, LAYERS_OF_27B);
        config.insert("tie_word_embeddings".to_owned(), json!(true));
        config.insert("attention_bias".to_owned(), json!(false));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Gemma
    }
}
