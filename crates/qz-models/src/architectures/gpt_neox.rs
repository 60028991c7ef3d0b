//! GPT-NeoX and Pythia (`GPTNeoXModel` in `conversion/gptneox.py`): attention and network each
//! behind a norm of the layer's input, or one behind the other; queries, keys and values of a
//! head stand together.

use serde_json::{Map, Value, json};

use super::decoder::layer_module;
use super::{decoder, gemma, partial};
use crate::architecture::{Activation, Architecture, Contradiction, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Intermediate, KeyValues, Queries, Sum};
use crate::rules::{Role, Rows, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// GPT-NeoX and Pythia.
pub(super) struct GptNeoX;

const PARALLEL: &str = "use_parallel_residual";
const PART: &str = "rotary_pct";
const REGROUPED: Transform = Transform::rows(Rows::QueriesKeysValues);

const ATTENTION_NORM: [TensorRule; 2] = layer_module!(
    "gpt_neox.layers.{layer}.",
    Role::AttentionNorm,
    "input_layernorm",
    "attn_norm",
    &[Hidden],
    &[Hidden]
);
const QKV: [TensorRule; 2] = layer_module!(
    "gpt_neox.layers.{layer}.",
    Role::AttentionQueryKeyValue,
    "attention.query_key_value",
    "attn_qkv",
    &[Sum(&[Queries, KeyValues, KeyValues]), Hidden],
    &[Sum(&[Queries, KeyValues, KeyValues])]
);
const DENSE: [TensorRule; 2] = layer_module!(
    "gpt_neox.layers.{layer}.",
    Role::AttentionOutput,
    "attention.dense",
    "attn_output",
    &[Hidden, Queries],
    &[Hidden]
);
const FEED_FORWARD_NORM: [TensorRule; 2] = layer_module!(
    "gpt_neox.layers.{layer}.",
    Role::FeedForwardNorm,
    "post_attention_layernorm",
    "ffn_norm",
    &[Hidden],
    &[Hidden]
);
const UP: [TensorRule; 2] = layer_module!(
    "gpt_neox.layers.{layer}.",
    Role::FeedForwardUp,
    "mlp.dense_h_to_4h",
    "ffn_up",
    &[Intermediate, Hidden],
    &[Intermediate]
);
const DOWN: [TensorRule; 2] = layer_module!(
    "gpt_neox.layers.{layer}.",
    Role::FeedForwardDown,
    "mlp.dense_4h_to_h",
    "ffn_down",
    &[Hidden, Intermediate],
    &[Hidden]
);

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING.named("gpt_neox.embed_in.weight"),
    decoder::OUTPUT_NORM.named("gpt_neox.final_layer_norm.weight"),
    decoder::OUTPUT_NORM_BIAS.named("gpt_neox.final_layer_norm.bias"),
    decoder::OUTPUT.named("embed_out.weight"),
    ATTENTION_NORM[0],
    ATTENTION_NORM[1],
    QKV[0].transformed(REGROUPED),
    QKV[1].transformed(REGROUPED).when(decoder::ATTENTION_BIAS),
    DENSE[0],
    DENSE[1].when(decoder::ATTENTION_OUTPUT_BIAS_ALLOWED),
    FEED_FORWARD_NORM[0],
    FEED_FORWARD_NORM[1],
    UP[0],
    UP[1],
    DOWN[0],
    DOWN[1],
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "gpt_neox",
    numbers: &[
        ("vocab_size", 50_432),
        ("hidden_size", 6_144),
        ("intermediate_size", 24_576),
        ("num_hidden_layers", 44),
        ("num_attention_heads", 64),
        ("max_position_embeddings", 2_048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for GptNeoX {
    fn class_names(&self) -> &'static [&'static str] {
        &["GPTNeoXForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "gptneox"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        Activation { key: "hidden_act", words: &["gelu"] }
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[Spelling { own: "rotary_emb_base", common: "rope_theta" }]
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::flag(PARALLEL, Default::Flag(true)),
                ConfigKey::any(PART),
                ConfigKey::any(partial::KEY),
            ]
        }
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        partial::fill_from(config, PART, 0.25);
        config.entry("layer_norm_eps").or_insert(json!(1e-5));
        config.entry("attention_bias").or_insert(json!(true));
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        gemma::unsaid_rope(config)
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Layers,
                MetadataKey::Intermediate,
                partial::TURNED,
                MetadataKey::Heads,
                MetadataKey::setting(PARALLEL, PARALLEL),
                MetadataKey::LayerNormEpsilon,
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        partial::restore(keys, config);
        let part = config.get(partial::KEY).cloned().unwrap_or(json!(1.0));
        config.insert(PART.to_owned(), part);
        config.shift_remove("num_key_value_heads");
    }
}
