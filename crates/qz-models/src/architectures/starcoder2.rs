//! StarCoder 2 (`StarCoder2Model` in `conversion/starcoder.py`): norms that take the mean away, a
//! network without a gate, biases.

use serde_json::{Map, Value, json};

use super::decoder;
use super::decoder::layer_module;
use crate::architecture::{Activation, Architecture, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::rules::Dimension::{Hidden, Intermediate};
use crate::rules::{Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys};

/// StarCoder 2.
pub(super) struct StarCoder2;

const BIAS: &str = "use_bias";
const BIASED: Presence = Presence::WhenTrue(BIAS);

const UP: [TensorRule; 2] = layer_module!(
    "model.layers.{layer}.",
    Role::FeedForwardUp,
    "mlp.c_fc",
    "ffn_up",
    &[Intermediate, Hidden],
    &[Intermediate]
);
const DOWN: [TensorRule; 2] = layer_module!(
    "model.layers.{layer}.",
    Role::FeedForwardDown,
    "mlp.c_proj",
    "ffn_down",
    &[Hidden, Intermediate],
    &[Hidden]
);

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT_NORM_BIAS,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::ATTENTION_NORM_BIAS,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_BIAS.when(BIASED),
    decoder::KEY_BIAS.when(BIASED),
    decoder::VALUE_BIAS.when(BIASED),
    decoder::ATTENTION_OUTPUT_BIAS.when(BIASED),
    decoder::FEED_FORWARD_NORM,
    decoder::FEED_FORWARD_NORM_BIAS,
    UP[0],
    UP[1].when(BIASED),
    DOWN[0],
    DOWN[1].when(BIASED),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "starcoder2",
    numbers: &[
        ("vocab_size", 49_152),
        ("hidden_size", 3_072),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 30),
        ("num_attention_heads", 24),
        ("num_key_value_heads", 2),
        ("max_position_embeddings", 4_096),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::None,
};

impl Architecture for StarCoder2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Starcoder2ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "starcoder2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        Activation { key: "hidden_act", words: &["gelu_pytorch_tanh"] }
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[Spelling { own: "norm_epsilon", common: "layer_norm_eps" }]
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::flag(BIAS, Default::Flag(true)),
                // Of the first StarCoder, whose configuration the published one was made from.
                ConfigKey::any("activation_function"),
                ConfigKey::any("attention_softmax_in_fp32"),
                ConfigKey::any("scale_attention_softmax_in_fp32"),
                ConfigKey::word("norm_type", &["layer_norm"], Default::Absent),
                ConfigKey::word("mlp_type", &["default"], Default::Absent),
                ConfigKey::any("residual_dropout"),
                ConfigKey::any("embedding_dropout"),
            ]
        }
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        config.entry("layer_norm_eps").or_insert(json!(1e-5));
        config.entry("tie_word_embeddings").or_insert(json!(true));
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert("sliding_window".to_owned(), Value::Null);
    }
}
