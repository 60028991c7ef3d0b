//! Gemma 3 (`Gemma3Model` in `conversion/gemma.py`): Gemma 2 with norms on queries and
//! keys, without caps, and with a rotary embedding of its own in layers that have a window.
//! Of models that see, the part that reads and writes text.

use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::{decoder, gemma, gemma2};
use crate::architecture::{Activation, Architecture, Contradiction, Rename};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::rules::{Presence, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Gemma 3.
pub(super) struct Gemma3;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    gemma::shifted(decoder::OUTPUT_NORM),
    decoder::OUTPUT.when(Presence::WhenFalse("tie_word_embeddings")),
    gemma::shifted(decoder::ATTENTION_NORM),
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    gemma::shifted(decoder::QUERY_NORM),
    gemma::shifted(decoder::KEY_NORM),
    gemma::shifted(decoder::POST_ATTENTION_NORM),
    gemma::shifted(decoder::PRE_FEED_FORWARD_NORM),
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
    gemma::shifted(decoder::POST_FEED_FORWARD_NORM),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "gemma3_text",
    numbers: NUMBERS,
    head_size: DefaultHeadSize::Fixed(256),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: 1e6,
    sliding_rope_theta: Some(DEFAULT_ROPE_THETA),
    window: DefaultWindow::Never,
};

pub(super) const NUMBERS: &[(&str, u64)] = &[
    ("vocab_size", 262_208),
    ("hidden_size", 2304),
    ("intermediate_size", 9216),
    ("num_hidden_layers", 26),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("max_position_embeddings", 131_072),
];

/// The layers by which llama.cpp knows the model with 27 billion weights.
const LAYERS_OF_27B: u32 = 62;

/// How tensors' names begin in larger models: those of the part that reads and writes text,
/// and of others.
pub(super) const TEXT_PART: &[Rename] = &[
    Rename::Prefix("language_model.model.", "model."),
    Rename::Prefix("language_model.lm_head.", "lm_head."),
    Rename::Prefix("model.language_model.", "model."),
];
pub(super) const TOWERS: &[&str] = &[
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
];

/// Of so many layers the last sees all positions.
pub(super) const PATTERN: u32 = 6;

impl Architecture for Gemma3 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"]
    }

    fn gguf_name(&self) -> &'static str {
        "gemma3"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        &["gemma3"]
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        gemma::GELU
    }

    fn window_pattern(&self) -> Option<u32> {
        Some(PATTERN)
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::count_or("sliding_window", Default::Size(4096)),
                ConfigKey::number("final_logit_softcapping", Default::Absent),
                ConfigKey::number("query_pre_attn_scalar", Default::Number(256.0)),
                ConfigKey::exactly("sliding_window_pattern", PATTERN as f64),
                ConfigKey::exactly("_sliding_window_pattern", PATTERN as f64),
                ConfigKey::any("rope_local_base_freq"),
                ConfigKey::any("cache_implementation"),
                ConfigKey::any("vision_config"),
                ConfigKey::any("mm_tokens_per_image"),
                ConfigKey::any("boi_token_index"),
                ConfigKey::any("eoi_token_index"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        gemma2::other_scalar(config, LAYERS_OF_27B)
    }

    fn renames(&self) -> &'static [Rename] {
        TEXT_PART
    }

    fn towers(&self) -> &'static [&'static str] {
        TOWERS
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::setting("final_logit_softcapping", "final_logit_softcapping"),
                MetadataKey::setting("attention.sliding_window", "sliding_window"),
            ]
        }
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        gemma2::restore_scalar(config, LAYERS_OF_27B);
        for key in ["sliding_window_pattern", "_sliding_window_pattern"] {
            config.insert(key.to_owned(), json!(PATTERN));
        }
        config.insert("attention_bias".to_owned(), json!(false));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Gemma
    }
}
