//! Granite 4 (`GraniteHybridModel` in `conversion/granite.py`): layers with Mamba 2's state
//! space or attention, and behind either experts with one for every token, or a network alone.
//! Where all layers attend, the file is one of Granite without a state space.

use qz_tensor::{Array, Metadata, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::granite::{self, SHARED_KEY};
use super::state_space::{self, only};
use super::{decoder, llama};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::lists::joined;
use crate::rules::Dimension::{Hidden, Number};
use crate::rules::{Condition, Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};
use crate::tensor_map::ValueChange;

/// Granite 4 with state spaces and without experts.
pub(super) struct GraniteHybrid;
/// Granite 4 with state spaces and experts.
pub(super) struct GraniteHybridMoe;
/// Granite 4 with neither.
pub(super) struct GraniteAttention;

const KINDS: &str = "layer_types";
const MAMBA: &str = "mamba";
const ATTENTION: &str = "attention";
/// The names that transformers 5 has for the kinds.
const OTHER_NAMES: &[(&str, &str)] = &[("linear_attention", MAMBA), ("full_attention", ATTENTION)];
const EXPERTS_KEY: &str = "num_local_experts";
const POSITIONS: &str = "position_embedding_type";

state_space::sizes!(
    "mamba_n_heads",
    "mamba_d_head",
    "mamba_n_groups",
    "mamba_d_state",
    "mamba_d_conv"
);

const SCANS: Condition =
    Condition { key: KINDS, holds: |config, layer| config.word_in(KINDS, layer) == Some(MAMBA) };
const ATTENDS: Condition =
    Condition { key: KINDS, holds: |config, layer| config.word_in(KINDS, layer) != Some(MAMBA) };

const AROUND: [TensorRule; 3] = [decoder::TOKEN_EMBEDDING, decoder::OUTPUT_NORM, decoder::OUTPUT];
const LAYERS: [TensorRule; 6] = [
    decoder::ATTENTION_NORM,
    decoder::QUERY.paired().only(ATTENDS),
    decoder::KEY.paired().only(ATTENDS),
    decoder::VALUE.only(ATTENDS),
    decoder::ATTENTION_OUTPUT.only(ATTENDS),
    decoder::FEED_FORWARD_NORM,
];
const MIXER: [TensorRule; 8] =
    only(state_space::mixer!("model.layers.{layer}.mamba.", "mamba_conv_bias"), SCANS);

const NETWORK: [TensorRule; 3] = granite::shared([decoder::GATE, decoder::UP, decoder::DOWN]);

static DENSE_RULES: &[TensorRule] = rules![&AROUND, &LAYERS, &MIXER, &NETWORK];
static MIXED_RULES: &[TensorRule] =
    rules![&AROUND, &LAYERS, &MIXER, &granite::MIXTURE, &granite::SHARED_EXPERT];
static ATTENTION_RULES: &[TensorRule] = rules![&AROUND, &LAYERS, &NETWORK];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "granitemoehybrid",
    numbers: &[
        ("vocab_size", 32_000),
        ("hidden_size", 4096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2048),
        (EXPERTS_KEY, 8),
        ("num_experts_per_tok", 2),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

fn has_experts(config: &Map<String, Value>) -> bool {
    config.get(EXPERTS_KEY).and_then(Value::as_u64) != Some(0)
}

/// True for a configuration none of whose layers has a state space.
fn attends_only(config: &Map<String, Value>) -> bool {
    let kinds = config.get(KINDS).and_then(Value::as_array);
    let is_scan = |kind: &Value| kind == MAMBA || kind == OTHER_NAMES[0].0;
    kinds.is_some_and(|kinds| !kinds.iter().any(is_scan))
}

fn fill_config(config: &mut Map<String, Value>) {
    let size = |config: &Map<String, Value>, key: &str, default: u64| {
        config.get(key).and_then(Value::as_u64).unwrap_or(default)
    };
    let layers = size(config, "num_hidden_layers", 32).min(1 << 16) as usize;
    match config.get_mut(KINDS) {
        Some(Value::Array(kinds)) => {
            for kind in kinds {
                let known = OTHER_NAMES.iter().find(|(own, _)| *kind == *own);
                if let Some((_, common)) = known {
                    *kind = json!(common);
                }
            }
        }
        None | Some(Value::Null) => {
            config.insert(KINDS.to_owned(), json!(vec![MAMBA; layers]));
        }
        Some(_) => {}
    }
    if config.get("mamba_d_head").is_none_or(|size| size.is_null() || size == "auto") {
        let inner =
            size(config, "mamba_expand", 2).saturating_mul(size(config, "hidden_size", 4096));
        let head = inner / size(config, "mamba_n_heads", 128).max(1);
        config.insert("mamba_d_head".to_owned(), json!(head));
    }
}

fn contradiction(config: &ModelConfig) -> Option<Contradiction> {
    let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
    let kinds = config.words(KINDS).unwrap_or_default();
    let scans = kinds.iter().any(|kind| kind == MAMBA);
    if !scans && config.experts.unwrap_or(0) > 0 {
        return say(KINDS, "has no state space, which beside experts is not supported");
    }
    match (scans, config.word(POSITIONS)) {
        (true, Some(_)) => {
            return say(POSITIONS, "is rope, but beside state spaces files say that nothing turns");
        }
        (false, None) => {
            return say(POSITIONS, "is none, but without state spaces files say that heads turn");
        }
        _ => {}
    }
    if config.switch("mamba_proj_bias") == Some(true) {
        return say("mamba_proj_bias", "is true, and these biases are not supported");
    }
    let inner = config.dimension(sizes::INNER);
    if Some(inner) != config.size("mamba_expand").map(|times| times * config.hidden) {
        return say("mamba_expand", "is not how many times as wide as hidden_size all heads are");
    }
    let groups = config.dimension(sizes::GROUPS);
    if groups == 0 || !inner.is_multiple_of(groups) {
        return say("mamba_n_groups", "does not divide the width of the state space");
    }
    if config.experts.unwrap_or(0) == 0 && config.size(SHARED_KEY) != Some(config.intermediate) {
        return say("intermediate_size", "is not shared_intermediate_size, and files say one");
    }
    None
}

fn has_state_space(config: &ModelConfig) -> bool {
    config.words(KINDS).unwrap_or_default().iter().any(|kind| kind == MAMBA)
}

const METADATA: &[MetadataKey] = &[
    MetadataKey::Layers,
    // With a state space whoever uses the default gets as much.
    MetadataKey::computed("context_length", |config| match has_state_space(config) {
        true => Some((1u32 << 20).into()),
        false => config.context.map(|context| (context as u32).into()),
    }),
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::Heads,
    MetadataKey::computed("attention.head_count_kv", |config| {
        let heads = |kind: &String| if kind == MAMBA { 0 } else { config.key_value_heads as i32 };
        Some(Entry::Array(Array::I32(config.words(KINDS)?.iter().map(heads).collect())))
    }),
    MetadataKey::RopeScaling,
    MetadataKey::RopeBases,
    MetadataKey::RmsEpsilon,
    MetadataKey::Experts,
    MetadataKey::ExpertsUsed,
    MetadataKey::FileType,
];
const OWN: &[MetadataKey] = &[
    llama::VOCABULARY_SIZE,
    llama::TURNED,
    MetadataKey::setting("attention.scale", "attention_multiplier"),
    MetadataKey::setting("embedding_scale", "embedding_multiplier"),
    MetadataKey::setting("residual_scale", "residual_multiplier"),
    MetadataKey::setting("logit_scale", "logits_scaling"),
    MetadataKey::setting("expert_shared_feed_forward_length", SHARED_KEY),
];
const OF_STATES: &[MetadataKey] = &[
    MetadataKey::setting("ssm.conv_kernel", "mamba_d_conv"),
    MetadataKey::setting("ssm.state_size", "mamba_d_state"),
    MetadataKey::setting("ssm.group_count", "mamba_n_groups"),
    MetadataKey::computed("ssm.inner_size", |config| {
        Some((config.dimension(sizes::INNER) as u32).into())
    }),
    MetadataKey::setting("ssm.time_step_rank", "mamba_n_heads"),
    MetadataKey::computed("rope.scaling.finetuned", |config| {
        Some((!has_state_space(config)).into())
    }),
];
const OWN_METADATA: &[MetadataKey] =
    &joined::<_, { OWN.len() + OF_STATES.len() }>(&[OWN, OF_STATES]);

const CONFIG_KEYS: &[ConfigKey] = &[
    ConfigKey::words_per_layer(KINDS, &[MAMBA, ATTENTION]),
    ConfigKey::any("layers_block_type"),
    ConfigKey::size_or("mamba_n_heads", Default::Size(128)),
    ConfigKey::size("mamba_d_head"),
    ConfigKey::size_or("mamba_n_groups", Default::Size(1)),
    ConfigKey::size_or("mamba_d_state", Default::Size(256)),
    ConfigKey::size_or("mamba_d_conv", Default::Size(4)),
    ConfigKey::size_or("mamba_expand", Default::Size(2)),
    ConfigKey::flag("mamba_conv_bias", Default::Flag(true)),
    ConfigKey::flag("mamba_proj_bias", Default::Flag(false)),
    ConfigKey::any("mamba_chunk_size"),
    ConfigKey::any("time_step_limit"),
    ConfigKey::size_or(SHARED_KEY, Default::Size(1024)),
    ConfigKey::word(POSITIONS, &["rope"], Default::Absent),
    ConfigKey::any("normalization_function"),
    ConfigKey::any("init_method"),
    ConfigKey::number("attention_multiplier", Default::Number(1.0)),
    ConfigKey::number("embedding_multiplier", Default::Number(1.0)),
    ConfigKey::number("residual_multiplier", Default::Number(1.0)),
    ConfigKey::number("logits_scaling", Default::Number(1.0)),
];

fn complete_config(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
    let heads = keys.sizes("attention.head_count_kv").unwrap_or_default();
    let kinds = heads.iter().map(|heads| if *heads == 0 { MAMBA } else { ATTENTION });
    set(KINDS, kinds.collect());
    if !heads.contains(&0) {
        // No tensor tells.
        set("mamba_conv_bias", json!(true));
    }
    let size = |key: &str| keys.size(key).unwrap_or(0);
    let inner = size("ssm.inner_size");
    set("mamba_d_head", json!(inner / size("ssm.time_step_rank").max(1)));
    set("mamba_expand", json!(inner / size("embedding_length").max(1)));
    set(EXPERTS_KEY, json!(size("expert_count")));
    set("num_experts_per_tok", json!(size("expert_used_count")));
    let turns = keys.is_set("rope.scaling.finetuned");
    set(POSITIONS, if turns { json!("rope") } else { Value::Null });
    set("attention_bias", json!(false));
}

/// What all have in common.
macro_rules! common {
    ($name:literal, $rules:ident) => {
        fn class_names(&self) -> &'static [&'static str] {
            &["GraniteMoeHybridForCausalLM"]
        }

        fn gguf_name(&self) -> &'static str {
            $name
        }

        fn defaults(&self) -> &'static ConfigDefaults {
            &DEFAULTS
        }

        fn tensor_rules(&self) -> &'static [TensorRule] {
            $rules
        }

        fn fill_config(&self, config: &mut Map<String, Value>) {
            fill_config(config);
        }

        fn config_keys(&self) -> &'static [ConfigKey] {
            CONFIG_KEYS
        }

        fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
            contradiction(config)
        }

        fn metadata(&self) -> &'static [MetadataKey] {
            METADATA
        }

        fn own_metadata(&self) -> &'static [MetadataKey] {
            OWN_METADATA
        }

        fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
            complete_config(keys, config);
        }
    };
}

impl Architecture for GraniteHybrid {
    common!("granitehybrid", DENSE_RULES);

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        !has_experts(config) && !attends_only(config)
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        metadata.unsigned("granitehybrid.expert_count").unwrap_or(0) == 0
    }
}

impl Architecture for GraniteHybridMoe {
    common!("granitehybrid", MIXED_RULES);

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        has_experts(config)
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        metadata.unsigned("granitehybrid.expert_count").unwrap_or(0) > 0
    }

    fn mixes_experts(&self) -> bool {
        true
    }
}

impl Architecture for GraniteAttention {
    common!("granite", ATTENTION_RULES);

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        !has_experts(config) && attends_only(config)
    }

    /// Files of this class speak of a state space that no layer has.
    fn is_in(&self, metadata: &Metadata) -> bool {
        metadata.get("granite.ssm.conv_kernel").is_some()
    }
}
