//! Whisper's encoder, which Qwen 2 Audio, Ultravox and Voxtral hear with
//! (`WhisperEncoderModel` in `conversion/ultravox.py`).

use super::*;

const RULES: &[ProjectorRule] = rules!(
    [
        rule("conv1.weight", "a.conv1d.1.weight").of(Precision::Half),
        rule("conv1.bias", "a.conv1d.1.bias").taking(Take::Column),
        rule("conv2.weight", "a.conv1d.2.weight").of(Precision::Half),
        rule("conv2.bias", "a.conv1d.2.bias").taking(Take::Column),
        rule("embed_positions.weight", "a.position_embd.weight"),
        rule("layers.{layer}.self_attn.k_proj.weight", "a.blk.{layer}.attn_k.weight"),
    ],
    module!("layer_norm", "a.post_ln"),
    module!("layers.{layer}.self_attn.q_proj", "a.blk.{layer}.attn_q"),
    module!("layers.{layer}.self_attn.v_proj", "a.blk.{layer}.attn_v"),
    module!("layers.{layer}.self_attn.out_proj", "a.blk.{layer}.attn_out"),
    module!("layers.{layer}.self_attn_layer_norm", "a.blk.{layer}.ln1"),
    module!("layers.{layer}.final_layer_norm", "a.blk.{layer}.ln2"),
    module!("layers.{layer}.fc1", "a.blk.{layer}.ffn_up"),
    module!("layers.{layer}.fc2", "a.blk.{layer}.ffn_down"),
);

const PREFIXES: &[(&str, &str)] = &[
    ("audio_tower.", ""),
    ("model.audio_tower.", ""),
    ("multi_modal_projector.", "mm."),
    ("model.multi_modal_projector.", "mm."),
];

const MEL_BINS: Entry =
    Entry::Integer("audio.num_mel_bins", Of::Audio, "num_mel_bins", Absent::Fault);
const EPSILON: Entry = Entry::Number(
    "audio.attention.layer_norm_epsilon",
    Of::Audio,
    "layer_norm_eps",
    Absent::Default(1e-5),
);

/// Sizes under the names that most have.
fn renamed(config: &mut ProjectorConfig) {
    for (theirs, common) in [
        ("d_model", "hidden_size"),
        ("encoder_ffn_dim", "intermediate_size"),
        ("encoder_attention_heads", "num_attention_heads"),
    ] {
        if let Some(size) = config.audio.get(theirs).cloned() {
            config.audio.set_default(common, size);
        }
    }
}

/// A family that hears with it.
const HEARS: ProjectorFamily = ProjectorFamily {
    towers: &[Tower::new(TowerKind::Audio, &["whisper_config", "audio_config"])],
    prefixes: PREFIXES,
    prepare: |config, _| {
        renamed(config);
        Ok(())
    },
    ..SEES
};

pub(super) const QWEN_2_AUDIO: ProjectorFamily = ProjectorFamily {
    model_types: &["qwen2_audio"],
    towers: &[Tower::new(TowerKind::Audio, &["audio_config"]).with(&[Defaults {
        model_type: "qwen2_audio_encoder",
        sizes: &[
            ("num_mel_bins", 128),
            ("encoder_layers", 32),
            ("encoder_attention_heads", 20),
            ("encoder_ffn_dim", 5120),
            ("d_model", 1280),
        ],
        words: &[],
    }])],
    rules: rules!(*RULES, module!("mm.linear", "mm.a.fc")),
    metadata: &[Entry::Text("projector_type", "qwen2a"), MEL_BINS, EPSILON],
    ..HEARS
};

pub(super) const ULTRAVOX: ProjectorFamily = ProjectorFamily {
    model_types: &["ultravox"],
    rules: rules!(
        *RULES,
        [
            rule("mm.ln_pre.weight", "mm.a.norm_pre.weight"),
            rule("mm.linear_1.weight", "mm.a.mlp.1.weight"),
            rule("mm.ln_mid.weight", "mm.a.norm_mid.weight"),
            rule("mm.linear_2.weight", "mm.a.mlp.2.weight"),
        ],
    ),
    metadata: &[
        Entry::Text("projector_type", "ultravox"),
        MEL_BINS,
        EPSILON,
        Entry::Integer("audio.projector.stack_factor", Of::Model, "stack_factor", Absent::Fault),
    ],
    ..HEARS
};

pub(super) const VOXTRAL: ProjectorFamily = ProjectorFamily {
    model_types: &["voxtral"],
    towers: &[Tower::new(TowerKind::Audio, &["audio_config"]).with(&[Defaults {
        model_type: "voxtral_encoder",
        sizes: &[
            ("num_mel_bins", 128),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 20),
            ("intermediate_size", 5120),
            ("hidden_size", 1280),
        ],
        words: &[],
    }])],
    rules: rules!(
        *RULES,
        [
            rule("mm.linear_1.weight", "mm.a.mlp.1.weight"),
            rule("mm.linear_2.weight", "mm.a.mlp.2.weight"),
        ],
    ),
    metadata: &[
        Entry::Text("projector_type", "voxtral"),
        MEL_BINS,
        EPSILON,
        // The inner width by the outer one, in all of them.
        Entry::Count("audio.projector.stack_factor", 4),
    ],
    ..HEARS
};
