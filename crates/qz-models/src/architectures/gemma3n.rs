//! Gemma 3n (`Gemma3NModel` in `conversion/gemma.py`): Gemma 4's shared keys and values and its
//! embedding for each layer; several streams of hidden states that each layer predicts and
//! corrects (AltUp), a branch of low rank beside attention (Laurel), and networks of which only
//! what stands out is multiplied. Of models that see and hear, the part that reads and writes
//! text.

use qz_kernels::backend::reference::erf;
use qz_tensor::{Array, Value as Entry};
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use super::{decoder, gemma, gemma3, gemma4};
use crate::architecture::{Activation, Architecture, Contradiction, Rename};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
    shortest,
};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Layers, Product, Size, Vocabulary};
use crate::rules::{Condition, Dimension, LayerIndex, Presence, Role, Rows, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, FULL, GgufKeys, MetadataKey, SLIDING};

/// Gemma 3n.
pub(super) struct Gemma3n;

const KINDS: &str = "layer_types";
const SHARED: &str = "num_kv_shared_layers";
const PER_LAYER: &str = "hidden_size_per_layer_input";
const PER_LAYER_TOKENS: &str = "vocab_size_per_layer_input";
const STREAMS: &str = "altup_num_inputs";
const ACTIVE: &str = "altup_active_idx";
const SCALES: &str = "altup_correct_scale";
const RANK: &str = "laurel_rank";
/// Of each layer which part of the network's numbers is left out, as if they were normally
/// distributed.
const SPARSITY: &str = "activation_sparsity_pattern";
/// The width of each layer's network, filled in.
const WIDTHS: &str = "intermediate_sizes";

/// Streams: files have no other number.
const STREAM_COUNT: u64 = 4;
const WIDTH: Dimension = Size(WIDTHS);
const OWN: Dimension = Size(PER_LAYER);
const OF_ALL_LAYERS: Dimension = Product(&[Layers, OWN]);
/// The branch's width: files have no other one.
const RANK_SIZE: u64 = 64;
/// Matrices of all streams but the first.
const STACKED: Transform = Transform::rows(Rows::Stack(STREAM_COUNT - 1));

/// Layers without keys and values of their own.
fn is_shared(config: &ModelConfig, layer: LayerIndex) -> bool {
    let shared = config.size(SHARED).unwrap_or(0);
    u64::from(layer.0) + shared >= u64::from(config.layers)
}

const HAS_KEYS: Condition =
    Condition { key: SHARED, holds: |config, layer| !is_shared(config, layer) };
/// Published files have keys and values of layers that share them, which nobody reads.
const UNREAD: Condition = Condition { key: SHARED, holds: is_shared };

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    gemma::TIED_OUTPUT,
    decoder::OUTPUT,
    // Tokens of images and sounds have none: rows of zeros in GGUF.
    TensorRule::weight(
        Role::PerLayerEmbedding,
        "model.embed_tokens_per_layer.weight",
        "per_layer_token_embd.weight",
        &[Size(PER_LAYER_TOKENS), OF_ALL_LAYERS],
    )
    .reshaped(&[Vocabulary, OF_ALL_LAYERS]),
    TensorRule::weight(
        Role::PerLayerEmbeddingProjection,
        "model.per_layer_model_projection.weight",
        "per_layer_model_proj.weight",
        &[OF_ALL_LAYERS, Hidden],
    ),
    TensorRule::weight(
        Role::PerLayerEmbeddingNorm,
        "model.per_layer_projection_norm.weight",
        "per_layer_proj_norm.weight",
        &[OWN],
    ),
    TensorRule::weight(
        Role::StreamProjection,
        "model.altup_projections.{expert}.weight",
        "altup_proj.weight",
        &[Hidden, Hidden],
    )
    .transformed(STACKED),
    TensorRule::weight(
        Role::StreamOutput,
        "model.altup_unembed_projections.{expert}.weight",
        "altup_unembd_proj.weight",
        &[Hidden, Hidden],
    )
    .transformed(STACKED),
    layer_weight!(Role::StreamScale, "altup.scale", "altup_correct_scale", &[Hidden])
        .named("model.layers.{layer}.altup.correct_output_scale"),
    layer_weight!(
        Role::StreamCorrection,
        "altup.correction_coefs",
        "altup_correct_coef",
        &[Size(STREAMS), Size(STREAMS)]
    ),
    layer_weight!(
        Role::StreamPrediction,
        "altup.prediction_coefs",
        "altup_predict_coef",
        &[Product(&[Size(STREAMS), Size(STREAMS)]), Size(STREAMS)]
    ),
    layer_weight!(
        Role::StreamRouter,
        "altup.modality_router",
        "altup_router",
        &[Size(STREAMS), Hidden]
    ),
    layer_weight!(Role::StreamRouterNorm, "altup.router_norm", "altup_router_norm", &[Hidden]),
    layer_weight!(Role::LowRankDown, "laurel.linear_left", "laurel_l", &[Size(RANK), Hidden]),
    layer_weight!(Role::LowRankUp, "laurel.linear_right", "laurel_r", &[Hidden, Size(RANK)]),
    layer_weight!(Role::LowRankNorm, "laurel.post_laurel_norm", "laurel_post_norm", &[Hidden]),
    decoder::ATTENTION_NORM,
    decoder::QUERY,
    decoder::KEY.only(HAS_KEYS),
    decoder::KEY.only(UNREAD).when(Presence::Optional),
    decoder::VALUE.only(HAS_KEYS),
    decoder::VALUE.only(UNREAD).when(Presence::Optional),
    decoder::QUERY_NORM,
    decoder::KEY_NORM.only(HAS_KEYS),
    decoder::KEY_NORM.only(UNREAD).when(Presence::Optional),
    decoder::ATTENTION_OUTPUT,
    decoder::POST_ATTENTION_NORM,
    decoder::PRE_FEED_FORWARD_NORM,
    decoder::POST_FEED_FORWARD_NORM,
    decoder::GATE.shaped(&[WIDTH, Hidden]),
    decoder::UP.shaped(&[WIDTH, Hidden]),
    decoder::DOWN.shaped(&[Hidden, WIDTH]),
    layer_weight!(Role::PerLayerGate, "per_layer_input_gate", "inp_gate", &[OWN, Hidden]),
    layer_weight!(Role::PerLayerOutput, "per_layer_projection", "proj", &[Hidden, OWN]),
    layer_weight!(Role::PerLayerNorm, "post_per_layer_input_norm", "post_norm", &[Hidden]),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "gemma3n_text",
    numbers: &[
        ("vocab_size", 262_400),
        ("hidden_size", 2048),
        ("intermediate_size", 16_384),
        ("num_hidden_layers", 35),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 2),
        ("max_position_embeddings", 32_768),
    ],
    head_size: DefaultHeadSize::Fixed(256),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: 1e6,
    sliding_rope_theta: Some(DEFAULT_ROPE_THETA),
    window: DefaultWindow::Never,
};

/// Of so many layers the last sees all positions, where nothing is said.
const PERIOD: u64 = 5;
/// How many layers in front are sparse where nothing is said, and how much so.
const SPARSE_LAYERS: u64 = 10;
const SPARSE: f64 = 0.95;

/// So many standard deviations above the mean lies what is not among the lower `part` of normally
/// distributed numbers. In torch's steps (`Normal.icdf`), whose results the reference writes.
fn deviations(part: f64) -> f32 {
    let part = 2.0 * (part as f32) - 1.0;
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if erf(middle) < f64::from(part) { low = middle } else { high = middle }
    }
    match part <= -1.0 {
        true => f32::NEG_INFINITY,
        false => (0.5 * (low + high)) as f32 * std::f32::consts::SQRT_2,
    }
}

/// The way back.
fn part_of(deviations: f32) -> Value {
    match deviations == f32::NEG_INFINITY {
        true => json!(0.0),
        false => {
            let along = f64::from(deviations) * std::f64::consts::FRAC_1_SQRT_2;
            shortest((0.5 * (1.0 + erf(along))) as f32)
        }
    }
}

fn sparsity(config: &ModelConfig) -> Option<Entry> {
    let parts = config.numbers(SPARSITY)?.iter().map(|part| deviations(*part));
    Some(Entry::Array(Array::F32(parts.collect())))
}

fn layers_of(config: &Map<String, Value>) -> u64 {
    config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(35).min(gemma4::MOST_LAYERS)
}

impl Architecture for Gemma3n {
    fn class_names(&self) -> &'static [&'static str] {
        &["Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"]
    }

    fn gguf_name(&self) -> &'static str {
        "gemma3n"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        &["gemma3n"]
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        gemma::GELU
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        let layers = layers_of(config);
        let is_missing =
            |config: &Map<String, Value>, key: &str| config.get(key).is_none_or(Value::is_null);
        if is_missing(config, KINDS) {
            let kind = |layer: u64| if (layer + 1).is_multiple_of(PERIOD) { FULL } else { SLIDING };
            config.insert(KINDS.to_owned(), (0..layers).map(kind).collect());
        }
        if is_missing(config, SPARSITY) {
            let is_sparse = |layer: u64| layers > SPARSE_LAYERS && layer < SPARSE_LAYERS;
            let part = |layer: u64| if is_sparse(layer) { SPARSE } else { 0.0 };
            config.insert(SPARSITY.to_owned(), (0..layers).map(part).collect());
        }
        let widths = match config.get("intermediate_size") {
            Some(Value::Array(widths)) => {
                let most = widths.iter().filter_map(Value::as_u64).max();
                let widths = widths.clone();
                config.insert("intermediate_size".to_owned(), json!(most));
                widths
            }
            own => vec![own.cloned().unwrap_or(json!(16_384)); layers as usize],
        };
        config.insert(WIDTHS.to_owned(), Value::Array(widths));
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or("sliding_window", Default::Size(512)),
                ConfigKey::number("final_logit_softcapping", Default::Number(30.0)),
                ConfigKey::windows(KINDS),
                ConfigKey::count_or(SHARED, Default::Size(15)),
                ConfigKey::size_or(PER_LAYER, Default::Size(256)),
                ConfigKey::size_or(PER_LAYER_TOKENS, Default::Size(262_144)),
                ConfigKey::size_or(STREAMS, Default::Size(STREAM_COUNT)),
                ConfigKey::count_or(ACTIVE, Default::Size(0)),
                ConfigKey::flag(SCALES, Default::Flag(true)),
                ConfigKey::size_or(RANK, Default::Size(RANK_SIZE)),
                ConfigKey::numbers_per_layer(SPARSITY),
                ConfigKey::size_per_layer(WIDTHS),
                // What training clips.
                ConfigKey::any("altup_coef_clip"),
                ConfigKey::any("rope_local_base_freq"),
                ConfigKey::any("query_pre_attn_scalar"),
                ConfigKey::any("vision_config"),
                ConfigKey::any("audio_config"),
                ConfigKey::any("image_token_id"),
                ConfigKey::any("audio_token_id"),
                ConfigKey::any("boi_token_id"),
                ConfigKey::any("eoi_token_id"),
                ConfigKey::any("boa_token_id"),
                ConfigKey::any("eoa_token_id"),
                ConfigKey::any("vision_soft_tokens_per_image"),
                ConfigKey::any("audio_soft_tokens_per_image"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
        if config.size(STREAMS) != Some(STREAM_COUNT) {
            return say(STREAMS, "is not 4, as files of this architecture have it");
        }
        if config.size(ACTIVE) != Some(0) {
            return say(ACTIVE, "is not 0: the first stream goes through layers");
        }
        if config.size(RANK) != Some(RANK_SIZE) {
            return say(RANK, "is not 64, as files of this architecture have it");
        }
        if config.flag(SCALES) != Some(true) {
            return say(SCALES, "is false, which files of this architecture cannot say");
        }
        if config.size(PER_LAYER_TOKENS).is_some_and(|size| size > config.vocabulary) {
            return say(PER_LAYER_TOKENS, "is more than vocab_size");
        }
        let parts = config.numbers(SPARSITY).unwrap_or_default();
        if parts.iter().any(|part| !(0.0..1.0).contains(part)) {
            return say(SPARSITY, "has a number that is not between 0 and 1");
        }
        gemma4::wrong_sharing(config)
    }

    fn renames(&self) -> &'static [Rename] {
        gemma3::TEXT_PART
    }

    fn towers(&self) -> &'static [&'static str] {
        &["model.vision_tower.", "model.audio_tower.", "model.embed_vision.", "model.embed_audio."]
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::setting("final_logit_softcapping", "final_logit_softcapping"),
                MetadataKey::setting("attention.sliding_window", "sliding_window"),
                MetadataKey::setting("altup.active_idx", ACTIVE),
                MetadataKey::setting("altup.num_inputs", STREAMS),
                MetadataKey::setting("embedding_length_per_layer_input", PER_LAYER),
                MetadataKey::setting("attention.shared_kv_layers", SHARED),
                MetadataKey::computed("activation_sparsity_scale", sparsity),
                MetadataKey::setting("attention.sliding_window_pattern", KINDS),
            ]
        }
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
        if let Some(widths) = keys.sizes("feed_forward_length") {
            set("intermediate_size", json!(widths));
        }
        let parts = keys.numbers("activation_sparsity_scale").unwrap_or_default();
        set(SPARSITY, parts.iter().map(|own| part_of(*own)).collect());
        set(SCALES, json!(true));
        set(RANK, json!(RANK_SIZE));
        set("attention_bias", json!(false));
        let tokens = config.get("vocab_size").cloned().unwrap_or(Value::Null);
        config.insert(PER_LAYER_TOKENS.to_owned(), tokens);
        for key in ["rope_scaling", "rope_theta", "rope_local_base_freq"] {
            config.shift_remove(key);
        }
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Gemma
    }
}

/// The width of each layer's network, as files have it even where all are the same.
fn widths(config: &ModelConfig) -> Option<Entry> {
    let layers = (0..config.layers).map(LayerIndex);
    let width = |layer| config.dimension_in(WIDTH, Some(layer)) as i32;
    Some(Entry::Array(Array::I32(layers.map(width).collect())))
}

const METADATA: &[MetadataKey] = &[
    MetadataKey::Layers,
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::computed("feed_forward_length", widths),
    MetadataKey::Heads,
    MetadataKey::KeyValueHeads,
    MetadataKey::RopeScaling,
    MetadataKey::RopeBases,
    MetadataKey::RmsEpsilon,
    MetadataKey::HeadSize,
    MetadataKey::FileType,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of torch's `Normal(0, 1).icdf`.
    #[test]
    fn parts_as_standard_deviations() {
        let check = |part: f64, bits: u32| {
            assert_eq!(deviations(part).to_bits(), bits, "{part}");
            assert_eq!(part_of(deviations(part)), json!(part));
        };
        check(0.95, 1_070_762_640);
        check(0.9, 1_067_715_041);
        check(0.8, 1_062_696_062);
        check(0.99, 1_075_110_628);
        assert_eq!(deviations(0.0), f32::NEG_INFINITY);
        assert_eq!(part_of(f32::NEG_INFINITY), json!(0.0));
    }
}
