//! Phi 3, 3.5 and 4 (`Phi3MiniModel` in `conversion/phi.py`): queries, keys and values in
//! one matrix, gate and up projection in another; a part of each head is turned, at
//! frequencies that the length of the text decides about.

use qz_tensor::Value as Entry;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use super::{decoder, partial};
use crate::architecture::{Architecture, ComputedTensor, Contradiction};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rope::{LONG_FACTORS_NAME, RopeScaling, SHORT_FACTORS_NAME, long_growth};
use crate::rules::Dimension::{GateAndUp, Hidden, KeyValues, Queries, Sum};
use crate::rules::{Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Phi 3, 3.5 and 4.
pub(super) struct Phi3;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    layer_weight!(
        Role::AttentionQueryKeyValue,
        "self_attn.qkv_proj",
        "attn_qkv",
        &[Sum(&[Queries, KeyValues, KeyValues]), Hidden]
    ),
    decoder::ATTENTION_OUTPUT,
    decoder::FEED_FORWARD_NORM,
    layer_weight!(Role::FeedForwardGateUp, "mlp.gate_up_proj", "ffn_up", &[GateAndUp, Hidden]),
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "phi3",
    numbers: &[
        ("vocab_size", 32_064),
        ("hidden_size", 3072),
        ("intermediate_size", 8192),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 4096),
        (ORIGINAL_CONTEXT, 4096),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

pub(super) const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";
const WINDOW: &str = "sliding_window";

/// By how much sines and cosines grow past the context of training.
pub(super) fn growth(config: &ModelConfig) -> Option<Entry> {
    let RopeScaling::Long(long) = &config.rope.scaling else { return None };
    Some((long_growth(config.context?, long.original_context) as f32).into())
}

/// A list of factors with another length than there are frequencies.
pub(super) fn wrong_count(config: &ModelConfig) -> Option<Contradiction> {
    let RopeScaling::Long(long) = &config.rope.scaling else { return None };
    let pairs = config.rope.turned(config.head_size) / 2;
    let count = long.long.len();
    (count as u64 != pairs).then(|| Contradiction {
        key: "rope_scaling.long_factor",
        problem: format!("has {count} numbers for {pairs} frequencies"),
    })
}

/// Factors of the frequencies within the context of training and past it, if there are some.
pub(super) fn factors(config: &ModelConfig) -> Vec<ComputedTensor> {
    let RopeScaling::Long(long) = &config.rope.scaling else { return Vec::new() };
    let tensor =
        |name, role, values: &[f32]| ComputedTensor { name, role, values: values.to_vec() };
    vec![
        tensor(LONG_FACTORS_NAME, Role::RopeFactorsLong, &long.long),
        tensor(SHORT_FACTORS_NAME, Role::RopeFactorsShort, &long.short),
    ]
}

/// The window, if there is one.
pub(super) fn restore_window(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let window = keys.size("attention.sliding_window").filter(|window| *window > 0);
    config.insert(WINDOW.to_owned(), json!(window));
}

pub(super) const METADATA: &[MetadataKey] = &[
    MetadataKey::Context,
    MetadataKey::setting("rope.scaling.original_context_length", ORIGINAL_CONTEXT),
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::Layers,
    MetadataKey::Heads,
    MetadataKey::KeyValueHeads,
    MetadataKey::RmsEpsilon,
    partial::TURNED,
    MetadataKey::RopeBases,
    MetadataKey::FileType,
    // Zero is how llama.cpp tells Phi 4 from its elders.
    MetadataKey::computed("attention.sliding_window", |config| {
        Some((config.size(WINDOW).unwrap_or(0) as u32).into())
    }),
];

impl Architecture for Phi3 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Phi3ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "phi3"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn has_long_rope(&self) -> bool {
        true
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(ORIGINAL_CONTEXT, Default::Size(4096)),
                ConfigKey::count_or(WINDOW, Default::Absent),
                ConfigKey::any(partial::KEY),
                ConfigKey::exactly("full_attn_mod", 1.0),
                ConfigKey::exactly("interpolate_factor", 1.0),
            ]
        }
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        wrong_count(config)
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        &[LONG_FACTORS_NAME, SHORT_FACTORS_NAME]
    }

    fn first_metadata(&self) -> &'static [MetadataKey] {
        const { &[MetadataKey::computed("rope.scaling.attn_factor", growth)] }
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        restore_window(keys, config);
        partial::restore(keys, config);
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Phi
    }
}
