//! Qwen 3, dense (`Qwen3Model` in `conversion/qwen.py`): norms on queries and
//! keys, no biases unless the configuration says so.

use qz_tensor::{Metadata, Warning};

use super::{decoder, pooling, reranker};
use crate::architecture::{Architecture, Model};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::error::Error;
use crate::rules::TensorRule;

/// Qwen 3, dense.
pub(super) struct Qwen3;

pub(super) static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_NORM,
    decoder::KEY_NORM,
    decoder::QUERY_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::KEY_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::VALUE_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::ATTENTION_OUTPUT_BIAS.when(decoder::ATTENTION_OUTPUT_BIAS_ALLOWED),
    decoder::FEED_FORWARD_NORM,
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "qwen3",
    numbers: &[
        ("vocab_size", 151_936),
        ("hidden_size", 4096),
        ("intermediate_size", 22_016),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 32),
        ("max_position_embeddings", 32_768),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::SomeLayers(4096),
};

impl Architecture for Qwen3 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Qwen3ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "qwen3"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        pooling::write_pooling_type(self.gguf_name(), model, metadata)
    }

    fn warnings(&self, model: &Model<'_>) -> Result<Vec<Warning>, Error> {
        reranker::warnings(model)
    }
}
