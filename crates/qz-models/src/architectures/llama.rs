//! Llama 1 to 3 (`LlamaModel` in `conversion/llama.py`).

use qz_tensor::{Metadata, Value};
use qz_tokenize::VocabularyRules;

use super::decoder::{self, rules};
use crate::architecture::{Architecture, ComputedTensor, Model};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rope::FACTORS_NAME;
use crate::rules::{Role, TensorRule};
use crate::settings::MetadataKey;

/// Llama 1 to 3.
pub(super) struct Llama;

/// Attention, whose halves are paired, and the norms in front of it and of the network.
pub(super) const ATTENTION: [TensorRule; 10] = [
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
];
/// Tensors of Llama and of Mistral, which stores the same ones.
pub(super) static RULES: &[TensorRule] = rules![
    &decoder::AROUND,
    &ATTENTION,
    &[
        decoder::GATE,
        decoder::UP,
        decoder::DOWN,
        decoder::GATE_BIAS.when(decoder::MLP_BIAS),
        decoder::UP_BIAS.when(decoder::MLP_BIAS),
        decoder::DOWN_BIAS.when(decoder::MLP_BIAS),
    ],
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "llama",
    numbers: &[
        ("vocab_size", 32_000),
        ("hidden_size", 4096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2048),
    ],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// True if a GGUF file called Llama has a router for experts.
pub(super) fn has_experts(metadata: &Metadata) -> bool {
    metadata.unsigned("llama.expert_count").is_some_and(|experts| experts > 0)
}

/// True if a GGUF file called Llama has layers that look back a few tokens only.
pub(super) fn has_window(metadata: &Metadata) -> bool {
    metadata.get("llama.attention.sliding_window").is_some()
}

/// The size of a vocabulary and how many elements of a head turn, where a family writes what
/// Llama's class of the reference does.
pub(super) const VOCABULARY_SIZE: MetadataKey =
    MetadataKey::computed("vocab_size", |config| Some((config.vocabulary as u32).into()));
pub(super) const TURNED: MetadataKey =
    MetadataKey::computed("rope.dimension_count", |config| Some((config.head_size as u32).into()));

/// What Llama's class of the reference changes of the vocabulary.
pub(super) fn adjust_vocabulary(model: &Model<'_>, metadata: &mut Metadata) {
    // The reference's rule for small Granite models, which goes by their vocabulary's
    // size and so holds for SmolLM too.
    if model.config.vocabulary == 49_152 {
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    }
}

/// Llama 3's factors, if the configuration has its scaling.
pub(super) fn factors(config: &ModelConfig) -> Vec<ComputedTensor> {
    let factors = config.rope.llama3_factors(config.head_size);
    let tensor = factors.map(|values| ComputedTensor {
        name: FACTORS_NAME,
        role: Role::RopeFrequencies,
        values,
    });
    tensor.into_iter().collect()
}

/// The names of those.
pub(super) const FACTORS: &[&str] = &[FACTORS_NAME];

impl Architecture for Llama {
    fn class_names(&self) -> &'static [&'static str] {
        &["LlamaForCausalLM", "LLaMAForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "llama"
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        !has_experts(metadata) && !has_window(metadata)
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        FACTORS
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        metadata.set("llama.vocab_size", model.config.vocabulary as u32);
        metadata.set("llama.rope.dimension_count", model.config.head_size as u32);
        Ok(())
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Llama
    }

    fn adjust_vocabulary(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        adjust_vocabulary(model, metadata);
        Ok(())
    }
}
