//! Llama 4 (`Llama4VisionModel` in `conversion/llama4.py`).

use super::*;

pub(super) const LLAMA_4: ProjectorFamily = ProjectorFamily {
    model_types: &["llama4"],
    towers: &[Tower::new(TowerKind::Vision, &["vision_config"]).with(&[Defaults {
        model_type: "llama4_vision_model",
        sizes: &[
            ("hidden_size", 768),
            ("intermediate_size", 5632),
            ("num_hidden_layers", 34),
            ("num_attention_heads", 16),
            ("image_size", 448),
            ("patch_size", 14),
        ],
        words: &[("hidden_act", "gelu")],
    }])],
    prefixes: &[
        ("vision_model.", ""),
        ("multi_modal_projector.", ""),
        ("model.vision_model.", ""),
        ("model.multi_modal_projector.", ""),
    ],
    rules: rules!(
        [
            rule("class_embedding", "v.class_embd"),
            rule("patch_embedding.linear.weight", "v.patch_embd.weight"),
            rule("positional_embedding_vlm", "v.position_embd.weight"),
        ],
        module!("layernorm_pre", "v.pre_ln"),
        module!("layernorm_post", "v.post_ln"),
        module!("model.layers.{layer}.input_layernorm", "v.blk.{layer}.ln1"),
        // The reference calls it `attn_post_norm`, which llama.cpp reads as Gemma 4's.
        module!("model.layers.{layer}.post_attention_layernorm", "v.blk.{layer}.ln2"),
        module!("model.layers.{layer}.self_attn.q_proj", "v.blk.{layer}.attn_q"),
        module!("model.layers.{layer}.self_attn.k_proj", "v.blk.{layer}.attn_k"),
        module!("model.layers.{layer}.self_attn.v_proj", "v.blk.{layer}.attn_v"),
        module!("model.layers.{layer}.self_attn.o_proj", "v.blk.{layer}.attn_out"),
        module!("model.layers.{layer}.mlp.fc1", "v.blk.{layer}.ffn_up"),
        module!("model.layers.{layer}.mlp.fc2", "v.blk.{layer}.ffn_down"),
        [
            rule("vision_adapter.mlp.fc1.weight", "mm.model.mlp.1.weight"),
            rule("vision_adapter.mlp.fc2.weight", "mm.model.mlp.2.weight"),
            rule("linear_1.weight", "mm.model.fc.weight"),
        ],
    ),
    metadata: &[
        Entry::Text("projector_type", "llama4"),
        Entry::Number(
            "vision.attention.layer_norm_epsilon",
            Of::Vision,
            "norm_eps",
            Absent::Default(1e-5),
        ),
        Entry::Computed("vision.projector.scale_factor", |config| {
            const KEY: &str = "pixel_shuffle_ratio";
            match config.vision.get(KEY) {
                Some(_) => reciprocal(&config.vision, KEY).map(Some),
                None => Ok(Some(2u32.into())),
            }
        }),
        ACTIVATION[1],
    ],
    ..SEES
};
