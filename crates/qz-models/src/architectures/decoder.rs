//! Tensors that most decoders share, under the names that Llama gave them
//! (`gguf-py/gguf/tensor_mapping.py`).

use qz_tensor::{Array, Value as Entry};
use serde_json::{Map, Value, json};

use crate::rules::Dimension::{HeadSize, Hidden, Intermediate, KeyValues, Queries, Vocabulary};
use crate::rules::{Dimension, Presence, Role, TensorRule};
use crate::settings::GgufKeys;

/// A rule of a layer's weight.
macro_rules! layer_weight {
    ($role:expr, $hugging_face:literal, $gguf:literal, $shape:expr) => {
        TensorRule::weight(
            $role,
            concat!("model.layers.{layer}.", $hugging_face, ".weight"),
            concat!("blk.{layer}.", $gguf, ".weight"),
            $shape,
        )
    };
}

/// A rule of a layer's bias.
macro_rules! layer_bias {
    ($role:expr, $hugging_face:literal, $gguf:literal, $shape:expr) => {
        TensorRule::bias(
            $role,
            concat!("model.layers.{layer}.", $hugging_face, ".bias"),
            concat!("blk.{layer}.", $gguf, ".bias"),
            $shape,
        )
    };
}

/// The rules of the weight and the bias of a layer's module, whose name begins like this.
macro_rules! layer_module {
    ($begin:literal, $role:expr, $hugging_face:literal, $gguf:literal, $shape:expr, $bias:expr) => {
        [
            TensorRule::weight(
                $role,
                concat!($begin, $hugging_face, ".weight"),
                concat!("blk.{layer}.", $gguf, ".weight"),
                $shape,
            ),
            TensorRule::bias(
                $role,
                concat!($begin, $hugging_face, ".bias"),
                concat!("blk.{layer}.", $gguf, ".bias"),
                $bias,
            ),
        ]
    };
}

/// Lists of rules, one behind the other.
macro_rules! rules {
    ($($list:expr),+ $(,)?) => {{
        const LISTS: &[&[TensorRule]] = &[$($list),+];
        const ALL: [TensorRule; $crate::lists::count(LISTS)] = $crate::lists::joined(LISTS);
        &ALL
    }};
}

pub(super) use {layer_bias, layer_module, layer_weight, rules};

const NORM: &[Dimension] = &[Hidden];

pub(super) const OUTPUT_NORM_BIAS: TensorRule =
    TensorRule::bias(Role::OutputNorm, "model.norm.bias", "output_norm.bias", NORM);
pub(super) const TOKEN_EMBEDDING: TensorRule = TensorRule::weight(
    Role::TokenEmbedding,
    "model.embed_tokens.weight",
    "token_embd.weight",
    &[Vocabulary, Hidden],
);
pub(super) const OUTPUT_NORM: TensorRule =
    TensorRule::weight(Role::OutputNorm, "model.norm.weight", "output_norm.weight", NORM);
/// Written whenever it is there, tied or not, as the reference does.
pub(super) const OUTPUT: TensorRule =
    TensorRule::weight(Role::Output, "lm_head.weight", "output.weight", &[Vocabulary, Hidden])
        .when(Presence::WhenFalse("tie_word_embeddings"));

pub(super) const ATTENTION_NORM: TensorRule =
    layer_weight!(Role::AttentionNorm, "input_layernorm", "attn_norm", NORM);
pub(super) const QUERY: TensorRule =
    layer_weight!(Role::AttentionQuery, "self_attn.q_proj", "attn_q", &[Queries, Hidden]);
pub(super) const KEY: TensorRule =
    layer_weight!(Role::AttentionKey, "self_attn.k_proj", "attn_k", &[KeyValues, Hidden]);
pub(super) const VALUE: TensorRule =
    layer_weight!(Role::AttentionValue, "self_attn.v_proj", "attn_v", &[KeyValues, Hidden]);
pub(super) const ATTENTION_OUTPUT: TensorRule =
    layer_weight!(Role::AttentionOutput, "self_attn.o_proj", "attn_output", &[Hidden, Queries]);
pub(super) const QUERY_NORM: TensorRule =
    layer_weight!(Role::AttentionQueryNorm, "self_attn.q_norm", "attn_q_norm", &[HeadSize]);
pub(super) const KEY_NORM: TensorRule =
    layer_weight!(Role::AttentionKeyNorm, "self_attn.k_norm", "attn_k_norm", &[HeadSize]);
pub(super) const QUERY_BIAS: TensorRule =
    layer_bias!(Role::AttentionQuery, "self_attn.q_proj", "attn_q", &[Queries]);
pub(super) const KEY_BIAS: TensorRule =
    layer_bias!(Role::AttentionKey, "self_attn.k_proj", "attn_k", &[KeyValues]);
pub(super) const VALUE_BIAS: TensorRule =
    layer_bias!(Role::AttentionValue, "self_attn.v_proj", "attn_v", &[KeyValues]);
pub(super) const ATTENTION_OUTPUT_BIAS: TensorRule =
    layer_bias!(Role::AttentionOutput, "self_attn.o_proj", "attn_output", &[Hidden]);

/// What stands before and behind the layers.
pub(super) const AROUND: [TensorRule; 3] = [TOKEN_EMBEDDING, OUTPUT_NORM, OUTPUT];
/// Attention whose queries, keys and values have a matrix each, and the norm in front of it.
pub(super) const ATTENTION: [TensorRule; 5] = [ATTENTION_NORM, QUERY, KEY, VALUE, ATTENTION_OUTPUT];
/// Norms of each head's queries and keys.
pub(super) const HEAD_NORMS: [TensorRule; 2] = [QUERY_NORM, KEY_NORM];
/// Norms of all heads' queries and keys together.
pub(super) const ROW_NORMS: [TensorRule; 2] =
    [QUERY_NORM.shaped(&[Queries]), KEY_NORM.shaped(&[KeyValues])];

/// Biases of the three attention inputs.
pub(super) const fn attention_biases(presence: Presence) -> [TensorRule; 3] {
    [QUERY_BIAS.when(presence), KEY_BIAS.when(presence), VALUE_BIAS.when(presence)]
}

pub(super) const ATTENTION_NORM_BIAS: TensorRule =
    layer_bias!(Role::AttentionNorm, "input_layernorm", "attn_norm", NORM);
pub(super) const FEED_FORWARD_NORM_BIAS: TensorRule =
    layer_bias!(Role::FeedForwardNorm, "post_attention_layernorm", "ffn_norm", NORM);
pub(super) const FEED_FORWARD_NORM: TensorRule =
    layer_weight!(Role::FeedForwardNorm, "post_attention_layernorm", "ffn_norm", NORM);
/// The norm in front of the feed-forward network, where another stands behind attention.
pub(super) const PRE_FEED_FORWARD_NORM: TensorRule =
    layer_weight!(Role::FeedForwardNorm, "pre_feedforward_layernorm", "ffn_norm", NORM);
pub(super) const POST_ATTENTION_NORM: TensorRule =
    layer_weight!(Role::PostAttentionNorm, "post_attention_layernorm", "post_attention_norm", NORM);
pub(super) const POST_FEED_FORWARD_NORM: TensorRule =
    layer_weight!(Role::PostFeedForwardNorm, "post_feedforward_layernorm", "post_ffw_norm", NORM);
pub(super) const GATE: TensorRule =
    layer_weight!(Role::FeedForwardGate, "mlp.gate_proj", "ffn_gate", &[Intermediate, Hidden]);
pub(super) const UP: TensorRule =
    layer_weight!(Role::FeedForwardUp, "mlp.up_proj", "ffn_up", &[Intermediate, Hidden]);
pub(super) const DOWN: TensorRule =
    layer_weight!(Role::FeedForwardDown, "mlp.down_proj", "ffn_down", &[Hidden, Intermediate]);
pub(super) const GATE_BIAS: TensorRule =
    layer_bias!(Role::FeedForwardGate, "mlp.gate_proj", "ffn_gate", &[Intermediate]);
pub(super) const UP_BIAS: TensorRule =
    layer_bias!(Role::FeedForwardUp, "mlp.up_proj", "ffn_up", &[Intermediate]);
pub(super) const DOWN_BIAS: TensorRule =
    layer_bias!(Role::FeedForwardDown, "mlp.down_proj", "ffn_down", &[Hidden]);

/// A bias of the three attention inputs.
pub(super) const ATTENTION_BIAS: Presence = Presence::WhenTrue("attention_bias");
/// The bias of the attention's output: checkpoints with biases on the three
/// inputs only are common, and llama.cpp does not ask for this one.
pub(super) const ATTENTION_OUTPUT_BIAS_ALLOWED: Presence =
    Presence::AllowedWhenTrue("attention_bias");
/// A bias of the feed-forward network.
pub(super) const MLP_BIAS: Presence = Presence::WhenTrue("mlp_bias");

/// Writes the sections of a head's pairs.
pub(super) fn restore_sections(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let key = format!("{}.rope.dimension_sections", keys.prefix);
    if let Some(Entry::Array(Array::I32(sections))) = keys.metadata.get(&key) {
        // The fourth is of nothing.
        let sections = json!(&sections[..sections.len().min(3)]);
        for rope in ["rope_parameters", "rope_scaling"] {
            if let Some(Value::Object(rope)) = config.get_mut(rope) {
                rope.insert("mrope_section".to_owned(), sections.clone());
            }
        }
    }
}
