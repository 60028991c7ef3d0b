//! MiMo V2 Flash (`MimoV2Model` in `conversion/mimo.py`): layers with a window, which have sinks and
//! heads of keys of their own number, and layers that see all; values that are shorter than keys;
//! DeepSeek 3's router; three layers that predict further tokens.

use qz_tensor::{Array, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder::{layer_weight, rules};
use super::{decoder, experts, further, partial};
use crate::architecture::{Architecture, Contradiction, Spelling};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::further::{FURTHER, FurtherNames};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{HeadSize, Heads, Hidden, KeyValues, Product, Quotient, Size};
use crate::rules::{Condition, Dimension, LayerIndex, Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, FULL, GgufKeys, MetadataKey, SLIDING, gating_function};

/// MiMo V2 Flash.
pub(super) struct Mimo2;

const KINDS: &str = "layer_types";
/// The same as numbers: 1 for a layer with a window.
const PATTERN: &str = "hybrid_layer_pattern";
const WINDOW: &str = "sliding_window";
const WINDOW_SIZE: &str = "sliding_window_size";
const VALUE_KEY: &str = "v_head_dim";
const WINDOWED_HEADS: &str = "swa_num_key_value_heads";
const MIXED_LAYERS: &str = "moe_layer_freq";
const NETWORKS: &str = "mlp_layer_types";
const SINKS_OF_WINDOWED: &str = "add_swa_attention_sink_bias";
const SINKS_OF_FULL: &str = "add_full_attention_sink_bias";
/// Sizes that layers with a window have of their own, and that are those of the others.
const SAME: [(&str, &str); 3] = [
    ("swa_num_attention_heads", "num_attention_heads"),
    ("swa_head_dim", "head_dim"),
    ("swa_v_head_dim", VALUE_KEY),
];

const VALUE: Dimension = Size(VALUE_KEY);
const VALUES: Dimension = Product(&[Quotient(&KeyValues, &HeadSize), VALUE]);

/// Layers that predict further tokens have a window.
fn is_windowed(config: &ModelConfig, layer: LayerIndex) -> bool {
    let flags = config.flags(KINDS).unwrap_or_default();
    config.is_further(layer) || flags.get(layer.0 as usize).copied().unwrap_or(false)
}

/// Layers that predict further tokens, and the first, have a network.
fn is_mixed(config: &ModelConfig, layer: LayerIndex) -> bool {
    layer.0 > 0 && !config.is_further(layer)
}

const WINDOWED: Condition = Condition { key: KINDS, holds: is_windowed };
const SEES_ALL: Condition =
    Condition { key: KINDS, holds: |config, layer| !is_windowed(config, layer) };
const HAS_SINKS: Condition = Condition {
    key: KINDS,
    holds: |config, layer| is_windowed(config, layer) && !config.is_further(layer),
};
const OWN: Condition = Condition { key: KINDS, holds: |config, layer| !config.is_further(layer) };
const MIXED: Condition = Condition { key: MIXED_LAYERS, holds: is_mixed };
const DENSE: Condition =
    Condition { key: MIXED_LAYERS, holds: |config, layer| !is_mixed(config, layer) };

const SINKS: TensorRule =
    layer_weight!(Role::AttentionSinks, "self_attn.sinks", "attn_sinks", &[Heads])
        .named("model.layers.{layer}.self_attn.attention_sink_bias");

const ATTENTION: [TensorRule; 9] = [
    decoder::ATTENTION_NORM,
    decoder::QUERY,
    decoder::KEY.only(SEES_ALL),
    decoder::KEY.shaped(&[Product(&[Size(WINDOWED_HEADS), HeadSize]), Hidden]).only(WINDOWED),
    decoder::VALUE.shaped(&[VALUES, Hidden]).only(SEES_ALL),
    decoder::VALUE.shaped(&[Product(&[Size(WINDOWED_HEADS), VALUE]), Hidden]).only(WINDOWED),
    decoder::ATTENTION_OUTPUT.shaped(&[Hidden, Product(&[Heads, VALUE])]),
    SINKS.only(HAS_SINKS),
    SINKS.only(FURTHER).when(Presence::Optional),
];

const NETWORK: [TensorRule; 10] = [
    decoder::FEED_FORWARD_NORM.only(OWN),
    decoder::FEED_FORWARD_NORM.named("model.layers.{layer}.pre_mlp_layernorm.weight").only(FURTHER),
    decoder::GATE.only(DENSE),
    decoder::UP.only(DENSE),
    decoder::DOWN.only(DENSE),
    experts::ROUTER.only(MIXED),
    experts::GATE.only(MIXED),
    experts::UP.only(MIXED),
    experts::DOWN.only(MIXED),
    experts::SELECTION_BIAS.only(MIXED),
];

const PREDICTION: [TensorRule; 4] = [
    further::PROJECTION,
    further::EMBEDDING_NORM,
    further::HIDDEN_NORM,
    layer_weight!(Role::NextTokenOutputNorm, "final_layernorm", "layer_output_norm", &[Hidden])
        .only(FURTHER)
        .when(Presence::Optional),
];

static RULES: &[TensorRule] = rules![&decoder::AROUND, &ATTENTION, &NETWORK, &PREDICTION];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "mimo_v2_flash",
    numbers: &[
        ("vocab_size", 152_576),
        ("hidden_size", 4096),
        ("intermediate_size", 16_384),
        ("num_hidden_layers", 48),
        ("num_attention_heads", 64),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 131_072),
        ("n_routed_experts", 256),
        ("num_experts_per_tok", 8),
    ],
    head_size: DefaultHeadSize::Fixed(192),
    rms_epsilon: Some(1e-5),
    rope_theta: 5e6,
    sliding_rope_theta: Some(10_000.0),
    window: DefaultWindow::Never,
};

/// One number for each layer, those that predict further tokens among them.
fn of_layers(config: &ModelConfig, number: impl Fn(bool) -> i32) -> Option<Entry> {
    let layers = (0..config.all_layers()).map(LayerIndex);
    let numbers = layers.map(|layer| number(is_windowed(config, layer)));
    Some(Entry::Array(Array::I32(numbers.collect())))
}

fn key_value_heads(config: &ModelConfig) -> Option<Entry> {
    let windowed = config.size(WINDOWED_HEADS)? as i32;
    of_layers(config, |is| if is { windowed } else { config.key_value_heads as i32 })
}

const METADATA: &[MetadataKey] = &[
    MetadataKey::Layers,
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::Heads,
    MetadataKey::computed("attention.head_count_kv", key_value_heads),
    MetadataKey::RopeScaling,
    MetadataKey::RopeBases,
    MetadataKey::Experts,
    MetadataKey::ExpertsUsed,
    MetadataKey::setting("expert_group_count", "n_group"),
    MetadataKey::setting("expert_group_used_count", "topk_group"),
    MetadataKey::computed("expert_gating_func", gating_function),
    MetadataKey::computed("attention.key_length", |config| Some((config.head_size as u32).into())),
    MetadataKey::setting("attention.value_length", VALUE_KEY),
    MetadataKey::FileType,
];

const OWN_METADATA: &[MetadataKey] = &[
    MetadataKey::setting("attention.sliding_window", WINDOW),
    MetadataKey::computed("attention.sliding_window_pattern", |config| {
        of_layers(config, i32::from)
    }),
    MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
    partial::TURNED,
    MetadataKey::RmsEpsilon,
    MetadataKey::setting("attention.value_scale", "attention_value_scale"),
    further::COUNT,
];

impl Architecture for Mimo2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["MiMoV2FlashForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "mimo2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn expert_key(&self) -> &'static str {
        "n_routed_experts"
    }

    fn has_own_heads(&self) -> bool {
        true
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "layernorm_epsilon", common: "rms_norm_eps" },
            Spelling { own: "swa_rope_theta", common: "rope_local_base_freq" },
        ]
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(48);
        if config.get(KINDS).is_none_or(Value::is_null) {
            let kinds: Value = match config.get(PATTERN) {
                Some(Value::Array(numbers)) => numbers.iter().map(kind_of).collect(),
                // As transformers assumes.
                _ => (0..layers.min(1 << 16))
                    .map(|layer| if layer == 0 || (layer + 1) % 6 == 0 { FULL } else { SLIDING })
                    .collect(),
            };
            config.insert(KINDS.to_owned(), kinds);
        }
        let is_missing =
            |config: &Map<String, Value>, key: &str| config.get(key).is_none_or(Value::is_null);
        if is_missing(config, WINDOWED_HEADS) {
            let heads = config.get("num_key_value_heads").and_then(Value::as_u64).unwrap_or(4);
            config.insert(WINDOWED_HEADS.to_owned(), json!(heads.saturating_mul(2)));
        }
        partial::fill(config, 0.334);
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::windows(KINDS),
                ConfigKey::any(PATTERN),
                ConfigKey::size(WINDOW),
                ConfigKey::size(WINDOW_SIZE),
                ConfigKey::size_or(VALUE_KEY, Default::Size(128)),
                ConfigKey::size(WINDOWED_HEADS),
                ConfigKey::size_or(SAME[0].0, Default::Absent),
                ConfigKey::size_or(SAME[1].0, Default::Absent),
                ConfigKey::size_or(SAME[2].0, Default::Absent),
                ConfigKey::flag(SINKS_OF_WINDOWED, Default::Flag(true)),
                ConfigKey::flag(SINKS_OF_FULL, Default::Flag(false)),
                ConfigKey::count_per_layer(MIXED_LAYERS),
                ConfigKey::words_per_layer(NETWORKS, &["dense", "sparse"]),
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(2048)),
                ConfigKey::count_or("n_group", Default::Size(1)),
                ConfigKey::count_or("topk_group", Default::Size(1)),
                ConfigKey::exactly("routed_scaling_factor", 1.0),
                ConfigKey::flag("norm_topk_prob", Default::Flag(true)),
                ConfigKey::word("scoring_func", &["sigmoid"], Default::Word("sigmoid")),
                ConfigKey::word("topk_method", &["noaux_tc"], Default::Absent),
                ConfigKey::number("attention_value_scale", Default::Absent),
                ConfigKey::any("rope_local_base_freq"),
                ConfigKey::any(partial::KEY),
                // As long as the window, and read by nobody.
                ConfigKey::any("attention_chunk_size"),
                ConfigKey::any("hybrid_block_size"),
            ]
        }
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let say = |key, problem: String| Some(Contradiction { key, problem });
        // transformers sees one position more than this key says, llama.cpp as many as the other.
        if config.size(WINDOW_SIZE) != config.size(WINDOW) {
            return say(WINDOW_SIZE, "is not sliding_window, and files say one number".to_owned());
        }
        for (key, common) in SAME {
            let own = match common {
                "num_attention_heads" => config.heads,
                "head_dim" => config.head_size,
                _ => config.dimension(VALUE),
            };
            if config.size(key).is_some_and(|size| size != own) {
                return say(key, format!("is not {common} {own}, and files say one number"));
            }
        }
        let heads = config.dimension(Size(WINDOWED_HEADS));
        if !config.heads.is_multiple_of(heads) {
            return say(WINDOWED_HEADS, "does not divide num_attention_heads".to_owned());
        }
        if config.flag(SINKS_OF_WINDOWED) == Some(false) {
            let problem = "is false, but layers with a window have sinks here";
            return say(SINKS_OF_WINDOWED, problem.to_owned());
        }
        if config.flag(SINKS_OF_FULL) == Some(true) {
            let problem = "is true, but layers that see all have no sinks here";
            return say(SINKS_OF_FULL, problem.to_owned());
        }
        let problem =
            "is not of one layer without experts, and then layers with experts".to_owned();
        let stated = config.sizes(MIXED_LAYERS);
        let is_other = |(layer, is): (usize, bool)| is != (layer > 0);
        let is_one_kind = config.size(MIXED_LAYERS).is_some() && config.layers > 1;
        if is_one_kind
            || stated.is_some_and(|all| all.iter().map(|n| *n > 0).enumerate().any(is_other))
        {
            return say(MIXED_LAYERS, problem);
        }
        let words = config.words(NETWORKS).unwrap_or_default();
        if words.iter().map(|word| word == "sparse").enumerate().any(is_other) {
            return say(NETWORKS, problem);
        }
        if config.flag("norm_topk_prob") == Some(false) {
            let problem = "is false; graphs of this architecture compute as with true".to_owned();
            return say("norm_topk_prob", problem);
        }
        experts::wrong_groups(config)
    }

    fn further_names(&self) -> Option<FurtherNames> {
        Some(FurtherNames::Module { prefix: "model.mtp.", beside: &[] })
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        OWN_METADATA
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0) as usize;
        let pattern = keys.sizes("attention.sliding_window_pattern").unwrap_or_default();
        let heads = keys.sizes("attention.head_count_kv").unwrap_or_default();
        let of_kind = |kind: i32| pattern.iter().zip(heads).find(|(own, _)| **own == kind);
        let full = of_kind(0).map(|(_, heads)| *heads);
        let windowed = of_kind(1).map(|(_, heads)| *heads);
        let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
        set(PATTERN, json!(&pattern[..layers.min(pattern.len())]));
        set("num_key_value_heads", json!(full.or(windowed)));
        set(WINDOWED_HEADS, json!(windowed.or(full)));
        set("head_dim", json!(keys.size("attention.key_length")));
        set(SAME[0].0, json!(keys.size("attention.head_count")));
        set(SAME[1].0, json!(keys.size("attention.key_length")));
        set(SAME[2].0, json!(keys.size("attention.value_length")));
        set(SINKS_OF_WINDOWED, json!(true));
        set(SINKS_OF_FULL, json!(false));
        set(MIXED_LAYERS, (0..layers).map(|layer| i32::from(layer > 0)).collect());
        for key in [WINDOW_SIZE, "attention_chunk_size"] {
            set(key, json!(keys.size("attention.sliding_window")));
        }
        set("norm_topk_prob", json!(true));
        set("topk_method", json!("noaux_tc"));
        let part = {
            partial::restore(keys, config);
            config.get(partial::KEY).cloned().unwrap_or(Value::Null)
        };
        // Each kind of layers has rotary parameters of its own.
        if let Some(Value::Object(ropes)) = config.get_mut("rope_parameters") {
            ropes.shift_remove(partial::KEY);
            for rope in ropes.values_mut().filter_map(Value::as_object_mut) {
                rope.insert(partial::KEY.to_owned(), part.clone());
            }
        }
    }
}

/// A number of the pattern as a kind; anything else stays as it is, and is refused.
fn kind_of(number: &Value) -> Value {
    match number.as_u64() {
        Some(0) => json!(FULL),
        Some(1) => json!(SLIDING),
        _ => number.clone(),
    }
}
