//! EXAONE 3 and 3.5 (`ExaoneModel` in `conversion/exaone.py`): Llama under other names, with
//! pairs of another kind.

use qz_tensor::Value as Entry;
use serde_json::{Map, Value};

use super::{decoder, llama};
use crate::architecture::{Activation, Architecture, ComputedTensor, Spelling};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, GgufKeys, MetadataKey};

/// EXAONE 3 and 3.5.
pub(super) struct Exaone;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING.named("transformer.wte.weight"),
    decoder::OUTPUT_NORM.named("transformer.ln_f.weight"),
    decoder::OUTPUT,
    decoder::ATTENTION_NORM.named("transformer.h.{layer}.ln_1.weight"),
    decoder::QUERY.named("transformer.h.{layer}.attn.attention.q_proj.weight"),
    decoder::KEY.named("transformer.h.{layer}.attn.attention.k_proj.weight"),
    decoder::VALUE.named("transformer.h.{layer}.attn.attention.v_proj.weight"),
    decoder::ATTENTION_OUTPUT.named("transformer.h.{layer}.attn.attention.out_proj.weight"),
    decoder::FEED_FORWARD_NORM.named("transformer.h.{layer}.ln_2.weight"),
    decoder::GATE.named("transformer.h.{layer}.mlp.c_fc_0.weight"),
    decoder::UP.named("transformer.h.{layer}.mlp.c_fc_1.weight"),
    decoder::DOWN.named("transformer.h.{layer}.mlp.c_proj.weight"),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "exaone",
    numbers: &[
        ("vocab_size", 102_400),
        ("hidden_size", 4096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 4096),
    ],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: Some(1e-5),
    rope_theta: 500_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for Exaone {
    fn class_names(&self) -> &'static [&'static str] {
        &["ExaoneForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "exaone"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        Activation { key: "activation_function", ..Activation::SILU }
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "num_layers", common: "num_hidden_layers" },
            Spelling { own: "layer_norm_epsilon", common: "rms_norm_eps" },
        ]
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::any("embed_dropout")] }
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[MetadataKey::computed("rope.dimension_count", implied_head_size)] }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert("attention_bias".to_owned(), false.into());
        config.insert("mlp_bias".to_owned(), false.into());
    }
}

/// The reference goes by the width of hidden states, whatever heads' size is stated.
fn implied_head_size(config: &ModelConfig) -> Option<Entry> {
    Some(((config.hidden / config.heads.max(1)) as u32).into())
}
