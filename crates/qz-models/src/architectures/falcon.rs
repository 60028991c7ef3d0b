//! Falcon (`FalconModel` in `conversion/falcon.py`): attention beside the network, each behind a
//! norm of its own in larger models; a key and a value stand behind the queries that they
//! serve.

use serde_json::{Map, Value, json};

use super::decoder;
use super::decoder::layer_module;
use super::gemma;
use crate::architecture::{Activation, Architecture, Contradiction, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Intermediate, KeyValues, Queries, Sum};
use crate::rules::{Condition, Presence, Role, Rows, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Falcon.
pub(super) struct Falcon;

/// True where attention and network have norms of their own: not a key of any file.
const TWO_NORMS: &str = "two_norms";
const NEW: &str = "new_decoder_architecture";
const NORMS: &str = "num_ln_in_parallel_attn";
const ONE_KEY: &str = "multi_query";
const PARALLEL: &str = "parallel_attn";

/// Keys of the first configurations.
const OLD_NAMES: &[(&str, &str)] = &[
    ("n_head", "num_attention_heads"),
    ("n_head_kv", "num_key_value_heads"),
    ("n_layer", "num_hidden_layers"),
];

const APART: Condition =
    Condition { key: NORMS, holds: |config, _| config.flag(TWO_NORMS) == Some(true) };
const TOGETHER: Condition =
    Condition { key: NORMS, holds: |config, _| config.flag(TWO_NORMS) != Some(true) };
const REGROUPED: Transform = Transform::rows(Rows::QueriesKeysValues);

const NORM: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::AttentionNorm,
    "input_layernorm",
    "attn_norm",
    &[Hidden],
    &[Hidden]
);
const NETWORK_NORM: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::AttentionNorm,
    "ln_mlp",
    "attn_norm",
    &[Hidden],
    &[Hidden]
);
const ATTENTION_NORM: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::AttentionOwnNorm,
    "ln_attn",
    "attn_norm_2",
    &[Hidden],
    &[Hidden]
);
const QKV: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::AttentionQueryKeyValue,
    "self_attention.query_key_value",
    "attn_qkv",
    &[Sum(&[Queries, KeyValues, KeyValues]), Hidden],
    &[Sum(&[Queries, KeyValues, KeyValues])]
);
const DENSE: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::AttentionOutput,
    "self_attention.dense",
    "attn_output",
    &[Hidden, Queries],
    &[Hidden]
);
const UP: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::FeedForwardUp,
    "mlp.dense_h_to_4h",
    "ffn_up",
    &[Intermediate, Hidden],
    &[Intermediate]
);
const DOWN: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::FeedForwardDown,
    "mlp.dense_4h_to_h",
    "ffn_down",
    &[Hidden, Intermediate],
    &[Hidden]
);

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING.named("transformer.word_embeddings.weight"),
    decoder::OUTPUT_NORM.named("transformer.ln_f.weight"),
    decoder::OUTPUT_NORM_BIAS.named("transformer.ln_f.bias"),
    decoder::OUTPUT,
    NORM[0].only(TOGETHER),
    NORM[1].only(TOGETHER),
    NETWORK_NORM[0].only(APART),
    NETWORK_NORM[1].only(APART),
    ATTENTION_NORM[0].when(Presence::WhenTrue(TWO_NORMS)),
    ATTENTION_NORM[1].when(Presence::WhenTrue(TWO_NORMS)),
    QKV[0].transformed(REGROUPED),
    DENSE[0],
    UP[0],
    DOWN[0],
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "falcon",
    numbers: &[
        ("vocab_size", 65_024),
        ("hidden_size", 4_544),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 71),
        ("max_position_embeddings", 2_048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for Falcon {
    fn class_names(&self) -> &'static [&'static str] {
        &["FalconForCausalLM", "RWForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "falcon"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        Activation { key: "activation", words: &["gelu"] }
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "num_kv_heads", common: "num_key_value_heads" },
            Spelling { own: "ffn_hidden_size", common: "intermediate_size" },
            Spelling { own: "layer_norm_epsilon", common: "layer_norm_eps" },
        ]
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::word("activation", &["gelu"], Default::Absent),
                ConfigKey::flag(NEW, Default::Flag(false)),
                ConfigKey::flag(ONE_KEY, Default::Flag(true)),
                ConfigKey::flag(PARALLEL, Default::Flag(true)),
                ConfigKey::flag(TWO_NORMS, Default::Flag(false)),
                ConfigKey::any(NORMS),
            ]
        }
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        for (old, common) in OLD_NAMES {
            if let Some(value) = config.shift_remove(*old) {
                config.entry(*common).or_insert(value);
            }
        }
        // The larger ones of the first configurations, which have a name of their own.
        if config.get("model_type").is_some_and(|name| name == "RefinedWeb") {
            config.entry(NEW).or_insert(json!(true));
        }
        let size = |key: &str| config.get(key).and_then(Value::as_u64);
        let flag = |key: &str, default| config.get(key).and_then(Value::as_bool).unwrap_or(default);
        let (is_new, has_one_key) = (flag(NEW, false), flag(ONE_KEY, true));
        let heads = size("num_attention_heads").unwrap_or(71);
        let stated = size("num_key_value_heads");
        let keys = match (is_new, has_one_key) {
            (true, _) => stated.unwrap_or(heads),
            (false, true) => 1,
            (false, false) => heads,
        };
        let has_two = is_new && size(NORMS) != Some(1);
        let wide = size("hidden_size").unwrap_or(4544).saturating_mul(4);
        config.insert("num_key_value_heads".to_owned(), json!(keys));
        config.insert(TWO_NORMS.to_owned(), json!(has_two));
        config.entry("intermediate_size").or_insert(json!(wide));
        config.entry("layer_norm_eps").or_insert(json!(1e-5));
        config.entry("tie_word_embeddings").or_insert(json!(true));
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        if config.flag(PARALLEL) == Some(false) {
            let problem = "is false, but graphs of this architecture compute attention beside \
                           the network"
                .to_owned();
            return Some(Contradiction { key: PARALLEL, problem });
        }
        gemma::unsaid_rope(config)
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                // The reference says so of every model.
                MetadataKey::computed("context_length", |_| Some(2048u32.into())),
                MetadataKey::computed("tensor_data_layout", |_| Some("jploski".into())),
                MetadataKey::Hidden,
                MetadataKey::Intermediate,
                MetadataKey::Layers,
                MetadataKey::Heads,
                MetadataKey::KeyValueHeads,
                MetadataKey::LayerNormEpsilon,
                MetadataKey::FileType,
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let has_two = config.shift_remove(TWO_NORMS) == Some(json!(true));
        let heads = keys.size("attention.head_count").unwrap_or(1);
        let grouped = keys.size("attention.head_count_kv").unwrap_or(heads);
        let is_new = has_two || (grouped > 1 && grouped < heads);
        config.insert(NEW.to_owned(), json!(is_new));
        config.insert(ONE_KEY.to_owned(), json!(is_new || grouped == 1));
        config.insert(PARALLEL.to_owned(), json!(true));
        config.insert("alibi".to_owned(), json!(false));
        config.insert("bias".to_owned(), json!(false));
        if is_new {
            config.insert(NORMS.to_owned(), json!(if has_two { 2 } else { 1 }));
        }
    }
}
