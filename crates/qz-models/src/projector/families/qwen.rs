//! Qwen 2 to 3.5, as far as they see.

use qz_tensor::{Array, Value};
use serde_json::json;

use super::*;

/// What the towers of Qwen 2 and 2.5 VL share; each filter sees two frames.
const QWEN_2_LAYERS: &[ProjectorRule] = rules!(
    [
        rule("patch_embed.proj.weight", "v.patch_embd.weight").taking(Take::Frame(0)),
        rule("patch_embed.proj.weight", "v.patch_embd.weight.1").taking(Take::Frame(1)),
        rule("merger.ln_q.weight", "v.post_ln.weight"),
        rule("merger.ln_q.bias", "v.post_ln.bias").optional(),
        rule("blocks.{layer}.norm1.weight", "v.blk.{layer}.ln1.weight"),
        rule("blocks.{layer}.norm1.bias", "v.blk.{layer}.ln1.bias").optional(),
        rule("blocks.{layer}.norm2.weight", "v.blk.{layer}.ln2.weight"),
        rule("blocks.{layer}.norm2.bias", "v.blk.{layer}.ln2.bias").optional(),
    ],
    thirds!("blocks.{layer}.attn.qkv"),
    module!("blocks.{layer}.attn.proj", "v.blk.{layer}.attn_out"),
    module!("merger.mlp.0", "mm.0"),
    module!("merger.mlp.2", "mm.2"),
);

/// What both call otherwise than most.
fn prepare_qwen_2(config: &mut ProjectorConfig) {
    let vision = &mut config.vision;
    vision.set_default("image_size", json!(560));
    if let Some(width) = vision.get("embed_dim").cloned() {
        let text_width = vision.get("hidden_size").cloned().unwrap_or_default();
        vision.set("intermediate_size", text_width);
        vision.set("hidden_size", width);
    }
}

/// The epsilon of the text's norms.
const fn epsilon_of(part: Of) -> Entry {
    const KEY: &str = "vision.attention.layer_norm_epsilon";
    Entry::Number(KEY, part, "rms_norm_eps", Absent::Default(1e-6))
}

const VISUAL: &[(&str, &str)] = &[("model.visual.", ""), ("visual.", "")];

/// Qwen 2 VL (`Qwen2VLVisionModel` in `conversion/qwenvl.py`).
pub(super) const QWEN_2_VL: ProjectorFamily = ProjectorFamily {
    model_types: &["qwen2_vl"],
    prefixes: VISUAL,
    rules: rules!(
        *QWEN_2_LAYERS,
        module!("blocks.{layer}.mlp.fc1", "v.blk.{layer}.ffn_up"),
        module!("blocks.{layer}.mlp.fc2", "v.blk.{layer}.ffn_down"),
    ),
    // What the file calls the inner width is the text's.
    sizes: &[(".ln1.weight", "hidden_size")],
    prepare: |config, _| {
        prepare_qwen_2(config);
        Ok(())
    },
    metadata: &[Entry::Text("projector_type", "qwen2vl_merger"), epsilon_of(Of::Model)],
    ..SEES
};

/// Qwen 2.5 VL, likewise; most of its layers see a window.
pub(super) const QWEN_2_5_VL: ProjectorFamily = ProjectorFamily {
    model_types: &["qwen2_5_vl"],
    rules: rules!(
        *QWEN_2_LAYERS,
        module!("blocks.{layer}.mlp.gate_proj", "v.blk.{layer}.ffn_gate"),
        module!("blocks.{layer}.mlp.up_proj", "v.blk.{layer}.ffn_up"),
        module!("blocks.{layer}.mlp.down_proj", "v.blk.{layer}.ffn_down"),
    ),
    sizes: SIZES,
    metadata: &[
        Entry::Text("projector_type", "qwen2.5vl_merger"),
        Entry::Flag("use_silu"),
        Entry::Computed("vision.n_wa_pattern", |config| {
            number(window_pattern(config)?, &config.vision, FULL).map(Some)
        }),
        epsilon_of(Of::Model),
    ],
    ..QWEN_2_VL
};

/// The layers that see all of an image.
const FULL: &str = "fullatt_block_indexes";

/// Of so many layers one sees all of an image.
fn window_pattern(config: &ProjectorConfig) -> Result<u64, Error> {
    let full = indexes(config, FULL)?;
    let first = full.first().ok_or_else(|| config.vision.fault(FULL, "is missing"))?;
    let pattern = first + 1;
    if full.windows(2).any(|pair| pair[1] != pair[0] + pattern) {
        let problem = format!("the layers are not {pattern} apart, as the first is");
        return Err(config.vision.fault(FULL, problem));
    }
    Ok(pattern)
}

fn indexes(config: &ProjectorConfig, key: &str) -> Result<Vec<u64>, Error> {
    let Some(list) = config.vision.get(key) else { return Ok(Vec::new()) };
    let numbers = list.as_array().map(|list| list.iter().map(serde_json::Value::as_u64).collect());
    numbers.flatten().ok_or_else(|| config.vision.fault(key, "expected a list of layers"))
}

/// Qwen 3 VL and 3.5 (`Qwen3VLVisionModel` in `conversion/qwen3vl.py`): what some layers see
/// is added to the text's first layers.
pub(super) const QWEN_3_VL: ProjectorFamily = ProjectorFamily {
    model_types: &["qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"],
    prefixes: VISUAL,
    rules: rules!(
        [
            rule("patch_embed.proj.weight", "v.patch_embd.weight").taking(Take::Frame(0)),
            rule("patch_embed.proj.weight", "v.patch_embd.weight.1").taking(Take::Frame(1)),
            rule("patch_embed.proj.bias", "v.patch_embd.bias"),
            rule("pos_embed.weight", "v.position_embd.weight"),
        ],
        module!("blocks.{layer}.norm1", "v.blk.{layer}.ln1"),
        module!("blocks.{layer}.norm2", "v.blk.{layer}.ln2"),
        module!("blocks.{layer}.attn.qkv", "v.blk.{layer}.attn_qkv"),
        module!("blocks.{layer}.attn.proj", "v.blk.{layer}.attn_out"),
        module!("blocks.{layer}.mlp.linear_fc1", "v.blk.{layer}.ffn_up"),
        module!("blocks.{layer}.mlp.linear_fc2", "v.blk.{layer}.ffn_down"),
        module!("merger.norm", "v.post_ln"),
        module!("merger.linear_fc1", "mm.0"),
        module!("merger.linear_fc2", "mm.2"),
        [
            rule(DEEP_NORM[0], "v.deepstack.{layer}.norm.weight").optional(),
            rule(DEEP_NORM[1], "v.deepstack.{layer}.norm.bias").optional(),
            rule(DEEP_FIRST[0], "v.deepstack.{layer}.fc1.weight").optional(),
            rule(DEEP_FIRST[1], "v.deepstack.{layer}.fc1.bias").optional(),
            rule(DEEP_SECOND[0], "v.deepstack.{layer}.fc2.weight").optional(),
            rule(DEEP_SECOND[1], "v.deepstack.{layer}.fc2.bias").optional(),
        ],
    ),
    prepare: |config, _| {
        let vision = &mut config.vision;
        let positions = vision.integer("num_position_embeddings", 1..=1 << 32)?.unwrap_or(2304);
        let patch = vision.integer("patch_size", 1..=1 << 16)?.unwrap_or(16);
        let side = (positions as f64).sqrt() * patch as f64;
        vision.set_default("image_size", json!(side as u64));
        Ok(())
    },
    metadata: &[
        Entry::Text("projector_type", "qwen3vl_merger"),
        Entry::Flag("use_gelu"),
        Entry::Integer(
            "vision.spatial_merge_size",
            Of::Vision,
            "spatial_merge_size",
            Absent::LeftOut,
        ),
        epsilon_of(Of::Text),
        Entry::Computed("vision.is_deepstack_layers", |config| {
            let deep = indexes(config, DEEP_STACK)?;
            let layers = 0..config.layers(TowerKind::Vision)?;
            let is_deep: Vec<bool> = layers.map(|layer| deep.contains(&layer)).collect();
            Ok(Some(Value::Array(Array::Bool(is_deep))))
        }),
    ],
    layer_of: |config, source, layer| {
        if !source.0.starts_with("deepstack_") {
            return Ok(layer);
        }
        let deep = indexes(config, DEEP_STACK)?;
        let own = deep.get(layer.0 as usize).and_then(|layer| u32::try_from(*layer).ok());
        own.map(LayerIndex).ok_or_else(|| {
            let problem = format!("names {} layers, and there are tensors of more", deep.len());
            config.vision.fault(DEEP_STACK, problem)
        })
    },
    ..SEES
};

const DEEP_STACK: &str = "deepstack_visual_indexes";
const DEEP_NORM: [&str; 2] =
    ["deepstack_merger_list.{layer}.norm.weight", "deepstack_merger_list.{layer}.norm.bias"];
const DEEP_FIRST: [&str; 2] = [
    "deepstack_merger_list.{layer}.linear_fc1.weight",
    "deepstack_merger_list.{layer}.linear_fc1.bias",
];
const DEEP_SECOND: [&str; 2] = [
    "deepstack_merger_list.{layer}.linear_fc2.weight",
    "deepstack_merger_list.{layer}.linear_fc2.bias",
];
