//! Gemma 4, with and without experts (`Gemma4Model` in `conversion/gemma.py`): windows and
//! heads of other sizes on most layers, layers that take keys and values of earlier ones, and
//! an embedding for each layer. Of models that see and hear, the part that reads and writes
//! text.
//!
//! Configurations say of the layers that see all positions what is unlike the others in one of
//! two forms: by keys that begin with `global_` or `num_global_`, or layer by layer in
//! `per_layer_config`. Here the former count, and what differs by layer is filled in as lists.

use qz_tensor::{Array, Metadata, Value as Entry};
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use super::{decoder, gemma, gemma3};
use crate::architecture::{
    Activation, Architecture, ComputedTensor, Contradiction, Rename, Spelling,
};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::rope::{FACTORS_NAME, PROPORTIONAL, STANDING_STILL};
use crate::rules::Dimension::{Experts, Heads, Hidden, Layers, Number, Product, Size, Vocabulary};
use crate::rules::{Condition, Dimension, LayerIndex, Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, FULL, GgufKeys, MetadataKey, SLIDING};

/// Gemma 4.
pub(super) struct Gemma4;
/// Gemma 4 with experts.
pub(super) struct Gemma4Moe;

const KINDS: &str = "layer_types";
const SHARED: &str = "num_kv_shared_layers";
const DOUBLE: &str = "use_double_wide_mlp";
const PER_LAYER: &str = "hidden_size_per_layer_input";
const PER_LAYER_TOKENS: &str = "vocab_size_per_layer_input";
const EXPERTS: &str = "enable_moe_block";
/// Values are what keys are before they are normed, on layers that see all positions.
const KEYS_ARE_VALUES: &str = "attention_k_eq_v";
const FULL_HEAD: &str = "global_head_dim";
const FULL_KEY_VALUE_HEADS: &str = "num_global_key_value_heads";
const BY_LAYER: &str = "per_layer_config";
const EXPERT_WIDTH: &str = "moe_intermediate_size";

// What follows of these for each layer.
const HEAD_SIZES: &str = "head_dims";
const KEY_VALUE_HEADS: &str = "key_value_heads_of_layers";
const WIDTHS: &str = "intermediate_sizes";

const HEAD: Dimension = Size(HEAD_SIZES);
const QUERIES: Dimension = Product(&[Heads, HEAD]);
const KEYS: Dimension = Product(&[Size(KEY_VALUE_HEADS), HEAD]);
const WIDTH: Dimension = Size(WIDTHS);
const OWN: Dimension = Size(PER_LAYER);
const OF_ALL_LAYERS: Dimension = Product(&[Layers, OWN]);
const GATE_AND_UP: Dimension = Product(&[Number(2), Size(EXPERT_WIDTH)]);

/// Layers without keys and values of their own.
fn is_shared(config: &ModelConfig, layer: LayerIndex) -> bool {
    let shared = config.size(SHARED).unwrap_or(0);
    u64::from(layer.0) + shared >= u64::from(config.layers)
}

fn takes_keys_for_values(config: &ModelConfig, layer: LayerIndex) -> bool {
    let is_windowed = config.flags(KINDS).and_then(|kinds| kinds.get(layer.0 as usize));
    config.flag(KEYS_ARE_VALUES) == Some(true) && is_windowed == Some(&false)
}

const HAS_KEYS: Condition =
    Condition { key: SHARED, holds: |config, layer| !is_shared(config, layer) };
const HAS_VALUES: Condition = Condition {
    key: KEYS_ARE_VALUES,
    holds: |config, layer| !is_shared(config, layer) && !takes_keys_for_values(config, layer),
};
/// Published files have keys and values of layers that share them, which nobody reads.
const UNREAD: Condition = Condition { key: SHARED, holds: is_shared };
const HAS_OWN: Condition =
    Condition { key: PER_LAYER, holds: |config, _| config.size(PER_LAYER).unwrap_or(0) > 0 };

const KEY: TensorRule = decoder::KEY.shaped(&[KEYS, Hidden]);
const VALUE: TensorRule = decoder::VALUE.shaped(&[KEYS, Hidden]);
const KEY_NORM: TensorRule = decoder::KEY_NORM.shaped(&[HEAD]);

/// The rules of both, and more.
macro_rules! rules {
    ($($more:expr),* $(,)?) => {
        &[
            decoder::TOKEN_EMBEDDING,
            decoder::OUTPUT_NORM,
            gemma::TIED_OUTPUT,
            decoder::OUTPUT,
            TensorRule::weight(
                Role::PerLayerEmbedding,
                "model.embed_tokens_per_layer.weight",
                "per_layer_token_embd.weight",
                &[Vocabulary, OF_ALL_LAYERS],
            )
            .only(HAS_OWN),
            TensorRule::weight(
                Role::PerLayerEmbeddingProjection,
                "model.per_layer_model_projection.weight",
                "per_layer_model_proj.weight",
                &[OF_ALL_LAYERS, Hidden],
            )
            .only(HAS_OWN),
            TensorRule::weight(
                Role::PerLayerEmbeddingNorm,
                "model.per_layer_projection_norm.weight",
                "per_layer_proj_norm.weight",
                &[OWN],
            )
            .only(HAS_OWN),
            decoder::ATTENTION_NORM,
            decoder::QUERY.shaped(&[QUERIES, Hidden]),
            KEY.only(HAS_KEYS),
            KEY.only(UNREAD).when(Presence::Optional),
            VALUE.only(HAS_VALUES),
            VALUE.only(UNREAD).when(Presence::Optional),
            decoder::QUERY_NORM.shaped(&[HEAD]),
            KEY_NORM.only(HAS_KEYS),
            KEY_NORM.only(UNREAD).when(Presence::Optional),
            decoder::ATTENTION_OUTPUT.shaped(&[Hidden, QUERIES]),
            decoder::POST_ATTENTION_NORM,
            decoder::PRE_FEED_FORWARD_NORM,
            decoder::POST_FEED_FORWARD_NORM,
            layer_weight!(Role::PerLayerGate, "per_layer_input_gate", "inp_gate", &[OWN, Hidden])
                .only(HAS_OWN),
            layer_weight!(Role::PerLayerOutput, "per_layer_projection", "proj", &[Hidden, OWN])
                .only(HAS_OWN),
            layer_weight!(
                Role::PerLayerNorm,
                "post_per_layer_input_norm",
                "post_norm",
                &[Hidden]
            )
            .only(HAS_OWN),
            layer_weight!(Role::LayerScale, "layer_scalar", "layer_output_scale", &[Number(1)])
                .named("model.layers.{layer}.layer_scalar"),
            $($more,)*
        ]
    };
}

static RULES: &[TensorRule] = rules!(
    decoder::GATE.shaped(&[WIDTH, Hidden]),
    decoder::UP.shaped(&[WIDTH, Hidden]),
    decoder::DOWN.shaped(&[Hidden, WIDTH]),
);

/// A layer with experts has a network for all tokens beside them.
static MIXED_RULES: &[TensorRule] = rules!(
    layer_weight!(Role::SharedExpertGate, "mlp.gate_proj", "ffn_gate", &[WIDTH, Hidden]),
    layer_weight!(Role::SharedExpertUp, "mlp.up_proj", "ffn_up", &[WIDTH, Hidden]),
    layer_weight!(Role::SharedExpertDown, "mlp.down_proj", "ffn_down", &[Hidden, WIDTH]),
    layer_weight!(
        Role::PostSharedExpertNorm,
        "post_feedforward_layernorm_1",
        "post_ffw_norm_1",
        &[Hidden]
    ),
    layer_weight!(Role::ExpertsNorm, "pre_feedforward_layernorm_2", "pre_ffw_norm_2", &[Hidden]),
    layer_weight!(
        Role::PostExpertsNorm,
        "post_feedforward_layernorm_2",
        "post_ffw_norm_2",
        &[Hidden]
    ),
    layer_weight!(Role::ExpertRouter, "router.proj", "ffn_gate_inp", &[Experts, Hidden]),
    layer_weight!(Role::ExpertRouterNorm, "router.scale", "ffn_gate_inp", &[Hidden])
        .named("model.layers.{layer}.router.scale")
        .gguf("blk.{layer}.ffn_gate_inp.scale"),
    layer_weight!(Role::ExpertScale, "router.per_expert_scale", "ffn_down_exps", &[Experts])
        .named("model.layers.{layer}.router.per_expert_scale")
        .gguf("blk.{layer}.ffn_down_exps.scale"),
    layer_weight!(
        Role::FeedForwardGateUp,
        "experts.gate_up_proj",
        "ffn_gate_up_exps",
        &[Experts, GATE_AND_UP, Hidden]
    )
    .named("model.layers.{layer}.experts.gate_up_proj"),
    layer_weight!(
        Role::FeedForwardDown,
        "experts.down_proj",
        "ffn_down_exps",
        &[Experts, Hidden, Size(EXPERT_WIDTH)]
    )
    .named("model.layers.{layer}.experts.down_proj"),
);

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "gemma4_text",
    numbers: &[
        ("vocab_size", 262_144),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 30),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 131_072),
    ],
    head_size: DefaultHeadSize::Fixed(256),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: 1e6,
    sliding_rope_theta: Some(DEFAULT_ROPE_THETA),
    window: DefaultWindow::Never,
};

/// Of so many layers the last sees all positions, where nothing is said.
const PERIOD: u64 = 6;
/// More layers than any model has.
pub(super) const MOST_LAYERS: u64 = 1 << 16;

fn is_mixture(config: &Map<String, Value>) -> bool {
    config.get(EXPERTS).and_then(Value::as_bool) == Some(true)
}

/// The kinds of layers; the last always sees all positions.
fn fill_kinds(config: &mut Map<String, Value>, layers: u64) {
    let period = || -> Value {
        let kind = |layer: u64| if (layer + 1).is_multiple_of(PERIOD) { FULL } else { SLIDING };
        (0..layers).map(kind).collect()
    };
    if config.get(KINDS).is_none_or(Value::is_null) {
        config.insert(KINDS.to_owned(), period());
    }
    if let Some(Value::Array(kinds)) = config.get_mut(KINDS)
        && let Some(last) = kinds.last_mut()
    {
        *last = json!(FULL);
    }
}

/// What layers that see all positions have of their own, from either form.
fn fill_full(config: &mut Map<String, Value>) {
    let by_layer = config.get(BY_LAYER).and_then(Value::as_object);
    let kinds = config.get(KINDS).and_then(Value::as_array);
    let first = kinds.and_then(|kinds| kinds.iter().position(|kind| kind == FULL));
    let own = |key: &str| by_layer?.get(&first?.to_string())?.get(key).cloned();
    let is_listed = by_layer.is_some();
    let (head, heads) = (own("head_dim"), own("num_key_value_heads"));
    if is_listed {
        config.insert(FULL_HEAD.to_owned(), head.unwrap_or(Value::Null));
        config.insert(FULL_KEY_VALUE_HEADS.to_owned(), heads.unwrap_or(Value::Null));
    } else if config.get(KEYS_ARE_VALUES).and_then(Value::as_bool) != Some(true) {
        // The class passes over it then.
        config.shift_remove(FULL_KEY_VALUE_HEADS);
    }
    let default = if is_listed { config.get("head_dim").cloned() } else { None };
    let head = config.entry(FULL_HEAD).or_insert(Value::Null);
    if head.is_null() {
        *head = default.unwrap_or(json!(512));
    }
}

/// Frequencies that go by a head's size where only a part of it turns are plain ones, and
/// factors that let the others stand still.
fn fill_rope(config: &mut Map<String, Value>) {
    const KEY: &str = "rope_parameters";
    if config.get(KEY).is_none_or(Value::is_null) {
        let full = json!({
            "rope_type": PROPORTIONAL, "partial_rotary_factor": 0.25, "rope_theta": 1e6,
        });
        let sliding = json!({"rope_type": "default", "rope_theta": DEFAULT_ROPE_THETA});
        config.insert(KEY.to_owned(), json!({FULL: full, SLIDING: sliding}));
    }
    let full = config.get_mut(KEY).and_then(|ropes| ropes.get_mut(FULL));
    if let Some(Value::Object(full)) = full
        && full.get("rope_type").is_some_and(|kind| kind == PROPORTIONAL)
        && full.get("factor").is_none_or(|factor| factor.as_f64() == Some(1.0))
    {
        full.insert("rope_type".to_owned(), json!("default"));
    }
}

/// What differs by layer, as lists.
fn fill_lists(config: &mut Map<String, Value>, layers: u64) {
    let size = |key: &str| config.get(key).and_then(Value::as_u64);
    let kinds = config.get(KINDS).and_then(Value::as_array).cloned().unwrap_or_default();
    let heads = size("num_key_value_heads").unwrap_or(4);
    let (head, full_head) = (size("head_dim").unwrap_or(256), size(FULL_HEAD).unwrap_or(512));
    let full_heads = size(FULL_KEY_VALUE_HEADS).unwrap_or(heads);
    let of_kinds = |full: u64, sliding: u64| -> Value {
        kinds.iter().map(|kind| if kind == FULL { full } else { sliding }).collect()
    };
    let width = size("intermediate_size").unwrap_or(9216);
    let is_double = config.get(DOUBLE).and_then(Value::as_bool) == Some(true);
    let first_shared = layers.saturating_sub(size(SHARED).unwrap_or(0));
    let widths = (0..layers).map(|layer| match is_double && layer >= first_shared {
        true => width.saturating_mul(2),
        false => width,
    });
    let lists = [
        (HEAD_SIZES, of_kinds(full_head, head)),
        (KEY_VALUE_HEADS, of_kinds(full_heads, heads)),
        (WIDTHS, widths.collect()),
    ];
    config.extend(lists.map(|(key, list)| (key.to_owned(), list)));
}

fn fill_config(config: &mut Map<String, Value>) {
    let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(30);
    // Of a number past any model's nothing is made, and it is refused later.
    let layers = layers.min(MOST_LAYERS);
    fill_kinds(config, layers);
    fill_full(config);
    fill_rope(config);
    fill_lists(config, layers);
    if config.get(PER_LAYER).is_some_and(Value::is_null) {
        config.insert(PER_LAYER.to_owned(), json!(0));
    }
}

/// What cannot be together, or not be said in GGUF.
fn contradiction(config: &ModelConfig) -> Option<Contradiction> {
    let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
    let is_shared = config.flag(KEYS_ARE_VALUES) == Some(true);
    if is_shared != config.size(FULL_KEY_VALUE_HEADS).is_some() {
        let problem = "files say so by the number of heads of keys and values on layers that see \
                       all positions, so that both are stated or neither";
        return say(KEYS_ARE_VALUES, problem);
    }
    let has_own = config.size(PER_LAYER).unwrap_or(0) > 0;
    if has_own && config.size(PER_LAYER_TOKENS).is_some_and(|size| size != config.vocabulary) {
        return say(PER_LAYER_TOKENS, "is not vocab_size");
    }
    wrong_sharing(config)
}

/// Layers that share keys and values of none.
pub(super) fn wrong_sharing(config: &ModelConfig) -> Option<Contradiction> {
    let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
    let shared = config.size(SHARED).unwrap_or(0) as usize;
    let kinds = config.flags(KINDS).unwrap_or_default();
    let Some(first) = kinds.len().checked_sub(shared).filter(|first| *first > 0) else {
        return say(SHARED, "leaves no layer with keys and values of its own");
    };
    let (own, others) = kinds.split_at(first);
    match others.iter().all(|kind| own.contains(kind)) {
        true => None,
        false => say(SHARED, "leaves no layer of a kind with keys and values of its own"),
    }
}

/// Factors with which pairs turn, and with which they stand still.
fn factors(config: &ModelConfig) -> Vec<ComputedTensor> {
    let head = config.size(FULL_HEAD).unwrap_or(0);
    let turned = (head as f64 * config.rope.part.unwrap_or(1.0) / 2.0) as u64;
    let factor = |pair: u64| if pair < turned { 1.0 } else { STANDING_STILL };
    let values = (0..head / 2).map(factor).collect();
    vec![ComputedTensor { name: FACTORS_NAME, role: Role::RopeFrequencies, values }]
}

fn list(sizes: impl Iterator<Item = u64>) -> Entry {
    Entry::Array(Array::I32(sizes.map(|size| size as i32).collect()))
}

fn layers_of(config: &ModelConfig, key: &'static str) -> Entry {
    let layers = (0..config.layers).map(LayerIndex);
    list(layers.map(|layer| config.dimension_in(Size(key), Some(layer))))
}

fn widths(config: &ModelConfig) -> Option<Entry> {
    Some(match config.flag(DOUBLE) {
        Some(true) => layers_of(config, WIDTHS),
        _ => (config.intermediate as u32).into(),
    })
}

fn key_value_heads(config: &ModelConfig) -> Option<Entry> {
    Some(match config.size(FULL_KEY_VALUE_HEADS) {
        Some(_) => layers_of(config, KEY_VALUE_HEADS),
        None => (config.key_value_heads as u32).into(),
    })
}

fn full_head(config: &ModelConfig) -> Option<Entry> {
    config.entry(FULL_HEAD)
}

fn head(config: &ModelConfig) -> Option<Entry> {
    Some((config.head_size as u32).into())
}

const METADATA: &[MetadataKey] = &[
    MetadataKey::Layers,
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::computed("feed_forward_length", widths),
    MetadataKey::Heads,
    MetadataKey::computed("attention.head_count_kv", key_value_heads),
    MetadataKey::RopeScaling,
    MetadataKey::RopeBases,
    MetadataKey::RmsEpsilon,
    MetadataKey::Experts,
    MetadataKey::ExpertsUsed,
    MetadataKey::setting("attention.key_length", FULL_HEAD),
    MetadataKey::computed("attention.value_length", full_head),
    MetadataKey::FileType,
    MetadataKey::setting("final_logit_softcapping", "final_logit_softcapping"),
    MetadataKey::setting("attention.sliding_window", "sliding_window"),
    MetadataKey::setting("attention.shared_kv_layers", SHARED),
    MetadataKey::setting("embedding_length_per_layer_input", PER_LAYER),
    MetadataKey::setting("attention.sliding_window_pattern", KINDS),
    MetadataKey::computed("attention.key_length_swa", head),
    MetadataKey::computed("attention.value_length_swa", head),
    MetadataKey::setting("expert_feed_forward_length", EXPERT_WIDTH),
    MetadataKey::computed("rope.dimension_count", full_head),
    MetadataKey::computed("rope.dimension_count_swa", head),
];

const CONFIG_KEYS: &[ConfigKey] = &[
    ConfigKey::size_or("sliding_window", Default::Size(512)),
    ConfigKey::number("final_logit_softcapping", Default::Absent),
    ConfigKey::windows(KINDS),
    ConfigKey::count_or(SHARED, Default::Size(0)),
    ConfigKey::flag(DOUBLE, Default::Flag(false)),
    ConfigKey::count_or(PER_LAYER, Default::Size(256)),
    ConfigKey::size_or(PER_LAYER_TOKENS, Default::Size(262_144)),
    ConfigKey::flag(KEYS_ARE_VALUES, Default::Flag(false)),
    ConfigKey::size_or(FULL_HEAD, Default::Absent),
    ConfigKey::size_or(FULL_KEY_VALUE_HEADS, Default::Absent),
    ConfigKey::any(BY_LAYER),
    ConfigKey::size_per_layer(HEAD_SIZES),
    ConfigKey::size_per_layer(KEY_VALUE_HEADS),
    ConfigKey::size_per_layer(WIDTHS),
    ConfigKey::size_or(EXPERT_WIDTH, Default::Absent),
    ConfigKey::any(EXPERTS),
    // It changes how images are seen, and not texts.
    ConfigKey::word("use_bidirectional_attention", &["vision"], Default::Absent),
    ConfigKey::any("vision_config"),
    ConfigKey::any("audio_config"),
    ConfigKey::any("image_token_id"),
    ConfigKey::any("audio_token_id"),
    ConfigKey::any("video_token_id"),
    ConfigKey::any("boi_token_id"),
    ConfigKey::any("eoi_token_id"),
    ConfigKey::any("boa_token_id"),
    ConfigKey::any("eoa_token_id"),
    ConfigKey::any("eoa_token_index"),
    ConfigKey::any("vision_soft_tokens_per_image"),
];

fn complete_config(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
    let kinds = keys.flags("attention.sliding_window_pattern").unwrap_or_default();
    let heads = keys.sizes("attention.head_count_kv");
    let heads_of = |windowed: bool| {
        let at = kinds.iter().position(|kind| *kind == windowed)?;
        heads?.get(at).copied()
    };
    if heads.is_some() {
        set(FULL_KEY_VALUE_HEADS, json!(heads_of(false)));
        set("num_key_value_heads", json!(heads_of(true).or(heads_of(false))));
    }
    set(KEYS_ARE_VALUES, json!(heads.is_some()));
    let widths = keys.sizes("feed_forward_length");
    set(DOUBLE, json!(widths.is_some()));
    if let Some(first) = widths.and_then(<[i32]>::first) {
        set("intermediate_size", json!(first));
    }
    set("head_dim", json!(keys.size("attention.key_length_swa")));
    set("attention_bias", json!(false));
    set(EXPERTS, json!(keys.size("expert_count").unwrap_or(0) > 0));
    let tokens = config.get("vocab_size").cloned();
    config.insert(PER_LAYER_TOKENS.to_owned(), tokens.unwrap_or(Value::Null));
    for key in ["rope_scaling", "rope_theta", "rope_local_base_freq"] {
        config.shift_remove(key);
    }
    let ropes = config.get_mut("rope_parameters");
    if let Some(Value::Object(full)) = ropes.and_then(|ropes| ropes.get_mut(FULL)) {
        // Where all turns there is nothing that its factors tell.
        full.entry("partial_rotary_factor").or_insert(json!(1.0));
        full.insert("rope_type".to_owned(), json!(PROPORTIONAL));
    }
}

/// What both have in common.
macro_rules! common {
    ($rules:ident) => {
        fn class_names(&self) -> &'static [&'static str] {
            &["Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"]
        }

        fn gguf_name(&self) -> &'static str {
            "gemma4"
        }

        fn defaults(&self) -> &'static ConfigDefaults {
            &DEFAULTS
        }

        fn outer_model_types(&self) -> &'static [&'static str] {
            &["gemma4"]
        }

        fn tensor_rules(&self) -> &'static [TensorRule] {
            $rules
        }

        fn activation(&self) -> Activation {
            gemma::GELU
        }

        fn has_own_heads(&self) -> bool {
            true
        }

        fn spellings(&self) -> &'static [Spelling] {
            &[Spelling { own: "top_k_experts", common: "num_experts_per_tok" }]
        }

        fn fill_config(&self, config: &mut Map<String, Value>) {
            fill_config(config);
        }

        fn config_keys(&self) -> &'static [ConfigKey] {
            CONFIG_KEYS
        }

        fn rope_keys(&self) -> &'static [&'static str] {
            &["partial_rotary_factor"]
        }

        fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
            contradiction(config)
        }

        fn renames(&self) -> &'static [Rename] {
            gemma3::TEXT_PART
        }

        fn towers(&self) -> &'static [&'static str] {
            &[
                "model.vision_tower.",
                "model.audio_tower.",
                "model.embed_vision.",
                "model.embed_audio.",
            ]
        }

        fn metadata(&self) -> &'static [MetadataKey] {
            METADATA
        }

        fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
            complete_config(keys, config);
        }

        fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
            factors(config)
        }

        fn computed_names(&self) -> &'static [&'static str] {
            &[FACTORS_NAME]
        }

        fn vocabulary_rules(&self) -> VocabularyRules {
            VocabularyRules::Gemma4
        }
    };
}

impl Architecture for Gemma4 {
    common!(RULES);

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        !is_mixture(config)
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        metadata.unsigned("gemma4.expert_count").unwrap_or(0) == 0
    }
}

impl Architecture for Gemma4Moe {
    common!(MIXED_RULES);

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        is_mixture(config)
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        metadata.unsigned("gemma4.expert_count").unwrap_or(0) > 0
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn expert_key(&self) -> &'static str {
        "num_experts"
    }
}
