//! Pixtral's tower, which Mistral 3 and Ministral 3 have too (`LlavaVisionModel` in
//! `conversion/llava.py`).

use crate::describe::read_object;

use super::*;

const RULES: &[ProjectorRule] = rules!(
    [
        rule("v.patch_conv.weight", "v.patch_embd.weight"),
        rule("v.ln_pre.weight", "v.pre_ln.weight"),
        rule("v.transformer.layers.{layer}.attention.q_proj.weight", "v.blk.{layer}.attn_q.weight")
            .taking(Take::TurnedHeads),
        rule("v.transformer.layers.{layer}.attention.k_proj.weight", "v.blk.{layer}.attn_k.weight")
            .taking(Take::TurnedHeads),
        rule("v.transformer.layers.{layer}.attention.v_proj.weight", "v.blk.{layer}.attn_v.weight"),
        rule(
            "v.transformer.layers.{layer}.attention.o_proj.weight",
            "v.blk.{layer}.attn_out.weight",
        ),
        rule("v.transformer.layers.{layer}.attention_norm.weight", "v.blk.{layer}.ln1.weight"),
        rule("v.transformer.layers.{layer}.ffn_norm.weight", "v.blk.{layer}.ln2.weight"),
        rule(
            "v.transformer.layers.{layer}.feed_forward.gate_proj.weight",
            "v.blk.{layer}.ffn_gate.weight",
        ),
        rule(
            "v.transformer.layers.{layer}.feed_forward.up_proj.weight",
            "v.blk.{layer}.ffn_up.weight",
        ),
        rule(
            "v.transformer.layers.{layer}.feed_forward.down_proj.weight",
            "v.blk.{layer}.ffn_down.weight",
        ),
        rule(EMBEDDING, "v.token_embd.img_break").taking(Take::RowEnd).optional(),
    ],
    unbiased!("mm.linear_1", "mm.1"),
    unbiased!("mm.linear_2", "mm.2"),
);

/// What rules call the token embeddings.
const EMBEDDING: &str = "embed_tokens";
/// The word by which rows of an image end.
const ROW_END: &str = "[IMG_BREAK]";

/// Pixtral, in Llava's class; CLIP's towers of the same class have no converter.
pub(super) const PIXTRAL: ProjectorFamily = ProjectorFamily {
    model_types: &["llava"],
    towers: &[Tower::new(TowerKind::Vision, &["vision_config"]).with(&[Defaults {
        model_type: "pixtral",
        sizes: &[
            ("hidden_size", 1024),
            ("intermediate_size", 4096),
            ("num_hidden_layers", 24),
            ("num_attention_heads", 16),
            ("image_size", 1024),
            ("patch_size", 16),
        ],
        words: &[("hidden_act", "gelu")],
    }])],
    prefixes: &[
        ("vision_tower.", "v."),
        ("multi_modal_projector.", "mm."),
        ("model.vision_tower.", "v."),
        ("model.multi_modal_projector.", "mm."),
        ("language_model.model.embed_tokens.weight", EMBEDDING),
        ("model.language_model.embed_tokens.weight", EMBEDDING),
        ("model.embed_tokens.weight", EMBEDDING),
    ],
    rules: RULES,
    prepare: |config, files| {
        const KEY: &str = "model_type";
        let model_type = config.vision.string(KEY)?.unwrap_or_default();
        if model_type != "pixtral" {
            let problem = format!(
                "is {model_type:?}; of models of this class those whose part that sees is \
                 \"pixtral\" can be written to a file of its own"
            );
            return Err(config.vision.fault(KEY, problem));
        }
        config.row_end = Some(token_id(files, ROW_END)?);
        Ok(())
    },
    metadata: entries!(
        [Entry::Text("projector_type", "pixtral"), epsilon(1e-5)],
        ACTIVATION,
        [Entry::Integer(
            "vision.spatial_merge_size",
            Of::Model,
            "spatial_merge_size",
            Absent::LeftOut,
        )],
    ),
    ..SEES
};

/// Mistral 3 and Ministral 3: several patches become one.
pub(super) const MISTRAL_3: ProjectorFamily = ProjectorFamily {
    model_types: &["mistral3"],
    rules: rules!(
        *RULES,
        [
            rule("mm.norm.weight", "mm.input_norm.weight"),
            rule("mm.patch_merger.merging_layer.weight", "mm.patch_merger.weight"),
        ],
    ),
    metadata: entries!(
        [Entry::Text("projector_type", "pixtral"), epsilon(1e-5)],
        ACTIVATION,
        [Entry::Integer(
            "vision.spatial_merge_size",
            Of::Model,
            "spatial_merge_size",
            Absent::Default(2),
        )],
    ),
    ..PIXTRAL
};

/// The number of a word that the tokenizer never cuts.
fn token_id(files: &dyn SideFiles, word: &str) -> Result<u64, Error> {
    const MOST: u64 = u32::MAX as u64;
    if let Some(config) = read_object(files, "tokenizer_config.json")?
        && let Some(added) = config.object("added_tokens_decoder")?
    {
        for (id, _) in added.entries() {
            let is_it = added.object(id)?.is_some_and(|own| {
                own.get("content").and_then(serde_json::Value::as_str) == Some(word)
            });
            if is_it {
                let fault = || added.fault(id, "is no number of a token");
                return id.parse().ok().filter(|id| *id <= MOST).ok_or_else(fault);
            }
        }
    }
    let tokenizer = read_object(files, "tokenizer.json")?
        .ok_or_else(|| Error::MissingFile(files.path("tokenizer.json")))?;
    let added = tokenizer.get("added_tokens").and_then(serde_json::Value::as_array);
    let found = added.into_iter().flatten().find(|own| own["content"] == word);
    let id = found.and_then(|own| own["id"].as_u64()).filter(|id| *id <= MOST);
    id.ok_or_else(|| tokenizer.fault("added_tokens", format!("has no {word}")))
}
