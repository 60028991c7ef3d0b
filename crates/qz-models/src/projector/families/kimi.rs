//! Kimi-VL's MoonViT (`KimiVLModel` in `conversion/kimivl.py`).

use super::*;

pub(super) const KIMI_VL: ProjectorFamily = ProjectorFamily {
    model_types: &["kimi_vl"],
    prefixes: &[("vision_tower.", ""), ("multi_modal_projector.", "")],
    rules: rules!(
        module!("patch_embed.proj", "v.patch_embd"),
        [rule("patch_embed.pos_emb.weight", "v.position_embd.weight").taking(Take::Merged)],
        thirds!("encoder.blocks.{layer}.wqkv"),
        module!("encoder.blocks.{layer}.wo", "v.blk.{layer}.attn_out"),
        module!("encoder.blocks.{layer}.norm0", "v.blk.{layer}.ln1"),
        module!("encoder.blocks.{layer}.norm1", "v.blk.{layer}.ln2"),
        module!("encoder.blocks.{layer}.mlp.fc0", "v.blk.{layer}.ffn_up"),
        module!("encoder.blocks.{layer}.mlp.fc1", "v.blk.{layer}.ffn_down"),
        module!("encoder.final_layernorm", "v.post_ln"),
        module!("pre_norm", "mm.input_norm"),
        module!("linear_1", "mm.1"),
        module!("linear_2", "mm.2"),
    ),
    prepare: |config, _| {
        // Images are of any size; the reference says this one.
        config.vision.set("image_size", (64 * 14).into());
        Ok(())
    },
    metadata: &[
        Entry::Text("projector_type", "kimivl"),
        Entry::Flag("use_gelu"),
        Entry::Count("vision.projector.scale_factor", 2),
        epsilon(1e-5),
    ],
    ..SEES
};
