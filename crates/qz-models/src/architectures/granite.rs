//! Granite without experts (`GraniteModel` in `conversion/granite.py`): Llama with factors on embeddings,
//! scores, sums and logits.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value};

use super::llama;
use crate::architecture::{Architecture, ComputedTensor, Contradiction, Model};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, MetadataKey};

/// Granite.
pub(super) struct Granite;

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "granite",
    numbers: &[
        ("vocab_size", 32_000),
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2_048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// Factors, with the keys that files have for them. One of zero is none.
const SCORES: [&str; 2] = ["attention.scale", "attention_multiplier"];
const EMBEDDINGS: [&str; 2] = ["embedding_scale", "embedding_multiplier"];
const SUMS: [&str; 2] = ["residual_scale", "residual_multiplier"];
const LOGITS: [&str; 2] = ["logit_scale", "logits_scaling"];

impl Architecture for Granite {
    fn class_names(&self) -> &'static [&'static str] {
        &["GraniteForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "granite"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        llama::RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::number(SCORES[1], Default::Number(1.0)),
                ConfigKey::number(EMBEDDINGS[1], Default::Number(1.0)),
                ConfigKey::number(SUMS[1], Default::Number(1.0)),
                ConfigKey::number(LOGITS[1], Default::Number(1.0)),
            ]
        }
    }

    /// Files have no room for another size of heads.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        let size = |key: &str| config.get(key).and_then(Value::as_u64);
        let product = size("head_dim").zip(size("num_attention_heads")).map(|(a, b)| a * b);
        if product.is_some() && product == size("hidden_size") {
            config.shift_remove("head_dim");
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        if config.head_size_stated {
            let problem = format!(
                "is {}, but heads of this architecture have as many elements as hidden_size says",
                config.head_size
            );
            return Some(Contradiction { key: "head_dim", problem });
        }
        let factors = [SCORES, EMBEDDINGS, SUMS, LOGITS].map(|[_, key]| key);
        let key = factors.into_iter().find(|key| config.number(key) == Some(0.0))?;
        Some(Contradiction { key, problem: "is 0, and a factor of 0 means none".to_owned() })
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                llama::VOCABULARY_SIZE,
                llama::TURNED,
                MetadataKey::setting(SCORES[0], SCORES[1]),
                MetadataKey::setting(EMBEDDINGS[0], EMBEDDINGS[1]),
                MetadataKey::setting(SUMS[0], SUMS[1]),
                MetadataKey::setting(LOGITS[0], LOGITS[1]),
            ]
        }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Llama
    }

    fn adjust_vocabulary(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        llama::adjust_vocabulary(model, metadata);
        Ok(())
    }
}
