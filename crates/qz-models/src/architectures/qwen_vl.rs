//! The parts of Qwen 2, 2.5 and 3 VL that read and write text (`Qwen2VLModel` in
//! `conversion/qwenvl.py`, `Qwen3VLTextModel` in `conversion/qwen3vl.py`). A position has
//! several numbers, which of a text's tokens are all the same: so they compute what Qwen 2
//! and 3 do, and become these on the way back.

use qz_tensor::{Array, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{experts, qwen2, qwen2moe, qwen3, qwen3moe};
use crate::architecture::{Architecture, Contradiction, Rename};
use crate::config::{ConfigDefaults, DEFAULT_RMS_EPSILON, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Qwen 2 VL and 2.5 VL.
pub(super) struct Qwen2Vl;
/// Qwen 3 VL.
pub(super) struct Qwen3Vl;
/// Qwen 3 VL with experts.
pub(super) struct Qwen3VlMoe;

static DEFAULTS_OF_2: ConfigDefaults = ConfigDefaults {
    model_type: "qwen2_vl_text",
    numbers: &[
        ("vocab_size", 152_064),
        ("hidden_size", 8192),
        ("intermediate_size", 29_568),
        ("num_hidden_layers", 80),
        ("num_attention_heads", 64),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 32_768),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: 1e6,
    sliding_rope_theta: None,
    window: DefaultWindow::SomeLayers(4096),
};
static DEFAULTS_OF_3: ConfigDefaults = ConfigDefaults {
    model_type: "qwen3_vl_text",
    numbers: &[
        ("vocab_size", 151_936),
        ("hidden_size", 4096),
        ("intermediate_size", 22_016),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 32),
        ("max_position_embeddings", 128_000),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: 500_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};
static DEFAULTS_OF_EXPERTS: ConfigDefaults = ConfigDefaults {
    model_type: "qwen3_vl_moe_text",
    numbers: &[
        ("vocab_size", 151_936),
        ("hidden_size", 2048),
        ("intermediate_size", 5632),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 16),
        ("max_position_embeddings", 128_000),
        ("num_experts", 60),
        ("num_experts_per_tok", 4),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: 500_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};
/// Published checkpoints have inputs as rows, those that transformers 5 saves have not; the way
/// back gives Qwen 3's tensors.
const RULES_BY_INPUT: &[TensorRule] =
    rules![qwen3moe::OTHERS, &experts::of_all_layers(experts::FUSED_BY_INPUT)];

/// How many of a head's pairs turn by each number of a position.
const SECTIONS: &str = "mrope_section";
const SECTIONS_STORED: &str = "rope_sections";
/// How many layers of the part that sees are added to those of the text.
const DEEP_STACK: &str = "deepstack_layers";

/// Sections, padded to four.
fn sections(config: &ModelConfig) -> Option<Entry> {
    let mut sections: Vec<i32> =
        config.list(SECTIONS_STORED)?.iter().map(|size| *size as i32).collect();
    sections.resize(4, 0);
    Some(Entry::Array(Array::I32(sections)))
}

const METADATA: &[MetadataKey] = &[
    MetadataKey::Layers,
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::Heads,
    MetadataKey::KeyValueHeads,
    MetadataKey::NotCausal,
    MetadataKey::RopeScaling,
    MetadataKey::computed("rope.dimension_sections", sections),
    MetadataKey::RopeBases,
    MetadataKey::RmsEpsilon,
    MetadataKey::HeadSize,
    MetadataKey::FileType,
];

/// Brings what is inside of other objects to the outside, where keys are read.
fn fill(config: &mut Map<String, Value>) {
    let sections = ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|rope| config.get(*rope)?.get(SECTIONS).cloned());
    if let Some(sections) = sections {
        config.insert(SECTIONS_STORED.to_owned(), sections);
    }
    let seen =
        config.get("vision_config").and_then(|vision| vision.get("deepstack_visual_indexes"));
    let layers = seen.and_then(Value::as_array).map_or(0, Vec::len);
    config.insert(DEEP_STACK.to_owned(), json!(layers));
}

/// The way back gives a model that reads and writes text only.
fn restore(config: &mut Map<String, Value>, class: &str, model_type: &str) {
    config.insert("architectures".to_owned(), json!([class]));
    config.insert("model_type".to_owned(), json!(model_type));
}

const CONFIG_KEYS: &[ConfigKey] = &[
    ConfigKey::list(SECTIONS_STORED),
    ConfigKey::count_or(DEEP_STACK, Default::Size(0)),
    ConfigKey::any("vision_config"),
    ConfigKey::any("video_token_id"),
];

const KEYS_OF_EXPERTS: &[ConfigKey] = &[
    ConfigKey::list(SECTIONS_STORED),
    ConfigKey::count_or(DEEP_STACK, Default::Size(0)),
    ConfigKey::any("vision_config"),
    ConfigKey::any("video_token_id"),
    ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(1408)),
    ConfigKey::flag(qwen2moe::NORMALIZES, Default::Flag(true)),
];

const RENAMES: &[Rename] = &[Rename::Prefix("model.language_model.", "model.")];
const TOWERS: &[&str] = &["visual.", "model.visual."];

impl Architecture for Qwen2Vl {
    fn class_names(&self) -> &'static [&'static str] {
        &["Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"]
    }

    fn gguf_name(&self) -> &'static str {
        "qwen2vl"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS_OF_2
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        &["qwen2_vl", "qwen2_5_vl", "qwen2_5_vl_text"]
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        qwen2::RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        CONFIG_KEYS
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill(config);
    }

    fn renames(&self) -> &'static [Rename] {
        RENAMES
    }

    fn towers(&self) -> &'static [&'static str] {
        TOWERS
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        restore(config, "Qwen2ForCausalLM", "qwen2");
    }
}

impl Architecture for Qwen3Vl {
    fn class_names(&self) -> &'static [&'static str] {
        &["Qwen3VLForConditionalGeneration"]
    }

    fn gguf_name(&self) -> &'static str {
        "qwen3vl"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS_OF_3
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        &["qwen3_vl"]
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        qwen3::RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        CONFIG_KEYS
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        &["mrope_interleaved"]
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill(config);
    }

    fn renames(&self) -> &'static [Rename] {
        RENAMES
    }

    fn towers(&self) -> &'static [&'static str] {
        TOWERS
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[MetadataKey::setting("n_deepstack_layers", DEEP_STACK)] }
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        restore(config, "Qwen3ForCausalLM", "qwen3");
        config.shift_remove(DEEP_STACK);
    }
}

impl Architecture for Qwen3VlMoe {
    fn class_names(&self) -> &'static [&'static str] {
        &["Qwen3VLMoeForConditionalGeneration"]
    }

    fn gguf_name(&self) -> &'static str {
        "qwen3vlmoe"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS_OF_EXPERTS
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        &["qwen3_vl_moe"]
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        qwen3moe::RULES
    }

    fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
        &[RULES_BY_INPUT, qwen3moe::FUSED_RULES]
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        KEYS_OF_EXPERTS
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        &["mrope_interleaved"]
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill(config);
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        qwen2moe::other_normalization(config, true)
    }

    fn renames(&self) -> &'static [Rename] {
        RENAMES
    }

    fn towers(&self) -> &'static [&'static str] {
        TOWERS
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
                MetadataKey::setting("n_deepstack_layers", DEEP_STACK),
            ]
        }
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        restore(config, "Qwen3MoeForCausalLM", "qwen3_moe");
        config.shift_remove(DEEP_STACK);
        qwen3moe::complete(config);
    }
}
