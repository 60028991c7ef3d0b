//! Qwen 1.5 to 2.5 (`Qwen2Model` in `conversion/qwen.py`). Its graph pairs
//! rotary halves as Hugging Face does, so rows keep their order.

use qz_tensor::Metadata;

use super::{decoder, pooling};
use crate::architecture::{Architecture, Model};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::error::Error;
use crate::rules::TensorRule;

/// Qwen 1.5 to 2.5.
pub(super) struct Qwen2;

pub(super) static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_BIAS,
    decoder::KEY_BIAS,
    decoder::VALUE_BIAS,
    decoder::FEED_FORWARD_NORM,
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "qwen2",
    numbers: &[
        ("vocab_size", 151_936),
        ("hidden_size", 4096),
        ("intermediate_size", 22_016),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 32),
        ("max_position_embeddings", 32_768),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::SomeLayers(4096),
};

impl Architecture for Qwen2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Qwen2ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "qwen2"
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
}
