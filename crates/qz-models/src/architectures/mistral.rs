//! Mistral. GGUF knows it as Llama; the sliding window is not written, as in the
//! reference (`LlamaModel` in `conversion/llama.py`). So the way back gives a Llama,
//! which computes the same, unless a file states a window.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;

use super::llama::{self, Llama};
use crate::architecture::{Architecture, ComputedTensor, Model};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;

/// Mistral.
pub(super) struct Mistral;

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "mistral",
    numbers: &[
        ("vocab_size", 32_000),
        ("hidden_size", 4096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 131_072),
    ],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Fixed(4096),
};

impl Architecture for Mistral {
    fn class_names(&self) -> &'static [&'static str] {
        &["MistralForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        Llama.gguf_name()
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        !llama::has_experts(metadata) && llama::has_window(metadata)
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        llama::RULES
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        Llama.computed_tensors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        Llama.computed_names()
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        Llama.write_own_metadata(model, metadata)
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        Llama.vocabulary_rules()
    }

    fn adjust_vocabulary(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        Llama.adjust_vocabulary(model, metadata)
    }
}
