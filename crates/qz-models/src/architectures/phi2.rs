//! Phi 1 and 2 (`Phi2Model` in `conversion/phi.py`): attention beside the network, behind one norm
//! that takes the mean away; biases everywhere, heads that turn in part.

use qz_tensor::Metadata;
use serde_json::{Map, Value, json};

use super::decoder::layer_module;
use super::{decoder, gemma, partial};
use crate::architecture::{Activation, Architecture, Contradiction, Model};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Intermediate, Queries, Vocabulary};
use crate::rules::{Presence, Role, TensorRule};
use crate::settings::{ConfigKey, GgufKeys, MetadataKey};

/// Phi 1 and 2.
pub(super) struct Phi2;

const DENSE: [TensorRule; 2] = layer_module!(
    "model.layers.{layer}.",
    Role::AttentionOutput,
    "self_attn.dense",
    "attn_output",
    &[Hidden, Queries],
    &[Hidden]
);
const UP: [TensorRule; 2] = layer_module!(
    "model.layers.{layer}.",
    Role::FeedForwardUp,
    "mlp.fc1",
    "ffn_up",
    &[Intermediate, Hidden],
    &[Intermediate]
);
const DOWN: [TensorRule; 2] = layer_module!(
    "model.layers.{layer}.",
    Role::FeedForwardDown,
    "mlp.fc2",
    "ffn_down",
    &[Hidden, Intermediate],
    &[Hidden]
);

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM.named("model.final_layernorm.weight"),
    decoder::OUTPUT_NORM_BIAS.named("model.final_layernorm.bias"),
    decoder::OUTPUT,
    TensorRule::bias(Role::Output, "lm_head.bias", "output.bias", &[Vocabulary])
        .when(Presence::WhenFalse("tie_word_embeddings")),
    decoder::ATTENTION_NORM,
    decoder::ATTENTION_NORM_BIAS,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::QUERY_BIAS,
    decoder::KEY_BIAS,
    decoder::VALUE_BIAS,
    DENSE[0],
    DENSE[1],
    UP[0],
    UP[1],
    DOWN[0],
    DOWN[1],
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "phi",
    numbers: &[
        ("vocab_size", 51_200),
        ("hidden_size", 2_048),
        ("intermediate_size", 8_192),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2_048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for Phi2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["PhiForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "phi2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        Activation { key: "hidden_act", words: &["gelu_new", "gelu_pytorch_tanh"] }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::any(partial::KEY)] }
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        partial::fill(config, 0.5);
        config.entry("layer_norm_eps").or_insert(json!(1e-5));
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        gemma::unsaid_rope(config)
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Intermediate,
                MetadataKey::Layers,
                MetadataKey::Heads,
                MetadataKey::KeyValueHeads,
                MetadataKey::LayerNormEpsilon,
                partial::TURNED,
                MetadataKey::FileType,
            ]
        }
    }

    fn write_own_metadata(&self, _model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        // The vocabulary may say otherwise.
        metadata.set("tokenizer.ggml.add_bos_token", false);
        Ok(())
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        partial::restore(keys, config);
    }
}
