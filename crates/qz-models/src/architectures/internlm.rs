//! InternLM 2 and 3 (`InternLM2Model`, `InternLM3Model` in `conversion/internlm.py`). The former is
//! Llama with queries, keys and values in one matrix, by the head of keys that they belong to; the
//! latter is Llama, and becomes it on the way back.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use super::{decoder, llama};
use crate::architecture::{Architecture, ComputedTensor, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{
    HeadSize, Hidden, KeyValues, Number, Product, Queries, Quotient, Sum,
};
use crate::rules::{Dimension, Role, TensorRule, Transform};
use crate::settings::{GgufKeys, MetadataKey};

/// InternLM 2 and 2.5.
pub(super) struct InternLm2;
/// InternLM 3.
pub(super) struct InternLm3;

/// Rows of the queries that one head of keys serves.
const SERVED: Dimension = Product(&[Quotient(&Queries, &KeyValues), HeadSize]);
/// These, and the rows of the keys and of the values.
const GROUP: Dimension = Sum(&[SERVED, HeadSize, HeadSize]);

const QUERIES_KEYS_VALUES: TensorRule = layer_weight!(
    Role::AttentionQuery,
    "attention.wqkv",
    "attn_q",
    &[Sum(&[Queries, KeyValues, KeyValues]), Hidden]
);

/// Rows of each group's.
const fn part(role: Role, gguf: &'static str, first: Dimension, rows: Dimension) -> TensorRule {
    TensorRule { role, ..QUERIES_KEYS_VALUES }
        .gguf(gguf)
        .transformed(Transform::part(GROUP, first, rows))
}

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING.named("model.tok_embeddings.weight"),
    decoder::OUTPUT_NORM,
    decoder::OUTPUT.named("output.weight"),
    decoder::ATTENTION_NORM.named("model.layers.{layer}.attention_norm.weight"),
    part(Role::AttentionQuery, "blk.{layer}.attn_q.weight", Number(0), SERVED).paired(),
    part(Role::AttentionKey, "blk.{layer}.attn_k.weight", SERVED, HeadSize).paired(),
    part(Role::AttentionValue, "blk.{layer}.attn_v.weight", Sum(&[SERVED, HeadSize]), HeadSize),
    decoder::ATTENTION_OUTPUT.named("model.layers.{layer}.attention.wo.weight"),
    decoder::FEED_FORWARD_NORM.named("model.layers.{layer}.ffn_norm.weight"),
    decoder::GATE.named("model.layers.{layer}.feed_forward.w1.weight"),
    decoder::UP.named("model.layers.{layer}.feed_forward.w3.weight"),
    decoder::DOWN.named("model.layers.{layer}.feed_forward.w2.weight"),
];

static DEFAULTS_OF_2: ConfigDefaults = ConfigDefaults {
    model_type: "internlm2",
    numbers: &[
        ("vocab_size", 103_168),
        ("hidden_size", 4096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-6),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};
static DEFAULTS_OF_3: ConfigDefaults = ConfigDefaults {
    model_type: "internlm3",
    numbers: &[
        ("vocab_size", 128_512),
        ("hidden_size", 4096),
        ("intermediate_size", 10_240),
        ("num_hidden_layers", 48),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 2),
        ("max_position_embeddings", 32_768),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for InternLm2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["InternLM2ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "internlm2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS_OF_2
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert("bias".to_owned(), json!(false));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::InternLm2
    }
}

impl Architecture for InternLm3 {
    fn class_names(&self) -> &'static [&'static str] {
        &["InternLM3ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "llama"
    }

    fn is_in(&self, _metadata: &Metadata) -> bool {
        false
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS_OF_3
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        llama::RULES
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "qkv_bias", common: "attention_bias" },
            Spelling { own: "bias", common: "mlp_bias" },
        ]
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[llama::VOCABULARY_SIZE, llama::TURNED] }
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::InternLm3
    }
}
