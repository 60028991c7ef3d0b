//! T5, Flan-T5, mT5 and UMT5 (`T5Model` in `conversion/t5.py`), and T5's encoder alone
//! (`T5EncoderModel`): attention whose scores get learned numbers by distance, in the first layer
//! for all of them, of UMT5 in each; a plain network, or one with a gate.
//!
//! Outputs of a T5 whose configuration ties embeddings are scaled in transformers; neither files
//! nor llama.cpp know of that.

use qz_tensor::Value as Entry;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder;
use super::decoder::rules;
use crate::architecture::{Activation, Architecture, Contradiction, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Heads, Hidden, Intermediate, Queries, Size, Vocabulary};
use crate::rules::{Condition, Dimension, LayerIndex, Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Encoder and decoder.
pub(super) struct T5;
/// The encoder.
pub(super) struct T5Encoder;

const ENCODER_LAYERS: &str = "num_layers";
const DECODER_LAYERS: &str = "num_decoder_layers";
const BUCKETS: &str = "relative_attention_num_buckets";
/// Whether the network has a gate: what `feed_forward_proj` begins with.
const GATED: &str = "is_gated_act";
const NETWORK: &str = "feed_forward_proj";
/// Whether each layer has numbers by distance: UMT5's.
const PER_LAYER: &str = "relative_attention_per_layer";
const START: &str = "decoder_start_token_id";
/// The published models'.
const CONTEXT: u64 = 512;

/// True if the decoder, or the encoder, has this layer: the other one may have more.
fn has(config: &ModelConfig, key: &str, layer: LayerIndex) -> bool {
    u64::from(layer.0) < config.size(key).unwrap_or(0)
}

fn is_gated(config: &ModelConfig) -> bool {
    config.switch(GATED) == Some(true)
}

const IN_ENCODER: Condition =
    Condition { key: ENCODER_LAYERS, holds: |config, layer| has(config, ENCODER_LAYERS, layer) };
const PLAIN_IN_ENCODER: Condition = Condition {
    key: GATED,
    holds: |config, layer| has(config, ENCODER_LAYERS, layer) && !is_gated(config),
};
const GATED_IN_ENCODER: Condition = Condition {
    key: GATED,
    holds: |config, layer| has(config, ENCODER_LAYERS, layer) && is_gated(config),
};
const IN_DECODER: Condition =
    Condition { key: DECODER_LAYERS, holds: |config, layer| has(config, DECODER_LAYERS, layer) };
const PLAIN_IN_DECODER: Condition = Condition {
    key: GATED,
    holds: |config, layer| has(config, DECODER_LAYERS, layer) && !is_gated(config),
};
const GATED_IN_DECODER: Condition = Condition {
    key: GATED,
    holds: |config, layer| has(config, DECODER_LAYERS, layer) && is_gated(config),
};
const FIRST: Condition = Condition { key: ENCODER_LAYERS, holds: |_, layer| layer.0 == 0 };
const LATER_IN_ENCODER: Condition = Condition {
    key: ENCODER_LAYERS,
    holds: |config, layer| layer.0 > 0 && has(config, ENCODER_LAYERS, layer),
};
const LATER_IN_DECODER: Condition = Condition {
    key: DECODER_LAYERS,
    holds: |config, layer| layer.0 > 0 && has(config, DECODER_LAYERS, layer),
};

const SQUARE: &[Dimension] = &[Queries, Hidden];
const BACK: &[Dimension] = &[Hidden, Queries];
const VECTOR: &[Dimension] = &[Hidden];
const WIDE: &[Dimension] = &[Intermediate, Hidden];
const NARROW: &[Dimension] = &[Hidden, Intermediate];
const BIAS: &[Dimension] = &[Size(BUCKETS), Heads];

macro_rules! encoder {
    ($role:ident, $hugging_face:literal, $gguf:literal, $shape:expr) => {
        TensorRule::weight(
            Role::$role,
            concat!("encoder.block.{layer}.layer.", $hugging_face, ".weight"),
            concat!("enc.blk.{layer}.", $gguf, ".weight"),
            $shape,
        )
        .only(IN_ENCODER)
    };
}

macro_rules! decoder_rule {
    ($role:ident, $hugging_face:literal, $gguf:literal, $shape:expr) => {
        TensorRule::weight(
            Role::$role,
            concat!("decoder.block.{layer}.layer.", $hugging_face, ".weight"),
            concat!("dec.blk.{layer}.", $gguf, ".weight"),
            $shape,
        )
        .only(IN_DECODER)
    };
}

const EMBEDDING: TensorRule = decoder::TOKEN_EMBEDDING.named("shared.weight");
/// The same under other names.
const COPIES: [TensorRule; 2] = [
    TensorRule::dropped("encoder.embed_tokens.weight", &[Vocabulary, Hidden]),
    TensorRule::dropped("decoder.embed_tokens.weight", &[Vocabulary, Hidden]),
];

/// The encoder with the roles that it has alone.
const ENCODER: [TensorRule; 13] = [
    decoder::OUTPUT_NORM.named("encoder.final_layer_norm.weight").gguf("enc.output_norm.weight"),
    encoder!(AttentionNorm, "0.layer_norm", "attn_norm", VECTOR),
    encoder!(AttentionQuery, "0.SelfAttention.q", "attn_q", SQUARE),
    encoder!(AttentionKey, "0.SelfAttention.k", "attn_k", SQUARE),
    encoder!(AttentionValue, "0.SelfAttention.v", "attn_v", SQUARE),
    encoder!(AttentionOutput, "0.SelfAttention.o", "attn_o", BACK),
    encoder!(AttentionDistances, "0.SelfAttention.relative_attention_bias", "attn_rel_b", BIAS)
        .only(FIRST),
    encoder!(AttentionDistances, "0.SelfAttention.relative_attention_bias", "attn_rel_b", BIAS)
        .only(LATER_IN_ENCODER)
        .when(Presence::BehindFirstWhenTrue(PER_LAYER)),
    encoder!(FeedForwardNorm, "1.layer_norm", "ffn_norm", VECTOR),
    encoder!(FeedForwardUp, "1.DenseReluDense.wi", "ffn_up", WIDE).only(PLAIN_IN_ENCODER),
    encoder!(FeedForwardGate, "1.DenseReluDense.wi_0", "ffn_gate", WIDE)
        .only(GATED_IN_ENCODER)
        .when(Presence::WhenTrue(GATED)),
    encoder!(FeedForwardUp, "1.DenseReluDense.wi_1", "ffn_up", WIDE).only(GATED_IN_ENCODER),
    encoder!(FeedForwardDown, "1.DenseReluDense.wo", "ffn_down", NARROW),
];

/// The same beside a decoder.
const BESIDE_DECODER: [TensorRule; 13] = {
    let mut rules = ENCODER;
    let mut at = 0;
    while at < rules.len() {
        rules[at].role = match rules[at].role {
            Role::OutputNorm => Role::EncoderOutputNorm,
            Role::AttentionNorm => Role::EncoderAttentionNorm,
            Role::AttentionQuery => Role::EncoderAttentionQuery,
            Role::AttentionKey => Role::EncoderAttentionKey,
            Role::AttentionValue => Role::EncoderAttentionValue,
            Role::AttentionOutput => Role::EncoderAttentionOutput,
            Role::AttentionDistances => Role::EncoderAttentionDistances,
            Role::FeedForwardNorm => Role::EncoderFeedForwardNorm,
            Role::FeedForwardGate => Role::EncoderFeedForwardGate,
            Role::FeedForwardUp => Role::EncoderFeedForwardUp,
            Role::FeedForwardDown => Role::EncoderFeedForwardDown,
            other => other,
        };
        at += 1;
    }
    rules
};

const DECODER: &[TensorRule] = &[
    decoder::OUTPUT_NORM.named("decoder.final_layer_norm.weight").gguf("dec.output_norm.weight"),
    decoder::OUTPUT,
    decoder_rule!(AttentionNorm, "0.layer_norm", "attn_norm", VECTOR),
    decoder_rule!(AttentionQuery, "0.SelfAttention.q", "attn_q", SQUARE),
    decoder_rule!(AttentionKey, "0.SelfAttention.k", "attn_k", SQUARE),
    decoder_rule!(AttentionValue, "0.SelfAttention.v", "attn_v", SQUARE),
    decoder_rule!(AttentionOutput, "0.SelfAttention.o", "attn_o", BACK),
    decoder_rule!(
        AttentionDistances,
        "0.SelfAttention.relative_attention_bias",
        "attn_rel_b",
        BIAS
    )
    .only(FIRST),
    decoder_rule!(
        AttentionDistances,
        "0.SelfAttention.relative_attention_bias",
        "attn_rel_b",
        BIAS
    )
    .only(LATER_IN_DECODER)
    .when(Presence::BehindFirstWhenTrue(PER_LAYER)),
    decoder_rule!(CrossAttentionNorm, "1.layer_norm", "cross_attn_norm", VECTOR),
    decoder_rule!(CrossAttentionQuery, "1.EncDecAttention.q", "cross_attn_q", SQUARE),
    decoder_rule!(CrossAttentionKey, "1.EncDecAttention.k", "cross_attn_k", SQUARE),
    decoder_rule!(CrossAttentionValue, "1.EncDecAttention.v", "cross_attn_v", SQUARE),
    decoder_rule!(CrossAttentionOutput, "1.EncDecAttention.o", "cross_attn_o", BACK),
    // Old checkpoints have it; nobody reads it.
    decoder_rule!(
        CrossAttentionDistances,
        "1.EncDecAttention.relative_attention_bias",
        "cross_attn_rel_b",
        BIAS
    )
    .when(Presence::Optional),
    decoder_rule!(FeedForwardNorm, "2.layer_norm", "ffn_norm", VECTOR),
    decoder_rule!(FeedForwardUp, "2.DenseReluDense.wi", "ffn_up", WIDE).only(PLAIN_IN_DECODER),
    decoder_rule!(FeedForwardGate, "2.DenseReluDense.wi_0", "ffn_gate", WIDE)
        .only(GATED_IN_DECODER)
        .when(Presence::WhenTrue(GATED)),
    decoder_rule!(FeedForwardUp, "2.DenseReluDense.wi_1", "ffn_up", WIDE).only(GATED_IN_DECODER),
    decoder_rule!(FeedForwardDown, "2.DenseReluDense.wo", "ffn_down", NARROW),
];

static RULES: &[TensorRule] = rules![&[EMBEDDING], &COPIES, &BESIDE_DECODER, DECODER];
static ENCODER_RULES: &[TensorRule] = rules![&[EMBEDDING], &COPIES, &ENCODER];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "t5",
    numbers: &[
        ("vocab_size", 32_128),
        ("hidden_size", 512),
        ("intermediate_size", 2048),
        ("num_hidden_layers", 6),
        ("num_attention_heads", 8),
        ("head_dim", 64),
    ],
    head_size: DefaultHeadSize::Fixed(64),
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

const SPELLINGS: &[Spelling] = &[
    Spelling { own: "d_model", common: "hidden_size" },
    Spelling { own: "d_ff", common: "intermediate_size" },
    Spelling { own: "d_kv", common: "head_dim" },
    Spelling { own: "num_heads", common: "num_attention_heads" },
    Spelling { own: "n_positions", common: "max_position_embeddings" },
];

const CONFIG_KEYS: &[ConfigKey] = &[
    ConfigKey::size_or(ENCODER_LAYERS, Default::Size(6)),
    ConfigKey::count_or(DECODER_LAYERS, Default::Absent),
    ConfigKey::size_or(BUCKETS, Default::Size(32)),
    ConfigKey::exactly("relative_attention_max_distance", 128.0),
    ConfigKey::word(NETWORK, &["relu", "gated-gelu"], Default::Word("relu")),
    ConfigKey::flag(GATED, Default::Flag(false)),
    ConfigKey::flag(PER_LAYER, Default::Flag(false)),
    ConfigKey::count_or(START, Default::Absent),
    ConfigKey::any("dense_act_fn"),
    ConfigKey::any("is_encoder_decoder"),
    ConfigKey::any("scale_decoder_outputs"),
    ConfigKey::any("dropout_rate"),
    ConfigKey::any("initializer_factor"),
    ConfigKey::any("output_past"),
];

/// Layers of both, and what they follow from.
fn fill(config: &mut Map<String, Value>, has_decoder: bool) {
    let layers = |config: &Map<String, Value>, key: &str| config.get(key).and_then(Value::as_u64);
    let own = layers(config, ENCODER_LAYERS).unwrap_or(6);
    config.insert(ENCODER_LAYERS.to_owned(), json!(own));
    let mut most = own;
    if has_decoder {
        let others = layers(config, DECODER_LAYERS).unwrap_or(own);
        config.insert(DECODER_LAYERS.to_owned(), json!(others));
        most = most.max(others);
    } else {
        config.shift_remove(DECODER_LAYERS);
    }
    config.insert("num_hidden_layers".to_owned(), json!(most));
    let kind = config.get("model_type").and_then(Value::as_str).map(str::to_owned);
    if let Some(kind) = kind {
        config.insert(PER_LAYER.to_owned(), json!(kind == "umt5"));
    }
    config.entry("max_position_embeddings").or_insert(json!(CONTEXT));
    if let Some(network) = config.get(NETWORK).and_then(Value::as_str) {
        let is_gated = network.starts_with("gated-");
        config.insert(GATED.to_owned(), json!(is_gated));
    }
}

/// In T5's words, without what transformers' class does not know.
fn complete(keys: GgufKeys<'_>, config: &mut Map<String, Value>, has_decoder: bool) {
    for key in ["num_hidden_layers", "num_key_value_heads", "is_causal"] {
        config.shift_remove(key);
    }
    let epsilon = config.shift_remove("layer_norm_eps");
    config.extend(epsilon.map(|epsilon| ("layer_norm_epsilon".to_owned(), epsilon)));
    let is_gated = config.get(GATED) == Some(&json!(true));
    let is_per_layer = config.shift_remove(PER_LAYER) == Some(json!(true));
    let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
    if is_per_layer {
        set("model_type", json!("umt5"));
        set("architectures", json!(["UMT5ForConditionalGeneration"]));
    }
    if !has_decoder {
        set("tie_word_embeddings", json!(true));
    }
    set(NETWORK, json!(if is_gated { "gated-gelu" } else { "relu" }));
    set("dense_act_fn", json!(if is_gated { "gelu_new" } else { "relu" }));
    set("relative_attention_max_distance", json!(128));
    set("is_encoder_decoder", json!(has_decoder));
    let layers = keys.size("block_count").unwrap_or(0);
    set(ENCODER_LAYERS, json!(layers));
    if has_decoder {
        set(DECODER_LAYERS, json!(keys.size("decoder_block_count").unwrap_or(layers)));
    }
}

fn contradiction(config: &ModelConfig) -> Option<Contradiction> {
    let count = config.size(BUCKETS).unwrap_or(0);
    (!count.is_multiple_of(4)).then(|| Contradiction {
        key: BUCKETS,
        problem: format!("is {count}, of which no half of a half is whole"),
    })
}

fn root_epsilon(config: &ModelConfig) -> Option<Entry> {
    Some((config.layer_norm_epsilon? as f32).into())
}

fn encoder_layers(config: &ModelConfig) -> Option<Entry> {
    config.entry(ENCODER_LAYERS)
}

const CONTEXT_AND_WIDTHS: [MetadataKey; 4] = [
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::computed("block_count", encoder_layers),
];
const HEADS_AND_NORMS: [MetadataKey; 5] = [
    MetadataKey::Heads,
    MetadataKey::HeadSize,
    MetadataKey::LayerNormEpsilon,
    MetadataKey::setting("attention.relative_buckets_count", BUCKETS),
    MetadataKey::computed("attention.layer_norm_rms_epsilon", root_epsilon),
];

/// What both have in common.
macro_rules! common {
    ($has_decoder:literal) => {
        fn defaults(&self) -> &'static ConfigDefaults {
            &DEFAULTS
        }

        fn has_rope(&self) -> bool {
            false
        }

        fn activation(&self) -> Activation {
            Activation { key: NETWORK, words: &["relu", "gated-gelu"] }
        }

        fn spellings(&self) -> &'static [Spelling] {
            SPELLINGS
        }

        fn fill_config(&self, config: &mut Map<String, Value>) {
            fill(config, $has_decoder);
        }

        fn config_keys(&self) -> &'static [ConfigKey] {
            CONFIG_KEYS
        }

        fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
            contradiction(config)
        }

        fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
            complete(keys, config, $has_decoder);
        }

        fn vocabulary_rules(&self) -> VocabularyRules {
            VocabularyRules::T5
        }
    };
}

impl Architecture for T5 {
    common!(true);

    fn class_names(&self) -> &'static [&'static str] {
        &[
            "T5ForConditionalGeneration",
            "T5WithLMHeadModel",
            "MT5ForConditionalGeneration",
            "UMT5ForConditionalGeneration",
            "UMT5Model",
        ]
    }

    fn gguf_name(&self) -> &'static str {
        "t5"
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                CONTEXT_AND_WIDTHS[0],
                CONTEXT_AND_WIDTHS[1],
                CONTEXT_AND_WIDTHS[2],
                CONTEXT_AND_WIDTHS[3],
                MetadataKey::setting("decoder_block_count", DECODER_LAYERS),
                HEADS_AND_NORMS[0],
                HEADS_AND_NORMS[1],
                HEADS_AND_NORMS[2],
                HEADS_AND_NORMS[3],
                HEADS_AND_NORMS[4],
                MetadataKey::setting("decoder_start_token_id", START),
                MetadataKey::FileType,
            ]
        }
    }
}

impl Architecture for T5Encoder {
    common!(false);

    fn class_names(&self) -> &'static [&'static str] {
        &["T5EncoderModel"]
    }

    fn gguf_name(&self) -> &'static str {
        "t5encoder"
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        ENCODER_RULES
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                CONTEXT_AND_WIDTHS[0],
                CONTEXT_AND_WIDTHS[1],
                CONTEXT_AND_WIDTHS[2],
                CONTEXT_AND_WIDTHS[3],
                HEADS_AND_NORMS[0],
                HEADS_AND_NORMS[1],
                HEADS_AND_NORMS[2],
                HEADS_AND_NORMS[3],
                HEADS_AND_NORMS[4],
                MetadataKey::FileType,
            ]
        }
    }
}
