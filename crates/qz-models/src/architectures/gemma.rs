//! Gemma 1 (`GemmaModel` in `conversion/gemma.py`), and what Gemma 2 and 3 have in common
//! with it: norms that multiply by one more than their weight, GELU, embeddings that are
//! the output matrix, too.

use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder;
use crate::architecture::{Activation, Architecture, Contradiction};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::rope::RopeScaling;
use crate::rules::Dimension::{Hidden, Vocabulary};
use crate::rules::{Condition, TensorRule};
use crate::settings::{ConfigKey, GgufKeys, MetadataKey};
use crate::tensor_map::ValueChange;

/// Gemma 1.
pub(super) struct Gemma;

const TIED: Condition = Condition {
    key: "tie_word_embeddings",
    holds: |config, _| config.switch("tie_word_embeddings") != Some(false),
};

/// The output matrix of a model whose graph takes the embeddings: some programs store it.
pub(super) const TIED_OUTPUT: TensorRule =
    TensorRule::dropped("lm_head.weight", &[Vocabulary, Hidden]).only(TIED);

/// A norm whose weight says by how much more than one it multiplies.
pub(super) const fn shifted(norm: TensorRule) -> TensorRule {
    norm.changed(ValueChange::AddOne)
}

/// What all of them compute between the feed-forward network's products. Gemma 1 called
/// it by another function's name.
pub(super) const GELU: Activation =
    Activation { key: "hidden_activation", words: &["gelu_pytorch_tanh", "gelu"] };

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    shifted(decoder::OUTPUT_NORM),
    TIED_OUTPUT,
    shifted(decoder::ATTENTION_NORM),
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    shifted(decoder::FEED_FORWARD_NORM),
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "gemma",
    numbers: &[
        ("vocab_size", 256_000),
        ("hidden_size", 3072),
        ("intermediate_size", 24_576),
        ("num_hidden_layers", 28),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 16),
        ("max_position_embeddings", 8192),
    ],
    head_size: DefaultHeadSize::Fixed(256),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// What Gemma 1 and 2 write, in their order. Of the rotary embedding they say nothing.
pub(super) const METADATA: &[MetadataKey] = &[
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::Layers,
    MetadataKey::Intermediate,
    MetadataKey::Heads,
    MetadataKey::KeyValueHeads,
    MetadataKey::RmsEpsilon,
    MetadataKey::HeadSize,
    MetadataKey::FileType,
];

/// A rotary embedding that files of Gemma 1 and 2 cannot say.
pub(super) fn unsaid_rope(config: &ModelConfig) -> Option<Contradiction> {
    let theta = config.rope.theta.unwrap_or(DEFAULT_ROPE_THETA);
    if theta != DEFAULT_ROPE_THETA {
        let problem = format!("is {theta}, but files of this architecture mean 10000");
        return Some(Contradiction { key: "rope_theta", problem });
    }
    let is_scaled = config.rope.scaling != RopeScaling::None;
    is_scaled.then(|| Contradiction {
        key: "rope_scaling",
        problem: "files of this architecture cannot say it".to_owned(),
    })
}

impl Architecture for Gemma {
    fn class_names(&self) -> &'static [&'static str] {
        &["GemmaForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "gemma"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        GELU
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::any("use_bidirectional_attention")] }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        unsaid_rope(config)
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert("hidden_act".to_owned(), json!(GELU.words[0]));
        config.insert("tie_word_embeddings".to_owned(), json!(true));
        config.insert("attention_bias".to_owned(), json!(false));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::CodeGemma
    }
}
