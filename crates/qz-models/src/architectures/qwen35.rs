//! Qwen 3.5, with and without experts, and Qwen 3 Next (`Qwen3_5TextModel`,
//! `Qwen3_5MoeTextModel` and `Qwen3NextModel` in `conversion/qwen.py`): layers with the gated
//! delta rule, attention with a gate in every few of them, norms that are written with one
//! more, and a layer that predicts further tokens. Of models that see, the part that reads
//! and writes text.

use qz_tensor::{Array, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use super::gemma::shifted;
use super::{decoder, experts, further, partial, qwen2moe};
use crate::architecture::{Architecture, Contradiction, Rename};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::further::FurtherNames;
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Number, Product, Queries, Quotient, Size, Sum};
use crate::rules::{Columns, Condition, Dimension, LayerIndex, Role, Rows, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey, STANDARD_METADATA};
use crate::tensor_map::ValueChange;

/// Qwen 3.5.
pub(super) struct Qwen35;
/// Qwen 3.5 with experts.
pub(super) struct Qwen35Moe;
/// Qwen 3 Next.
pub(super) struct Qwen3Next;

const KINDS_KEY: &str = "layer_types";
const LINEAR: &str = "linear_attention";
const FULL: &str = "full_attention";
const INTERVAL_KEY: &str = "full_attention_interval";
const KEY_HEADS_KEY: &str = "linear_num_key_heads";
const VALUE_HEADS_KEY: &str = "linear_num_value_heads";
const KEY_SIZE_KEY: &str = "linear_key_head_dim";
const VALUE_SIZE_KEY: &str = "linear_value_head_dim";
const TAPS_KEY: &str = "linear_conv_kernel_dim";
const SHARED_KEY: &str = "shared_expert_intermediate_size";
const FURTHER_KEY: &str = "mtp_num_hidden_layers";
const GATE_KEY: &str = "attn_output_gate";

const KEY_HEADS: Dimension = Size(KEY_HEADS_KEY);
const VALUE_HEADS: Dimension = Size(VALUE_HEADS_KEY);
const KEY_SIZE: Dimension = Size(KEY_SIZE_KEY);
const VALUE_SIZE: Dimension = Size(VALUE_SIZE_KEY);
const TAPS: Dimension = Size(TAPS_KEY);
const SHARED: Dimension = Size(SHARED_KEY);
/// Heads of values for each of keys.
const RATIO: Dimension = Quotient(&VALUE_HEADS, &KEY_HEADS);
/// Rows of queries and keys.
const KEYS: Dimension = Product(&[Number(2), KEY_HEADS, KEY_SIZE]);
const VALUES: Dimension = Product(&[VALUE_HEADS, VALUE_SIZE]);
const CONVOLVED: Dimension = Sum(&[KEYS, VALUES]);
/// Rows of values that share a head of keys.
const OWN_VALUES: Dimension = Product(&[RATIO, VALUE_SIZE]);
/// Rows of all that a head of keys has in Qwen 3 Next: query, key, values, gates.
const OF_HEAD: Dimension = Sum(&[KEY_SIZE, KEY_SIZE, OWN_VALUES, OWN_VALUES]);

/// True for a layer with the delta rule.
fn is_recurrent(config: &ModelConfig, layer: LayerIndex) -> bool {
    let interval = config.size(INTERVAL_KEY).unwrap_or(4).max(1);
    !config.is_further(layer)
        && match config.word_in(KINDS_KEY, layer) {
            Some(kind) => kind == LINEAR,
            None => !(u64::from(layer.0) + 1).is_multiple_of(interval),
        }
}

const RECURRENT: Condition = Condition { key: KINDS_KEY, holds: is_recurrent };
const ATTENDING: Condition =
    Condition { key: KINDS_KEY, holds: |config, layer| !is_recurrent(config, layer) };

/// Heads of values that take turns in GGUF, behind rows that stay.
const fn turned(before: Dimension, rows: Dimension) -> Transform {
    Transform::rows(Rows::Turned { before, outer: KEY_HEADS, inner: RATIO, rows })
}

const QKV: TensorRule = layer_weight!(
    Role::StateSpaceInput,
    "linear_attn.in_proj_qkv",
    "attn_qkv",
    &[CONVOLVED, Hidden]
);
const GATE: TensorRule =
    layer_weight!(Role::StateSpaceGate, "linear_attn.in_proj_z", "attn_gate", &[VALUES, Hidden]);
const CONVOLUTION: TensorRule = layer_weight!(
    Role::StateSpaceConvolution,
    "linear_attn.conv1d",
    "ssm_conv1d",
    &[CONVOLVED, Number(1), TAPS]
)
.reshaped(&[CONVOLVED, TAPS]);
const DECAY: TensorRule = TensorRule::weight(
    Role::StateSpaceDecay,
    "model.layers.{layer}.linear_attn.A_log",
    "blk.{layer}.ssm_a",
    &[VALUE_HEADS],
)
.changed(ValueChange::NegativeExponential);
const TIME_STEP: TensorRule = TensorRule::bias(
    Role::StateSpaceTimeStep,
    "model.layers.{layer}.linear_attn.dt_bias",
    "blk.{layer}.ssm_dt.bias",
    &[VALUE_HEADS],
);
const ANSWER_NORM: TensorRule =
    layer_weight!(Role::StateSpaceNorm, "linear_attn.norm", "ssm_norm", &[VALUE_SIZE]);
const DELTA_OUTPUT: TensorRule =
    layer_weight!(Role::StateSpaceOutput, "linear_attn.out_proj", "ssm_out", &[Hidden, VALUES]);

/// A rule whose heads of values take turns, behind rows that stay.
const fn in_turns(mut rule: TensorRule, before: Dimension, rows: Dimension) -> TensorRule {
    rule.transform.rows = turned(before, rows).rows;
    rule.only(RECURRENT)
}

/// The rules of a model with `$delta` rules and `$network`s.
macro_rules! rules {
    ([$($delta:expr),* $(,)?], [$($network:expr),* $(,)?]) => {
        &[
            decoder::TOKEN_EMBEDDING,
            shifted(decoder::OUTPUT_NORM),
            decoder::OUTPUT,
            shifted(decoder::ATTENTION_NORM),
            layer_weight!(
                Role::AttentionQuery,
                "self_attn.q_proj",
                "attn_q",
                &[Product(&[Number(2), Queries]), Hidden]
            )
            .only(ATTENDING),
            decoder::KEY.only(ATTENDING),
            decoder::VALUE.only(ATTENDING),
            decoder::ATTENTION_OUTPUT.only(ATTENDING),
            shifted(decoder::QUERY_NORM).only(ATTENDING),
            shifted(decoder::KEY_NORM).only(ATTENDING),
            // Named after its place behind attention; it is the one in front of the network.
            shifted(decoder::FEED_FORWARD_NORM).gguf("blk.{layer}.post_attention_norm.weight"),
            $($delta,)*
            $($network,)*
            further::PROJECTION,
            shifted(further::EMBEDDING_NORM),
            shifted(further::HIDDEN_NORM),
            shifted(further::OUTPUT_NORM),
        ]
    };
}

/// Qwen 3.5's, whose heads of values take turns with those of keys.
macro_rules! apart {
    ([$($network:expr),* $(,)?]) => {
        rules!(
            [
                in_turns(QKV, KEYS, VALUE_SIZE),
                in_turns(GATE, Number(0), VALUE_SIZE),
                in_turns(CONVOLUTION, KEYS, VALUE_SIZE),
                in_turns(DECAY, Number(0), Number(1)),
                in_turns(TIME_STEP, Number(0), Number(1)),
                in_turns(
                    layer_weight!(
                        Role::StateSpaceStep,
                        "linear_attn.in_proj_a",
                        "ssm_alpha",
                        &[VALUE_HEADS, Hidden]
                    ),
                    Number(0),
                    Number(1),
                ),
                in_turns(
                    layer_weight!(
                        Role::StateSpaceStrength,
                        "linear_attn.in_proj_b",
                        "ssm_beta",
                        &[VALUE_HEADS, Hidden]
                    ),
                    Number(0),
                    Number(1),
                ),
                ANSWER_NORM.only(RECURRENT),
                DELTA_OUTPUT.only(RECURRENT).transformed(Transform {
                    columns: Columns::Turned {
                        outer: KEY_HEADS,
                        inner: RATIO,
                        width: VALUE_SIZE,
                    },
                    ..Transform::KEEP
                }),
            ],
            [$($network),*]
        )
    };
}

/// Qwen 3 Next's, where all that a head of keys has lies together.
macro_rules! together {
    ([$($network:expr),* $(,)?]) => {
        rules!(
            [
                QKV.named(ALL).shaped(ALL_SHAPE).only(RECURRENT).transformed(Transform::rows(
                    Rows::Gathered {
                        block: OF_HEAD,
                        runs: &[
                            (Number(0), KEY_SIZE),
                            (KEY_SIZE, KEY_SIZE),
                            (Product(&[Number(2), KEY_SIZE]), OWN_VALUES),
                        ],
                    }
                )),
                GATE.named(ALL).shaped(ALL_SHAPE).only(RECURRENT).transformed(Transform::part(
                    OF_HEAD,
                    Sum(&[KEY_SIZE, KEY_SIZE, OWN_VALUES]),
                    OWN_VALUES,
                )),
                layer_weight!(
                    Role::StateSpaceStrengthStep,
                    "linear_attn.in_proj_ba",
                    "ssm_ba",
                    &[Product(&[Number(2), VALUE_HEADS]), Hidden]
                )
                .only(RECURRENT),
                CONVOLUTION.only(RECURRENT),
                DECAY.only(RECURRENT),
                TIME_STEP.only(RECURRENT),
                ANSWER_NORM.only(RECURRENT),
                DELTA_OUTPUT.only(RECURRENT),
            ],
            [$($network),*]
        )
    };
}

/// A macro's rules with experts, `$gate`, `$up` and `$down`.
macro_rules! mixed {
    ($rules:ident, $gate:expr, $up:expr, $down:expr) => {
        $rules!([
            experts::ROUTER,
            $gate,
            $up,
            $down,
            experts::SHARED_GATE.shaped(&[SHARED, Hidden]),
            experts::SHARED_UP.shaped(&[SHARED, Hidden]),
            experts::SHARED_DOWN.shaped(&[Hidden, SHARED]),
            experts::SHARED_ROUTER,
        ])
    };
}

const ALL: &str = "model.layers.{layer}.linear_attn.in_proj_qkvz.weight";
const ALL_SHAPE: &[Dimension] = &[Product(&[KEY_HEADS, OF_HEAD]), Hidden];

static DENSE_RULES: &[TensorRule] = apart!([decoder::GATE, decoder::UP, decoder::DOWN]);
static MIXED_RULES: &[TensorRule] = mixed!(apart, experts::GATE, experts::UP, experts::DOWN);
const FUSED_RULES: &[TensorRule] =
    mixed!(apart, experts::FUSED_GATE, experts::FUSED_UP, experts::FUSED_DOWN);
static NEXT_RULES: &[TensorRule] = mixed!(together, experts::GATE, experts::UP, experts::DOWN);
const FUSED_NEXT_RULES: &[TensorRule] =
    mixed!(together, experts::FUSED_GATE, experts::FUSED_UP, experts::FUSED_DOWN);

/// What all three assume.
const DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "",
    numbers: &[],
    head_size: DefaultHeadSize::Fixed(256),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

static DENSE_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "qwen3_5_text",
    numbers: &[
        ("vocab_size", 248_320),
        ("hidden_size", 4096),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 32_768),
    ],
    ..DEFAULTS
};

static MIXED_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "qwen3_5_moe_text",
    numbers: &[
        ("vocab_size", 248_320),
        ("hidden_size", 2048),
        ("num_hidden_layers", 40),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 2),
        ("max_position_embeddings", 32_768),
        ("num_experts", 256),
        ("num_experts_per_tok", 8),
    ],
    ..DEFAULTS
};

static NEXT_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "qwen3_next",
    numbers: &[
        ("vocab_size", 151_936),
        ("hidden_size", 2048),
        ("intermediate_size", 5632),
        ("num_hidden_layers", 48),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 2),
        ("max_position_embeddings", 32_768),
        ("num_experts", 512),
        ("num_experts_per_tok", 10),
    ],
    ..DEFAULTS
};

/// The keys of all three, and more.
macro_rules! config_keys {
    ($($more:expr),* $(,)?) => {
        const {
            &[
                ConfigKey::size_or(TAPS_KEY, Default::Size(4)),
                ConfigKey::size_or(KEY_SIZE_KEY, Default::Size(128)),
                ConfigKey::size_or(VALUE_SIZE_KEY, Default::Size(128)),
                ConfigKey::size_or(KEY_HEADS_KEY, Default::Size(16)),
                ConfigKey::size_or(VALUE_HEADS_KEY, Default::Size(32)),
                ConfigKey::size_or(INTERVAL_KEY, Default::Size(4)),
                ConfigKey::words_per_layer(KINDS_KEY, &[LINEAR, FULL]),
                ConfigKey::count_or(FURTHER_KEY, Default::Absent),
                ConfigKey::flag(GATE_KEY, Default::Absent),
                ConfigKey::word("output_gate_type", &["swish", "silu"], Default::Absent),
                ConfigKey::any(partial::KEY),
                ConfigKey::any("mamba_ssm_dtype"),
                ConfigKey::any("mtp_use_dedicated_embeddings"),
                ConfigKey::any("vision_config"),
                ConfigKey::any("video_token_id"),
                $($more,)*
            ]
        }
    };
}

/// The keys of a mixture, in which an expert and the shared one are this wide.
macro_rules! mixed_keys {
    ($width:expr) => {
        config_keys!(
            ConfigKey::size_or(experts::WIDTH_KEY, Default::Size($width)),
            ConfigKey::size_or(SHARED_KEY, Default::Size($width)),
            ConfigKey::flag(qwen2moe::NORMALIZES, Default::Absent),
        )
    };
}

fn contradiction(config: &ModelConfig) -> Option<Contradiction> {
    let (keys, values) = (config.size(KEY_HEADS_KEY)?, config.size(VALUE_HEADS_KEY)?);
    if !values.is_multiple_of(keys) {
        let problem = format!("is {keys}, which does not divide {VALUE_HEADS_KEY} {values}");
        return Some(Contradiction { key: KEY_HEADS_KEY, problem });
    }
    if config.flag(GATE_KEY) == Some(false) {
        let problem = "is false, but attention of this architecture has a gate".to_owned();
        return Some(Contradiction { key: GATE_KEY, problem });
    }
    qwen2moe::other_normalization(config, true)
}

fn turned_elements(config: &ModelConfig) -> Option<Entry> {
    let part = config.rope.part.unwrap_or(0.25);
    Some(((config.head_size as f64 * part) as u32).into())
}

fn recurrent_layers(config: &ModelConfig) -> Option<Entry> {
    config.words(KINDS_KEY)?;
    let flags = (0..config.all_layers()).map(|layer| is_recurrent(config, LayerIndex(layer)));
    Some(Entry::Array(Array::Bool(flags.collect())))
}

/// What transformers assumes of sections where none are stated, and llama.cpp must have.
fn assumed_sections(config: &ModelConfig) -> Option<Entry> {
    let sections = || Entry::Array(Array::I32(vec![11, 11, 10, 0]));
    config.rope.sections.is_none().then(sections)
}

/// The metadata of all three; that of the mixtures comes before.
const OWN_METADATA: &[MetadataKey] = &[
    further::COUNT,
    MetadataKey::setting("ssm.conv_kernel", TAPS_KEY),
    MetadataKey::setting("ssm.state_size", KEY_SIZE_KEY),
    MetadataKey::setting("ssm.group_count", KEY_HEADS_KEY),
    MetadataKey::setting("ssm.time_step_rank", VALUE_HEADS_KEY),
    MetadataKey::computed("ssm.inner_size", |config| {
        Some((config.dimension(VALUES) as u32).into())
    }),
    MetadataKey::computed("attention.recurrent_layers", recurrent_layers),
    MetadataKey::setting(INTERVAL_KEY, INTERVAL_KEY),
    MetadataKey::computed("rope.dimension_count", turned_elements),
    MetadataKey::computed("rope.dimension_sections", assumed_sections),
];

/// The same without sections that nobody has stated.
const NEXT_METADATA: &[MetadataKey] = OWN_METADATA.split_at(OWN_METADATA.len() - 1).0;

/// What comes before the family's own metadata in mixtures.
const MIXED_METADATA: &[MetadataKey] = &[
    MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
    MetadataKey::setting("expert_shared_feed_forward_length", SHARED_KEY),
];

/// The kinds of layers from how many there are to one that attends.
fn fill_kinds(config: &mut Map<String, Value>, defaults: &ConfigDefaults) {
    const LAYERS: &str = "num_hidden_layers";
    if config.get(KINDS_KEY).is_some_and(|kinds| !kinds.is_null()) {
        return;
    }
    let size = |key: &str| config.get(key).and_then(Value::as_u64);
    let assumed = defaults.numbers.iter().find(|(key, _)| *key == LAYERS).map(|(_, count)| *count);
    let layers = size(LAYERS).or(assumed).unwrap_or(0).min(1 << 16);
    let interval = size(INTERVAL_KEY).unwrap_or(4).max(1);
    let attends = |layer: u64| (layer + 1).is_multiple_of(interval);
    let kinds: Value = (0..layers).map(|at| if attends(at) { FULL } else { LINEAR }).collect();
    config.insert(KINDS_KEY.to_owned(), kinds);
}

fn complete_config(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let size = |key: &str| keys.size(key).unwrap_or(0);
    let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
    let values = size("ssm.inner_size") / size("ssm.time_step_rank").max(1);
    config.insert(VALUE_SIZE_KEY.to_owned(), json!(values));
    let interval = keys.size(INTERVAL_KEY).unwrap_or(4).max(1);
    let flags = keys.flags("attention.recurrent_layers");
    let is_recurrent = |layer: u64| match flags.and_then(|flags| flags.get(layer as usize)) {
        Some(flag) => *flag,
        None => !(layer + 1).is_multiple_of(interval),
    };
    let kinds = (0..layers).map(|layer| if is_recurrent(layer) { LINEAR } else { FULL });
    config.insert(KINDS_KEY.to_owned(), kinds.collect());
    config.insert("attention_bias".to_owned(), json!(false));
    partial::restore(keys, config);
    decoder::restore_sections(keys, config);
}

/// What all three have in common.
macro_rules! common {
    ($class:expr, $name:literal, $outer:expr, $defaults:ident, $rules:ident) => {
        fn class_names(&self) -> &'static [&'static str] {
            $class
        }

        fn gguf_name(&self) -> &'static str {
            $name
        }

        fn outer_model_types(&self) -> &'static [&'static str] {
            $outer
        }

        fn defaults(&self) -> &'static ConfigDefaults {
            &$defaults
        }

        fn tensor_rules(&self) -> &'static [TensorRule] {
            $rules
        }

        fn rope_keys(&self) -> &'static [&'static str] {
            partial::KEYS
        }

        fn fill_config(&self, config: &mut Map<String, Value>) {
            fill_kinds(config, self.defaults());
        }

        fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
            contradiction(config)
        }

        fn further_names(&self) -> Option<FurtherNames> {
            Some(further::MODULE)
        }

        fn renames(&self) -> &'static [Rename] {
            &[Rename::Prefix("model.language_model.", "model.")]
        }

        fn towers(&self) -> &'static [&'static str] {
            &["model.visual.", "visual."]
        }
    };
}

impl Architecture for Qwen35 {
    common!(
        &["Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"],
        "qwen35",
        &["qwen3_5"],
        DENSE_DEFAULTS,
        DENSE_RULES
    );

    fn config_keys(&self) -> &'static [ConfigKey] {
        config_keys!()
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        OWN_METADATA
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        complete_config(keys, config);
        further::restore_count(FURTHER_KEY, keys, config);
    }
}

/// What the mixtures have in common.
macro_rules! mixture {
    ($fused:ident, $width:expr) => {
        fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
            &[$fused]
        }

        fn mixes_experts(&self) -> bool {
            true
        }

        fn has_dense_network(&self) -> bool {
            false
        }

        fn expert_key(&self) -> &'static str {
            "num_experts"
        }

        fn config_keys(&self) -> &'static [ConfigKey] {
            mixed_keys!($width)
        }

        fn metadata(&self) -> &'static [MetadataKey] {
            STANDARD_AND_MIXED
        }
    };
}

/// The standard metadata, and that of mixtures.
const STANDARD_AND_MIXED: &[MetadataKey] = &crate::lists::joined::<
    _,
    { STANDARD_METADATA.len() + MIXED_METADATA.len() },
>(&[STANDARD_METADATA, MIXED_METADATA]);

impl Architecture for Qwen35Moe {
    common!(
        &["Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"],
        "qwen35moe",
        &["qwen3_5_moe"],
        MIXED_DEFAULTS,
        MIXED_RULES
    );
    mixture!(FUSED_RULES, 512);

    fn own_metadata(&self) -> &'static [MetadataKey] {
        OWN_METADATA
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        complete_config(keys, config);
        further::restore_count(FURTHER_KEY, keys, config);
    }
}

impl Architecture for Qwen3Next {
    common!(&["Qwen3NextForCausalLM"], "qwen3next", &[], NEXT_DEFAULTS, NEXT_RULES);
    mixture!(FUSED_NEXT_RULES, 512);

    fn own_metadata(&self) -> &'static [MetadataKey] {
        NEXT_METADATA
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        complete_config(keys, config);
        config.insert(qwen2moe::NORMALIZES.to_owned(), json!(true));
        qwen2moe::all_layers_alike(config);
    }
}
