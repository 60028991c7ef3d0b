//! Layers behind the last that only predict further tokens: what joins them to the model, and
//! the metadata that counts them.

use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use crate::further::{FURTHER, FurtherNames};
use crate::rules::Dimension::{Hidden, Number, Product, Vocabulary};
use crate::rules::{Presence, Role, TensorRule};
use crate::settings::{GgufKeys, MetadataKey};

/// Makes a layer's inputs of a token's embedding and the hidden states before it.
pub(super) const PROJECTION: TensorRule = layer_weight!(
    Role::NextTokenProjection,
    "eh_proj",
    "nextn.eh_proj",
    &[Hidden, Product(&[Number(2), Hidden])]
)
.only(FURTHER);
pub(super) const EMBEDDING_NORM: TensorRule =
    layer_weight!(Role::NextTokenEmbeddingNorm, "enorm", "nextn.enorm", &[Hidden]).only(FURTHER);
pub(super) const HIDDEN_NORM: TensorRule =
    layer_weight!(Role::NextTokenHiddenNorm, "hnorm", "nextn.hnorm", &[Hidden]).only(FURTHER);
pub(super) const OUTPUT_NORM: TensorRule = layer_weight!(
    Role::NextTokenOutputNorm,
    "shared_head.norm",
    "nextn.shared_head_norm",
    &[Hidden]
)
.only(FURTHER)
.when(Presence::Optional);
/// The model's own embedding again, where a checkpoint repeats it.
pub(super) const EMBEDDING: TensorRule = layer_weight!(
    Role::NextTokenEmbedding,
    "embed_tokens",
    "nextn.embed_tokens",
    &[Vocabulary, Hidden]
)
.only(FURTHER)
.when(Presence::Optional);
/// The model's own output matrix again, likewise.
pub(super) const OUTPUT: TensorRule = layer_weight!(
    Role::NextTokenOutput,
    "shared_head.head",
    "nextn.shared_head_head",
    &[Vocabulary, Hidden]
)
.only(FURTHER)
.when(Presence::Optional);
/// All of them.
pub(super) const ALL: [TensorRule; 6] =
    [PROJECTION, EMBEDDING_NORM, HIDDEN_NORM, OUTPUT_NORM, EMBEDDING, OUTPUT];
/// Qwen's names, in a module of their own.
pub(super) const MODULE: FurtherNames = FurtherNames::Module {
    prefix: "mtp.",
    beside: &[
        ("fc.", "eh_proj."),
        ("pre_fc_norm_embedding.", "enorm."),
        ("pre_fc_norm_hidden.", "hnorm."),
        ("norm.", "shared_head.norm."),
    ],
};

/// How many such layers there are, if there are some.
pub(super) const COUNT: MetadataKey = MetadataKey::computed("nextn_predict_layers", |config| {
    (config.further > 0).then(|| config.further.into())
});

/// Writes under `key` how many there are.
pub(super) fn restore_count(key: &str, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let count = keys.size("nextn_predict_layers").unwrap_or(0);
    config.insert(key.to_owned(), json!(count));
}
