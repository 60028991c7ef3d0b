//! GPT-2 and StarCoder (`GPT2Model` in `conversion/gpt2.py`, `StarCoderModel` in
//! `conversion/starcoder.py`): positions have vectors, nothing turns; queries, keys and values
//! of one matrix. GPT-2 stores matrices with inputs as rows; StarCoder has one key and one
//! value for all heads.

use qz_tensor::{Location, Warning};
use serde_json::{Map, Value, json};

use super::decoder;
use super::decoder::layer_module;
use crate::architecture::{Activation, Architecture, Contradiction, Model, Rename, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Intermediate, KeyValues, Queries, Size, Sum};
use crate::rules::{Role, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// GPT-2.
pub(super) struct Gpt2;
/// StarCoder.
pub(super) struct StarCoder;

const POSITIONS: &str = "max_position_embeddings";
/// Inputs are rows.
const INPUTS_FIRST: Transform = Transform::KEEP.transposed();

const ATTENTION_NORM: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::AttentionNorm,
    "ln_1",
    "attn_norm",
    &[Hidden],
    &[Hidden]
);
const QKV: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::AttentionQueryKeyValue,
    "attn.c_attn",
    "attn_qkv",
    &[Sum(&[Queries, KeyValues, KeyValues]), Hidden],
    &[Sum(&[Queries, KeyValues, KeyValues])]
);
const DENSE: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::AttentionOutput,
    "attn.c_proj",
    "attn_output",
    &[Hidden, Queries],
    &[Hidden]
);
const FEED_FORWARD_NORM: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::FeedForwardNorm,
    "ln_2",
    "ffn_norm",
    &[Hidden],
    &[Hidden]
);
const UP: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::FeedForwardUp,
    "mlp.c_fc",
    "ffn_up",
    &[Intermediate, Hidden],
    &[Intermediate]
);
const DOWN: [TensorRule; 2] = layer_module!(
    "transformer.h.{layer}.",
    Role::FeedForwardDown,
    "mlp.c_proj",
    "ffn_down",
    &[Hidden, Intermediate],
    &[Hidden]
);
const POSITION: TensorRule = TensorRule::weight(
    Role::PositionEmbedding,
    "transformer.wpe.weight",
    "position_embd.weight",
    &[Size(POSITIONS), Hidden],
);
const EMBEDDING: TensorRule = decoder::TOKEN_EMBEDDING.named("transformer.wte.weight");
const OUTPUT_NORM: TensorRule = decoder::OUTPUT_NORM.named("transformer.ln_f.weight");
const OUTPUT_NORM_BIAS: TensorRule = decoder::OUTPUT_NORM_BIAS.named("transformer.ln_f.bias");

static RULES: &[TensorRule] = &[
    EMBEDDING,
    POSITION,
    OUTPUT_NORM,
    OUTPUT_NORM_BIAS,
    decoder::OUTPUT,
    ATTENTION_NORM[0],
    ATTENTION_NORM[1],
    QKV[0].shaped(&[Hidden, Sum(&[Queries, KeyValues, KeyValues])]).transformed(INPUTS_FIRST),
    QKV[1],
    DENSE[0].shaped(&[Queries, Hidden]).transformed(INPUTS_FIRST),
    DENSE[1],
    FEED_FORWARD_NORM[0],
    FEED_FORWARD_NORM[1],
    UP[0].shaped(&[Hidden, Intermediate]).transformed(INPUTS_FIRST),
    UP[1],
    DOWN[0].shaped(&[Intermediate, Hidden]).transformed(INPUTS_FIRST),
    DOWN[1],
];
static RULES_OF_STARCODER: &[TensorRule] = &[
    EMBEDDING,
    POSITION,
    OUTPUT_NORM,
    OUTPUT_NORM_BIAS,
    decoder::OUTPUT,
    ATTENTION_NORM[0],
    ATTENTION_NORM[1],
    QKV[0],
    QKV[1],
    DENSE[0],
    DENSE[1],
    FEED_FORWARD_NORM[0],
    FEED_FORWARD_NORM[1],
    UP[0],
    UP[1],
    DOWN[0],
    DOWN[1],
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "gpt2",
    numbers: &[
        ("vocab_size", 50_257),
        ("hidden_size", 768),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 12),
        ("max_position_embeddings", 1_024),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};
static DEFAULTS_OF_STARCODER: ConfigDefaults = ConfigDefaults {
    model_type: "gpt_bigcode",
    numbers: &[
        ("vocab_size", 50_257),
        ("hidden_size", 768),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 12),
        ("max_position_embeddings", 1_024),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

const SPELLINGS: &[Spelling] = &[
    Spelling { own: "n_embd", common: "hidden_size" },
    Spelling { own: "n_head", common: "num_attention_heads" },
    Spelling { own: "n_layer", common: "num_hidden_layers" },
    Spelling { own: "n_positions", common: POSITIONS },
    Spelling { own: "n_inner", common: "intermediate_size" },
    Spelling { own: "layer_norm_epsilon", common: "layer_norm_eps" },
];
const RENAMES: &[Rename] = &[
    Rename::Prefix("h.", "transformer.h."),
    Rename::Prefix("wte.", "transformer.wte."),
    Rename::Prefix("wpe.", "transformer.wpe."),
    Rename::Prefix("ln_f.", "transformer.ln_f."),
];
const ACTIVATION: &str = "activation_function";
const HYPERBOLIC: &[&str] = &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"];
const ONE_KEY: &str = "multi_query";

fn fill(config: &mut Map<String, Value>) {
    let hidden = config.get("hidden_size").and_then(Value::as_u64).unwrap_or(768);
    if config.get("intermediate_size").is_none_or(Value::is_null) {
        config.insert("intermediate_size".to_owned(), json!(hidden.saturating_mul(4)));
    }
    config.entry("layer_norm_eps").or_insert(json!(1e-5));
    config.entry("tie_word_embeddings").or_insert(json!(true));
}

fn restore(config: &mut Map<String, Value>) {
    for key in ["head_dim", "hidden_act"] {
        config.shift_remove(key);
    }
}

impl Architecture for Gpt2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["GPT2LMHeadModel"]
    }

    fn gguf_name(&self) -> &'static str {
        "gpt2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn has_rope(&self) -> bool {
        false
    }

    fn activation(&self) -> Activation {
        Activation { key: ACTIVATION, words: HYPERBOLIC }
    }

    fn spellings(&self) -> &'static [Spelling] {
        SPELLINGS
    }

    fn renames(&self) -> &'static [Rename] {
        RENAMES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(POSITIONS, Default::Size(1024)),
                ConfigKey::any("n_ctx"),
                ConfigKey::any("reorder_and_upcast_attn"),
                ConfigKey::any("summary_activation"),
                ConfigKey::any("summary_first_dropout"),
                ConfigKey::any("summary_proj_to_labels"),
                ConfigKey::any("summary_type"),
                ConfigKey::any("summary_use_proj"),
            ]
        }
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill(config);
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::Layers,
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Intermediate,
                MetadataKey::Heads,
                MetadataKey::LayerNormEpsilon,
                MetadataKey::FileType,
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        restore(config);
        config.shift_remove("num_key_value_heads");
        config.insert("n_ctx".to_owned(), json!(keys.size("context_length")));
    }
}

impl Architecture for StarCoder {
    fn class_names(&self) -> &'static [&'static str] {
        &["GPTBigCodeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "starcoder"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS_OF_STARCODER
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES_OF_STARCODER
    }

    fn has_rope(&self) -> bool {
        false
    }

    fn activation(&self) -> Activation {
        Activation { key: ACTIVATION, words: &["gelu_pytorch_tanh"] }
    }

    fn spellings(&self) -> &'static [Spelling] {
        SPELLINGS
    }

    fn renames(&self) -> &'static [Rename] {
        RENAMES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(POSITIONS, Default::Size(1024)),
                ConfigKey::word(
                    ACTIVATION,
                    &["gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu"],
                    Default::Absent,
                ),
                ConfigKey::flag(ONE_KEY, Default::Flag(true)),
                ConfigKey::any("attention_softmax_in_fp32"),
                ConfigKey::any("scale_attention_softmax_in_fp32"),
                ConfigKey::any("inference_runner"),
                ConfigKey::any("max_batch_size"),
                ConfigKey::any("max_sequence_length"),
                ConfigKey::any("pad_key_length"),
                ConfigKey::any("pre_allocate_kv_cache"),
                ConfigKey::any("validate_runner_input"),
                ConfigKey::any("summary_activation"),
                ConfigKey::any("summary_first_dropout"),
                ConfigKey::any("summary_proj_to_labels"),
                ConfigKey::any("summary_type"),
                ConfigKey::any("summary_use_proj"),
            ]
        }
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill(config);
        config.insert("num_key_value_heads".to_owned(), json!(1));
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        (config.flag(ONE_KEY) == Some(false)).then(|| Contradiction {
            key: ONE_KEY,
            problem: "is false, but files of this architecture have one key for all heads"
                .to_owned(),
        })
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
                MetadataKey::FileType,
            ]
        }
    }

    fn warnings(&self, model: &Model<'_>) -> Result<Vec<Warning>, Error> {
        if model.config.word(ACTIVATION) != Some("gelu") {
            return Ok(Vec::new());
        }
        Ok(vec![Warning {
            location: Location::file(model.files.path("config.json")).tensor(ACTIVATION),
            rule: "activation-approximated",
            message: "gelu: graphs of this architecture have the hyperbolic tangent in the place \
                      of the error function, as engines compute it"
                .to_owned(),
        }])
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        restore(config);
        config.insert(ONE_KEY.to_owned(), json!(true));
    }
}
