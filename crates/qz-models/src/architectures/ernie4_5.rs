//! ERNIE 4.5 without experts (`Ernie4_5Model` in `conversion/ernie.py`). Its checkpoints pair neighbours, as
//! its graph does.

use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder;
use crate::architecture::{Architecture, Rename};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default};

/// ERNIE 4.5.
pub(super) struct Ernie;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::FEED_FORWARD_NORM,
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "ernie4_5",
    numbers: &[
        ("vocab_size", 103_424),
        ("hidden_size", 1_024),
        ("intermediate_size", 3_072),
        ("num_hidden_layers", 18),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 2),
        ("max_position_embeddings", 131_072),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: Some(1e-5),
    rope_theta: 500_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for Ernie {
    fn class_names(&self) -> &'static [&'static str] {
        &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "ernie4_5"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::flag("use_bias", Default::Flag(false))] }
    }

    /// Embeddings are the output matrix unless the configuration denies it.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        config.entry("tie_word_embeddings").or_insert(json!(true));
    }

    fn renames(&self) -> &'static [Rename] {
        &[Rename::Prefix("ernie.", "model.")]
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Ernie
    }
}
