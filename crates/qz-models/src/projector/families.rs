//! The families of projectors: names, and what their configurations say.

use qz_tensor::{Array, Value};
use serde_json::json;

use super::metadata::{first_integer, number};
use super::{Precision, ProjectorConfig, ProjectorFamily, ProjectorRule, Take};
use crate::error::Error;
use crate::lists::{count, joined};
use crate::rules::{LayerIndex, NamePattern};

/// Every family.
pub(super) const FAMILIES: &[ProjectorFamily] =
    &[GEMMA_3, QWEN_2_VL, QWEN_2_5_VL, QWEN_3_VL, IDEFICS_3];

const fn rule(source: &'static str, target: &'static str) -> ProjectorRule {
    ProjectorRule {
        source: NamePattern(source),
        target: NamePattern(target),
        take: Take::All,
        precision: Precision::OfFile,
        is_required: true,
    }
}

impl ProjectorRule {
    const fn taking(self, take: Take) -> Self {
        Self { take, ..self }
    }

    const fn of(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    const fn optional(self) -> Self {
        Self { is_required: false, ..self }
    }
}

/// The weight and the bias of a module.
macro_rules! module {
    ($source:literal, $target:literal) => {
        [
            rule(concat!($source, ".weight"), concat!($target, ".weight")),
            rule(concat!($source, ".bias"), concat!($target, ".bias")),
        ]
    };
}

/// Lists of rules, one behind the other.
macro_rules! rules {
    ($($list:expr),+ $(,)?) => {{
        const LISTS: &[&[ProjectorRule]] = &[$(&$list),+];
        const ALL: [ProjectorRule; count(LISTS)] = joined(LISTS);
        &ALL
    }};
}

/// The layer is the one that the name says.
fn same_layer(
    _: &ProjectorConfig,
    _: &NamePattern,
    layer: LayerIndex,
) -> Result<LayerIndex, Error> {
    Ok(layer)
}

fn unchanged(_: &mut ProjectorConfig) -> Result<(), Error> {
    Ok(())
}

/// The layers of SigLIP, which Gemma 3 and Idefics 3 see with; embeddings stay in f32.
const SIGLIP: &[ProjectorRule] = rules!(
    [
        rule("embeddings.patch_embedding.weight", "v.patch_embd.weight").of(Precision::Single),
        rule("embeddings.patch_embedding.bias", "v.patch_embd.bias"),
        rule("embeddings.position_embedding.weight", "v.position_embd.weight")
            .of(Precision::Single),
    ],
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

/// Gemma 3 (`Gemma3VisionModel` in `conversion/gemma.py`).
const GEMMA_3: ProjectorFamily = ProjectorFamily {
    model_types: &["gemma3"],
    // transformers 5 leaves a part of the names out.
    prefixes: &[
        "vision_tower.vision_model.",
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.vision_model.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ],
    dropped: &["head."],
    rules: rules!(
        *SIGLIP,
        [
            rule("mm_input_projection_weight", "mm.input_projection.weight").of(Precision::Half),
            rule("mm_soft_emb_norm.weight", "mm.soft_emb_norm.weight").taking(Take::AddOne),
        ],
    ),
    prepare: unchanged,
    metadata: |config| {
        let epsilon = config.vision.number("layer_norm_eps")?.unwrap_or(1e-6);
        let mut entries = vec![
            ("projector_type", "gemma3".into()),
            ("vision.attention.layer_norm_epsilon", (epsilon as f32).into()),
            ("use_gelu", true.into()),
        ];
        // How many patches of a side become one, where it is not the usual number.
        let tokens = config.preprocessor.integer("image_seq_length", 1..=1 << 32)?.unwrap_or(256);
        let side = (tokens as f64).sqrt() as u64;
        let image = first_integer(&config.vision, &["image_size"])?;
        let patches = image / first_integer(&config.vision, &["patch_size"])?;
        let scale = patches / side.max(1);
        if scale > 0 && scale != 4 {
            let value = number(scale, &config.vision, "image_size")?;
            entries.push(("vision.projector.scale_factor", value));
        }
        Ok(entries)
    },
    layer_of: same_layer,
};

/// What the towers of Qwen 2 and 2.5 VL share; each filter sees two frames.
const QWEN_2_LAYERS: &[ProjectorRule] = rules!(
    [
        rule("patch_embed.proj.weight", "v.patch_embd.weight")
            .taking(Take::Frame(0))
            .of(Precision::HalfOrSingle),
        rule("patch_embed.proj.weight", "v.patch_embd.weight.1")
            .taking(Take::Frame(1))
            .of(Precision::HalfOrSingle),
        rule("blocks.{layer}.attn.qkv.weight", "v.blk.{layer}.attn_q.weight")
            .taking(Take::Third(0)),
        rule("blocks.{layer}.attn.qkv.weight", "v.blk.{layer}.attn_k.weight")
            .taking(Take::Third(1)),
        rule("blocks.{layer}.attn.qkv.weight", "v.blk.{layer}.attn_v.weight")
            .taking(Take::Third(2)),
        rule("blocks.{layer}.attn.qkv.bias", "v.blk.{layer}.attn_q.bias").taking(Take::Third(0)),
        rule("blocks.{layer}.attn.qkv.bias", "v.blk.{layer}.attn_k.bias").taking(Take::Third(1)),
        rule("blocks.{layer}.attn.qkv.bias", "v.blk.{layer}.attn_v.bias").taking(Take::Third(2)),
        rule("merger.ln_q.weight", "v.post_ln.weight"),
        rule("merger.ln_q.bias", "v.post_ln.bias").optional(),
        rule("blocks.{layer}.norm1.weight", "v.blk.{layer}.ln1.weight"),
        rule("blocks.{layer}.norm1.bias", "v.blk.{layer}.ln1.bias").optional(),
        rule("blocks.{layer}.norm2.weight", "v.blk.{layer}.ln2.weight"),
        rule("blocks.{layer}.norm2.bias", "v.blk.{layer}.ln2.bias").optional(),
    ],
    module!("blocks.{layer}.attn.proj", "v.blk.{layer}.attn_out"),
    module!("merger.mlp.0", "mm.0"),
    module!("merger.mlp.2", "mm.2"),
);

/// What both call otherwise than most.
fn prepare_qwen_2(config: &mut ProjectorConfig) -> Result<(), Error> {
    let vision = &mut config.vision;
    vision.set_default("image_size", json!(560));
    if let Some(width) = vision.get("embed_dim").cloned() {
        let text_width = vision.get("hidden_size").cloned().unwrap_or_default();
        vision.set("intermediate_size", text_width);
        vision.set("hidden_size", width);
    }
    Ok(())
}

fn epsilon_of_text(config: &ProjectorConfig) -> Result<Value, Error> {
    let text = config.model.object("text_config")?;
    let own = text.as_ref().map(|text| text.number("rms_norm_eps")).transpose()?.flatten();
    Ok((own.unwrap_or(1e-6) as f32).into())
}

fn epsilon_of_model(config: &ProjectorConfig) -> Result<Value, Error> {
    Ok((config.model.number("rms_norm_eps")?.unwrap_or(1e-6) as f32).into())
}

const VISUAL: &[&str] = &["model.visual.", "visual."];

/// Qwen 2 VL (`Qwen2VLVisionModel` in `conversion/qwenvl.py`).
const QWEN_2_VL: ProjectorFamily = ProjectorFamily {
    model_types: &["qwen2_vl"],
    prefixes: VISUAL,
    dropped: &[],
    rules: rules!(
        *QWEN_2_LAYERS,
        module!("blocks.{layer}.mlp.fc1", "v.blk.{layer}.ffn_up"),
        module!("blocks.{layer}.mlp.fc2", "v.blk.{layer}.ffn_down"),
    ),
    prepare: prepare_qwen_2,
    metadata: |config| {
        Ok(vec![
            ("projector_type", "qwen2vl_merger".into()),
            ("vision.attention.layer_norm_epsilon", epsilon_of_model(config)?),
        ])
    },
    layer_of: same_layer,
};

/// Qwen 2.5 VL, likewise; most of its layers see a window.
const QWEN_2_5_VL: ProjectorFamily = ProjectorFamily {
    model_types: &["qwen2_5_vl"],
    rules: rules!(
        *QWEN_2_LAYERS,
        module!("blocks.{layer}.mlp.gate_proj", "v.blk.{layer}.ffn_gate"),
        module!("blocks.{layer}.mlp.up_proj", "v.blk.{layer}.ffn_up"),
        module!("blocks.{layer}.mlp.down_proj", "v.blk.{layer}.ffn_down"),
    ),
    metadata: |config| {
        Ok(vec![
            ("projector_type", "qwen2.5vl_merger".into()),
            ("use_silu", true.into()),
            ("vision.n_wa_pattern", number(window_pattern(config)?, &config.vision, FULL)?),
            ("vision.attention.layer_norm_epsilon", epsilon_of_model(config)?),
        ])
    },
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
const QWEN_3_VL: ProjectorFamily = ProjectorFamily {
    model_types: &["qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"],
    prefixes: VISUAL,
    dropped: &[],
    rules: rules!(
        [
            rule("patch_embed.proj.weight", "v.patch_embd.weight")
                .taking(Take::Frame(0))
                .of(Precision::HalfOrSingle),
            rule("patch_embed.proj.weight", "v.patch_embd.weight.1")
                .taking(Take::Frame(1))
                .of(Precision::HalfOrSingle),
            rule("patch_embed.proj.bias", "v.patch_embd.bias"),
            rule("pos_embed.weight", "v.position_embd.weight").of(Precision::Single),
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
    prepare: |config| {
        let vision = &mut config.vision;
        let positions = vision.integer("num_position_embeddings", 1..=1 << 32)?.unwrap_or(2304);
        let patch = vision.integer("patch_size", 1..=1 << 16)?.unwrap_or(16);
        let side = (positions as f64).sqrt() * patch as f64;
        vision.set_default("image_size", json!(side as u64));
        Ok(())
    },
    metadata: |config| {
        let vision = &config.vision;
        let mut entries =
            vec![("projector_type", "qwen3vl_merger".into()), ("use_gelu", true.into())];
        if let Some(merged) = vision.integer("spatial_merge_size", 1..=1 << 16)? {
            let value = number(merged, vision, "spatial_merge_size")?;
            entries.push(("vision.spatial_merge_size", value));
        }
        entries.push(("vision.attention.layer_norm_epsilon", epsilon_of_text(config)?));
        let deep = indexes(config, DEEP_STACK)?;
        let is_deep: Vec<bool> = (0..config.layers()?).map(|layer| deep.contains(&layer)).collect();
        entries.push(("vision.is_deepstack_layers", Value::Array(Array::Bool(is_deep))));
        Ok(entries)
    },
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

/// Idefics 3 and SmolVLM (`SmolVLMModel` in `conversion/smolvlm.py`).
const IDEFICS_3: ProjectorFamily = ProjectorFamily {
    model_types: &["idefics3", "smolvlm"],
    prefixes: &["model.vision_model.", "model.connector."],
    dropped: &[],
    rules: rules!(*SIGLIP, [rule("modality_projection.proj.weight", "mm.model.fc.weight")],),
    prepare: |config| {
        let vision = &mut config.vision;
        if vision.string("model_type")? == Some("smolvlm_vision") {
            vision.set_default("hidden_size", json!(1152));
            vision.set_default("num_attention_heads", json!(16));
            vision.set_default("intermediate_size", json!(3072));
        }
        Ok(())
    },
    metadata: |config| {
        let (vision, model) = (&config.vision, &config.model);
        let epsilon = vision.number("layer_norm_eps")?.unwrap_or(1e-5);
        let scale = model.integer("scale_factor", 1..=1 << 16)?.unwrap_or(2);
        let image = first_integer(vision, &["image_size"])?;
        let size = config.preprocessor.object("size")?;
        let edge = size.map(|size| size.integer("longest_edge", 1..=1 << 32)).transpose()?;
        Ok(vec![
            ("projector_type", "idefics3".into()),
            ("vision.attention.layer_norm_epsilon", (epsilon as f32).into()),
            ("vision.projector.scale_factor", number(scale, model, "scale_factor")?),
            ("use_gelu", true.into()),
            (
                "vision.preproc_image_size",
                number(edge.flatten().unwrap_or(image), vision, "image_size")?,
            ),
        ])
    },
    layer_of: same_layer,
};
