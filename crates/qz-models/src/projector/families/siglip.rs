//! SigLIP, which Gemma 3, Idefics 3 and LFM2 see with.

use super::*;

/// Its layers.
const LAYERS: &[ProjectorRule] = rules!(
    module!("post_layernorm", "v.post_ln"),
    module!("encoder.layers.{layer}.layer_norm1", "v.blk.{layer}.ln1"),
    module!("encoder.layers.{layer}.layer_norm2", "v.blk.{layer}.ln2"),
    module!("encoder.layers.{layer}.self_attn.q_proj", "v.blk.{layer}.attn_q"),
    module!("encoder.layers.{layer}.self_attn.k_proj", "v.blk.{layer}.attn_k"),
    module!("encoder.layers.{layer}.self_attn.v_proj", "v.blk.{layer}.attn_v"),
    module!("encoder.layers.{layer}.self_attn.out_proj", "v.blk.{layer}.attn_out"),
    module!("encoder.layers.{layer}.mlp.fc1", "v.blk.{layer}.ffn_up"),
    module!("encoder.layers.{layer}.mlp.fc2", "v.blk.{layer}.ffn_down"),
);

const PATCHES: ProjectorRule = rule("embeddings.patch_embedding.weight", "v.patch_embd.weight");

/// What stands before the layers, but for patches.
const POSITIONS: [ProjectorRule; 2] = [
    rule("embeddings.patch_embedding.bias", "v.patch_embd.bias"),
    rule("embeddings.position_embedding.weight", "v.position_embd.weight"),
];

/// All of it, with patches in f32.
pub(super) const SIGLIP: &[ProjectorRule] =
    rules!([PATCHES.of(Precision::Single)], POSITIONS, *LAYERS);

/// Idefics 3 and SmolVLM (`SmolVLMModel` in `conversion/smolvlm.py`).
pub(super) const IDEFICS_3: ProjectorFamily = ProjectorFamily {
    model_types: &["idefics3", "smolvlm"],
    towers: &[Tower::new(TowerKind::Vision, &["vision_config"]).with(&[Defaults {
        model_type: "smolvlm_vision",
        sizes: &[("hidden_size", 1152), ("num_attention_heads", 16), ("intermediate_size", 3072)],
        words: &[],
    }])],
    prefixes: &[("model.vision_model.", ""), ("model.connector.", "")],
    rules: rules!(*SIGLIP, [rule("modality_projection.proj.weight", "mm.model.fc.weight")]),
    metadata: &[
        Entry::Text("projector_type", "idefics3"),
        epsilon(1e-5),
        Entry::Integer(
            "vision.projector.scale_factor",
            Of::Model,
            "scale_factor",
            Absent::Default(2),
        ),
        Entry::Flag("use_gelu"),
        Entry::Computed("vision.preproc_image_size", |config| {
            let image = config.first_integer(TowerKind::Vision, &["image_size"])?;
            let size = config.preprocessor.object("size")?;
            let edge = size.map(|size| size.integer("longest_edge", 1..=1 << 32)).transpose()?;
            let edge = edge.flatten().unwrap_or(image);
            number(edge, &config.vision, "image_size").map(Some)
        }),
    ],
    ..SEES
};

/// LFM2-VL (`LFM2VLModel` in `conversion/lfm2.py`): patches are rows of pixels.
pub(super) const LFM_2_VL: ProjectorFamily = ProjectorFamily {
    model_types: &["lfm2_vl"],
    towers: &[Tower::new(TowerKind::Vision, &["vision_config"]).with(&[Defaults {
        model_type: "siglip2_vision_model",
        sizes: &[
            ("hidden_size", 768),
            ("intermediate_size", 3072),
            ("num_hidden_layers", 12),
            ("num_attention_heads", 12),
            ("patch_size", 16),
        ],
        words: &[],
    }])],
    prefixes: &[
        ("model.vision_tower.vision_model.", ""),
        ("model.vision_tower.", ""),
        ("model.multi_modal_projector.", ""),
        ("vision_tower.vision_model.", ""),
        ("vision_tower.", ""),
        ("multi_modal_projector.", ""),
    ],
    rules: rules!(
        [PATCHES.taking(Take::Filters)],
        POSITIONS,
        *LAYERS,
        [
            rule("layer_norm.weight", "mm.input_norm.weight").optional(),
            rule("layer_norm.bias", "mm.input_norm.bias").optional(),
        ],
        unbiased!("linear_1", "mm.1"),
        unbiased!("linear_2", "mm.2"),
    ),
    prepare: |config, _| {
        // Images are of any size; the reference says this one.
        config.vision.set("image_size", 256.into());
        Ok(())
    },
    metadata: &[
        Entry::Text("projector_type", "lfm2"),
        epsilon(1e-6),
        Entry::Integer(
            "vision.projector.scale_factor",
            Of::Model,
            "downsample_factor",
            Absent::Default(2),
        ),
        Entry::Flag("use_gelu"),
        Entry::Computed("vision.block_count", |config| {
            const KEY: &str = "vision_feature_layer";
            // Counted from the end; layers behind it are not computed.
            let layer = i64::from(config.model.signed_integer(KEY)?.unwrap_or(-1));
            let layers = config.layers(TowerKind::Vision)?;
            let used = layers.checked_add_signed(layer + 1).filter(|_| layer < 0);
            let fault = || config.model.fault(KEY, format!("is {layer}, of {layers} layers"));
            number(used.ok_or_else(fault)?, &config.model, KEY).map(Some)
        }),
    ],
    ..SEES
};
