//! Gemma 3, and Gemma 4, which may hear, too.

use super::siglip::SIGLIP;
use super::*;

/// Gemma 3 (`Gemma3VisionModel` in `conversion/gemma.py`).
pub(super) const GEMMA_3: ProjectorFamily = ProjectorFamily {
    model_types: &["gemma3"],
    // transformers 5 leaves a part of the names out.
    prefixes: &[
        ("vision_tower.vision_model.", ""),
        ("vision_tower.", ""),
        ("multi_modal_projector.", ""),
        ("model.vision_tower.vision_model.", ""),
        ("model.vision_tower.", ""),
        ("model.multi_modal_projector.", ""),
    ],
    dropped: &["head."],
    rules: rules!(
        *SIGLIP,
        [
            rule("mm_input_projection_weight", "mm.input_projection.weight").of(Precision::Half),
            rule("mm_soft_emb_norm.weight", "mm.soft_emb_norm.weight").taking(Take::AddOne),
        ],
    ),
    metadata: &[
        Entry::Text("projector_type", "gemma3"),
        epsilon(1e-6),
        Entry::Flag("use_gelu"),
        Entry::Computed("vision.projector.scale_factor", |config| {
            // How many patches of a side become one, where it is not the usual number.
            let tokens = config.preprocessor.integer("image_seq_length", 1..=1 << 32)?;
            let side = (tokens.unwrap_or(256) as f64).sqrt() as u64;
            let image = config.first_integer(TowerKind::Vision, &["image_size"])?;
            let patches = image / config.first_integer(TowerKind::Vision, &["patch_size"])?;
            let scale = patches / side.max(1);
            let is_told = scale > 0 && scale != 4;
            is_told.then(|| number(scale, &config.vision, "image_size")).transpose()
        }),
    ],
    ..SEES
};

/// A matrix whose inputs and outputs may be kept within bounds.
macro_rules! clipped {
    ($source:literal, $target:literal) => {
        [
            rule(concat!($source, ".linear.weight"), concat!($target, ".weight")),
            rule(concat!($source, ".input_max"), concat!($target, ".input_max")).optional(),
            rule(concat!($source, ".input_min"), concat!($target, ".input_min")).optional(),
            rule(concat!($source, ".output_max"), concat!($target, ".output_max")).optional(),
            rule(concat!($source, ".output_min"), concat!($target, ".output_min")).optional(),
        ]
    };
}

const GEMMA_4_SEES: &[ProjectorRule] = rules!(
    [
        rule("v.patch_embedder.input_proj.weight", "v.patch_embd.weight").taking(Take::Filters),
        rule("v.patch_embedder.position_embedding_table", "v.position_embd.weight"),
        rule("v.std_bias", "v.std_bias").optional(),
        rule("v.std_scale", "v.std_scale").optional(),
        rule("v.embedding_projection.weight", "mm.input_projection.weight"),
        rule("v.encoder.layers.{layer}.input_layernorm.weight", "v.blk.{layer}.ln1.weight"),
        rule(
            "v.encoder.layers.{layer}.pre_feedforward_layernorm.weight",
            "v.blk.{layer}.ln2.weight",
        ),
        rule(
            "v.encoder.layers.{layer}.post_attention_layernorm.weight",
            "v.blk.{layer}.attn_post_norm.weight",
        ),
        rule(
            "v.encoder.layers.{layer}.post_feedforward_layernorm.weight",
            "v.blk.{layer}.ffn_post_norm.weight",
        ),
        rule(
            "v.encoder.layers.{layer}.self_attn.q_norm.weight",
            "v.blk.{layer}.attn_q_norm.weight"
        ),
        rule(
            "v.encoder.layers.{layer}.self_attn.k_norm.weight",
            "v.blk.{layer}.attn_k_norm.weight"
        ),
        rule("v.encoder.layers.{layer}.layer_scalar", "v.blk.{layer}.out_scale.weight").optional(),
    ],
    clipped!("v.encoder.layers.{layer}.self_attn.q_proj", "v.blk.{layer}.attn_q"),
    clipped!("v.encoder.layers.{layer}.self_attn.k_proj", "v.blk.{layer}.attn_k"),
    clipped!("v.encoder.layers.{layer}.self_attn.v_proj", "v.blk.{layer}.attn_v"),
    clipped!("v.encoder.layers.{layer}.self_attn.o_proj", "v.blk.{layer}.attn_out"),
    clipped!("v.encoder.layers.{layer}.mlp.gate_proj", "v.blk.{layer}.ffn_gate"),
    clipped!("v.encoder.layers.{layer}.mlp.up_proj", "v.blk.{layer}.ffn_up"),
    clipped!("v.encoder.layers.{layer}.mlp.down_proj", "v.blk.{layer}.ffn_down"),
);

const GEMMA_4_HEARS: &[ProjectorRule] = rules!(
    [
        rule("a.subsample_conv_projection.layer0.conv.weight", "a.conv1d.0.weight")
            .of(Precision::Single),
        rule("a.subsample_conv_projection.layer0.norm.weight", "a.conv1d.0.norm.weight"),
        rule("a.subsample_conv_projection.layer1.conv.weight", "a.conv1d.1.weight")
            .of(Precision::Single),
        rule("a.subsample_conv_projection.layer1.norm.weight", "a.conv1d.1.norm.weight"),
        rule("a.subsample_conv_projection.input_proj_linear.weight", "a.input_projection.weight")
            .of(Precision::Single),
        rule(
            "a.layers.{layer}.feed_forward1.pre_layer_norm.weight",
            "a.blk.{layer}.ffn_norm.weight"
        ),
        rule(
            "a.layers.{layer}.feed_forward1.post_layer_norm.weight",
            "a.blk.{layer}.ffn_post_norm.weight",
        ),
        rule(
            "a.layers.{layer}.feed_forward2.pre_layer_norm.weight",
            "a.blk.{layer}.ffn_norm_1.weight",
        ),
        rule(
            "a.layers.{layer}.feed_forward2.post_layer_norm.weight",
            "a.blk.{layer}.ffn_post_norm_1.weight",
        ),
        rule("a.layers.{layer}.lconv1d.pre_layer_norm.weight", "a.blk.{layer}.conv_norm.weight"),
        rule("a.layers.{layer}.lconv1d.conv_norm.weight", "a.blk.{layer}.norm_conv.weight"),
        rule("a.layers.{layer}.lconv1d.depthwise_conv1d.weight", "a.blk.{layer}.conv_dw.weight")
            .taking(Take::Squeezed)
            .of(Precision::Single),
        rule("a.layers.{layer}.norm_pre_attn.weight", "a.blk.{layer}.attn_pre_norm.weight"),
        rule("a.layers.{layer}.norm_post_attn.weight", "a.blk.{layer}.attn_post_norm.weight"),
        rule("a.layers.{layer}.norm_out.weight", "a.blk.{layer}.ln2.weight"),
        rule("a.layers.{layer}.self_attn.per_dim_scale", "a.blk.{layer}.per_dim_scale.weight")
            .taking(Take::Softplus),
        rule(
            "a.layers.{layer}.self_attn.relative_k_proj.weight",
            "a.blk.{layer}.attn_k_rel.weight"
        ),
        rule("a.embedding_projection.weight", "mm.a.input_projection.weight"),
    ],
    module!("a.output_proj", "a.pre_encode.out"),
    clipped!("a.layers.{layer}.feed_forward1.ffw_layer_1", "a.blk.{layer}.ffn_up"),
    clipped!("a.layers.{layer}.feed_forward1.ffw_layer_2", "a.blk.{layer}.ffn_down"),
    clipped!("a.layers.{layer}.feed_forward2.ffw_layer_1", "a.blk.{layer}.ffn_up_1"),
    clipped!("a.layers.{layer}.feed_forward2.ffw_layer_2", "a.blk.{layer}.ffn_down_1"),
    clipped!("a.layers.{layer}.lconv1d.linear_start", "a.blk.{layer}.conv_pw1"),
    clipped!("a.layers.{layer}.lconv1d.linear_end", "a.blk.{layer}.conv_pw2"),
    clipped!("a.layers.{layer}.self_attn.q_proj", "a.blk.{layer}.attn_q"),
    clipped!("a.layers.{layer}.self_attn.k_proj", "a.blk.{layer}.attn_k"),
    clipped!("a.layers.{layer}.self_attn.v_proj", "a.blk.{layer}.attn_v"),
    clipped!("a.layers.{layer}.self_attn.post", "a.blk.{layer}.attn_out"),
);

/// Gemma 4 (`Gemma4VisionAudioModel` in `conversion/gemma.py`). Larger ones do not hear.
pub(super) const GEMMA_4: ProjectorFamily = ProjectorFamily {
    model_types: &["gemma4"],
    towers: &[
        Tower::new(TowerKind::Vision, &["vision_config"]).with(&[Defaults {
            model_type: "gemma4_vision",
            sizes: &[
                ("hidden_size", 768),
                ("intermediate_size", 3072),
                ("num_hidden_layers", 16),
                ("num_attention_heads", 12),
                ("patch_size", 16),
            ],
            words: &[],
        }]),
        Tower::new(TowerKind::Audio, &["audio_config"]).optional().with(&[Defaults {
            model_type: "gemma4_audio",
            sizes: &[("hidden_size", 1024), ("num_hidden_layers", 12), ("num_attention_heads", 8)],
            words: &[],
        }]),
    ],
    prefixes: &[
        ("model.vision_tower.", "v."),
        ("model.embed_vision.", "v."),
        ("model.audio_tower.", "a."),
        ("model.embed_audio.", "a."),
    ],
    rules: rules!(*GEMMA_4_SEES, *GEMMA_4_HEARS),
    sizes: &[
        (".ln1.weight", "hidden_size"),
        (".attn_pre_norm.weight", "hidden_size"),
        (".ffn_gate.weight", "intermediate_size"),
    ],
    prepare: |config, _| {
        // Images are of any size; the reference says this one.
        config.vision.set("image_size", 224.into());
        if config.has(TowerKind::Audio) {
            let width = config.first_integer(TowerKind::Audio, &["hidden_size"])?;
            config.audio.set("intermediate_size", (width * 4).into());
        }
        Ok(())
    },
    metadata: &[
        Entry::Text("vision.projector_type", "gemma4v"),
        epsilon(1e-6),
        Entry::OfAudio(&Entry::Text("audio.projector_type", "gemma4a")),
        Entry::OfAudio(&Entry::Integer(
            "audio.num_mel_bins",
            Of::Audio,
            "input_feat_size",
            Absent::Default(128),
        )),
        Entry::OfAudio(&Entry::Number(
            "audio.attention.layer_norm_epsilon",
            Of::Audio,
            "layer_norm_eps",
            Absent::Default(1e-6),
        )),
    ],
    ..SEES
};
