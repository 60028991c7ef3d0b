//! Arcee (`ArceeModel` in `conversion/llama.py`): Llama with a network that has no gate.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;

use super::{decoder, llama, pooling};
use crate::architecture::{Activation, Architecture, ComputedTensor, Model};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::MetadataKey;

/// Arcee.
pub(super) struct Arcee;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::QUERY.paired(),
    decoder::KEY.paired(),
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_BIAS.paired().when(decoder::ATTENTION_BIAS),
    decoder::KEY_BIAS.paired().when(decoder::ATTENTION_BIAS),
    decoder::VALUE_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::ATTENTION_OUTPUT_BIAS.when(decoder::ATTENTION_OUTPUT_BIAS_ALLOWED),
    decoder::FEED_FORWARD_NORM,
    decoder::UP,
    decoder::DOWN,
    decoder::UP_BIAS.when(decoder::MLP_BIAS),
    decoder::DOWN_BIAS.when(decoder::MLP_BIAS),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "arcee",
    numbers: &[
        ("vocab_size", 32_000),
        ("hidden_size", 2_560),
        ("intermediate_size", 18_432),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 4_096),
    ],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for Arcee {
    fn class_names(&self) -> &'static [&'static str] {
        &["ArceeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "arcee"
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

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[llama::VOCABULARY_SIZE, llama::TURNED] }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        pooling::write_pooling_type(self.gguf_name(), model, metadata)
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Llama
    }

    fn adjust_vocabulary(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        llama::adjust_vocabulary(model, metadata);
        Ok(())
    }
}
