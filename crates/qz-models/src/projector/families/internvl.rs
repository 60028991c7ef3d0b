//! InternVL 2 to 3.5, by the names of its own class and by those of transformers
//! (`InternVisionModel` in `conversion/internvl.py`).

use super::*;

pub(super) const INTERNVL: ProjectorFamily = ProjectorFamily {
    model_types: &["internvl_chat", "internvl"],
    towers: &[Tower::new(TowerKind::Vision, &["vision_config"]).with(&[Defaults {
        model_type: "internvl_vision",
        sizes: &[
            ("hidden_size", 1024),
            ("intermediate_size", 4096),
            ("num_hidden_layers", 24),
            ("num_attention_heads", 16),
            ("image_size", 448),
            ("patch_size", 14),
        ],
        words: &[("hidden_act", "gelu")],
    }])],
    prefixes: &[
        ("vision_model.", ""),
        ("mlp1.", "mlp1."),
        ("vision_tower.", ""),
        ("model.vision_tower.", ""),
        ("multi_modal_projector.layer_norm.", "mlp1.0."),
        ("multi_modal_projector.linear_1.", "mlp1.1."),
        ("multi_modal_projector.linear_2.", "mlp1.3."),
        ("model.multi_modal_projector.layer_norm.", "mlp1.0."),
        ("model.multi_modal_projector.linear_1.", "mlp1.1."),
        ("model.multi_modal_projector.linear_2.", "mlp1.3."),
    ],
    rules: rules!(
        [
            rule("embeddings.class_embedding", "v.class_embd"),
            rule("embeddings.position_embedding", "v.position_embd.weight"),
        ],
        module!("embeddings.patch_embedding", "v.patch_embd"),
        thirds!("encoder.layers.{layer}.attn.qkv"),
        module!("encoder.layers.{layer}.attn.proj", "v.blk.{layer}.attn_out"),
        unbiased!("encoder.layers.{layer}.norm1", "v.blk.{layer}.ln1"),
        unbiased!("encoder.layers.{layer}.norm2", "v.blk.{layer}.ln2"),
        module!("encoder.layers.{layer}.mlp.fc1", "v.blk.{layer}.ffn_up"),
        module!("encoder.layers.{layer}.mlp.fc2", "v.blk.{layer}.ffn_down"),
        [
            rule("encoder.layers.{layer}.attn.q_norm.weight", "v.blk.{layer}.attn_q_norm.weight")
                .optional(),
            rule("encoder.layers.{layer}.attn.k_norm.weight", "v.blk.{layer}.attn_k_norm.weight")
                .optional(),
            rule("encoder.layers.{layer}.ls1", "v.blk.{layer}.ls1.weight"),
            rule("encoder.layers.{layer}.ls2", "v.blk.{layer}.ls2.weight"),
        ],
        unbiased!("mlp1.0", "mm.model.mlp.0"),
        module!("mlp1.1", "mm.model.mlp.1"),
        module!("mlp1.3", "mm.model.mlp.3"),
        *OF_TRANSFORMERS,
    ),
    prepare: |config, _| {
        for key in ["image_size", "patch_size"] {
            let first = config.vision.get(key).and_then(|size| size.get(0)).cloned();
            if let Some(first) = first {
                config.vision.set(key, first);
            }
        }
        Ok(())
    },
    metadata: entries!(
        [Entry::Text("projector_type", "internvl"), epsilon(1e-6)],
        ACTIVATION,
        [
            Entry::Computed("vision.projector.scale_factor", |config| {
                reciprocal(&config.model, "downsample_ratio").map(Some)
            }),
            Entry::Computed("vision.preproc_min_tiles", |config| tiles(
                config,
                "min_dynamic_patch"
            )),
            Entry::Computed("vision.preproc_max_tiles", |config| tiles(
                config,
                "max_dynamic_patch"
            )),
        ],
    ),
    ..SEES
};

/// What transformers calls otherwise.
const OF_TRANSFORMERS: &[ProjectorRule] = rules!(
    [
        rule("embeddings.cls_token", "v.class_embd"),
        rule("embeddings.position_embeddings", "v.position_embd.weight"),
    ],
    module!("embeddings.patch_embeddings.projection", "v.patch_embd"),
    unbiased!("encoder.layer.{layer}.attention.q_proj", "v.blk.{layer}.attn_q"),
    unbiased!("encoder.layer.{layer}.attention.k_proj", "v.blk.{layer}.attn_k"),
    unbiased!("encoder.layer.{layer}.attention.v_proj", "v.blk.{layer}.attn_v"),
    module!("encoder.layer.{layer}.attention.projection_layer", "v.blk.{layer}.attn_out"),
    unbiased!("encoder.layer.{layer}.layernorm_before", "v.blk.{layer}.ln1"),
    unbiased!("encoder.layer.{layer}.layernorm_after", "v.blk.{layer}.ln2"),
    module!("encoder.layer.{layer}.mlp.fc1", "v.blk.{layer}.ffn_up"),
    module!("encoder.layer.{layer}.mlp.fc2", "v.blk.{layer}.ffn_down"),
    [
        rule("encoder.layer.{layer}.attention.q_norm.weight", "v.blk.{layer}.attn_q_norm.weight")
            .optional(),
        rule("encoder.layer.{layer}.attention.k_norm.weight", "v.blk.{layer}.attn_k_norm.weight")
            .optional(),
        rule("encoder.layer.{layer}.lambda_1", "v.blk.{layer}.ls1.weight"),
        rule("encoder.layer.{layer}.lambda_2", "v.blk.{layer}.ls2.weight"),
    ],
);

/// How many tiles an image becomes; older models do not say.
fn tiles(config: &ProjectorConfig, key: &str) -> Result<Option<qz_tensor::Value>, Error> {
    let tiles = config.model.integer(key, 0..=u64::from(u32::MAX))?.filter(|tiles| *tiles > 0);
    tiles.map(|tiles| number(tiles, &config.model, key)).transpose()
}
