//! DeepSeek V2 and V3 (`DeepseekV2Model` in `conversion/deepseek.py`): latent attention,
//! shared experts, dense layers in front. GGUF knows both by one name; the function that
//! makes weights of a router's logits tells them apart.

use qz_tensor::{Metadata, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use super::{decoder, experts};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::rope::RopeScaling;
use crate::rules::Dimension::{Heads, Hidden, Number, Product, Size, Sum};
use crate::rules::{Condition, Dimension, Presence, Role, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// DeepSeek V2.
pub(super) struct DeepseekV2;
/// DeepSeek V3 and R1.
pub(super) struct DeepseekV3;

const DENSE_LAYERS: &str = "first_k_dense_replace";
const QUERY_RANK: &str = "q_lora_rank";
const RANK: &str = "kv_lora_rank";
const PLAIN: &str = "qk_nope_head_dim";
const TURNED: &str = "qk_rope_head_dim";
const VALUE: &str = "v_head_dim";
const SHARED: &str = "n_shared_experts";

/// Rows of all heads' queries.
const QUERIES: Dimension = Product(&[Heads, Sum(&[Size(PLAIN), Size(TURNED)])]);
/// Rows of one head's keys and values.
const KEYS_AND_VALUES: Dimension = Sum(&[Size(PLAIN), Size(VALUE)]);
const SHARED_WIDTH: Dimension = Product(&[Size(experts::WIDTH_KEY), Size(SHARED)]);

const HAS_QUERY_RANK: Condition =
    Condition { key: QUERY_RANK, holds: |config, _| config.size(QUERY_RANK).is_some() };
const NO_QUERY_RANK: Condition =
    Condition { key: QUERY_RANK, holds: |config, _| config.size(QUERY_RANK).is_none() };
const DENSE: Condition = Condition {
    key: DENSE_LAYERS,
    holds: |config, layer| u64::from(layer.0) < config.size(DENSE_LAYERS).unwrap_or(0),
};
const MIXED: Condition = Condition {
    key: DENSE_LAYERS,
    holds: |config, layer| u64::from(layer.0) >= config.size(DENSE_LAYERS).unwrap_or(0),
};
const HAS_SHARED: Condition = Condition {
    key: SHARED,
    holds: |config, layer| {
        (MIXED.holds)(config, layer) && config.size(SHARED).is_some_and(|count| count > 0)
    },
};

const KEYS_AND_VALUES_UP: TensorRule = layer_weight!(
    Role::LatentKeyUp,
    "self_attn.kv_b_proj",
    "attn_k_b",
    &[Product(&[Heads, KEYS_AND_VALUES]), Size(RANK)]
);

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    layer_weight!(Role::AttentionQuery, "self_attn.q_proj", "attn_q", &[QUERIES, Hidden])
        .only(NO_QUERY_RANK),
    layer_weight!(Role::LatentQuery, "self_attn.q_a_proj", "attn_q_a", &[Size(QUERY_RANK), Hidden])
        .only(HAS_QUERY_RANK),
    layer_weight!(
        Role::LatentQueryNorm,
        "self_attn.q_a_layernorm",
        "attn_q_a_norm",
        &[Size(QUERY_RANK)]
    )
    .only(HAS_QUERY_RANK),
    layer_weight!(
        Role::LatentQueryUp,
        "self_attn.q_b_proj",
        "attn_q_b",
        &[QUERIES, Size(QUERY_RANK)]
    )
    .only(HAS_QUERY_RANK),
    layer_weight!(
        Role::LatentKeyValue,
        "self_attn.kv_a_proj_with_mqa",
        "attn_kv_a_mqa",
        &[Sum(&[Size(RANK), Size(TURNED)]), Hidden]
    ),
    layer_weight!(
        Role::LatentKeyValueNorm,
        "self_attn.kv_a_layernorm",
        "attn_kv_a_norm",
        &[Size(RANK)]
    ),
    // llama.cpp multiplies queries with the transposed half that makes keys.
    KEYS_AND_VALUES_UP
        .transformed(Transform::part(KEYS_AND_VALUES, Number(0), Size(PLAIN)).transposed())
        .reshaped(&[Heads, Size(RANK), Size(PLAIN)]),
    TensorRule { role: Role::LatentValueUp, ..KEYS_AND_VALUES_UP }
        .gguf("blk.{layer}.attn_v_b.weight")
        .transformed(Transform::part(KEYS_AND_VALUES, Size(PLAIN), Size(VALUE)))
        .reshaped(&[Heads, Size(VALUE), Size(RANK)]),
    layer_weight!(
        Role::AttentionOutput,
        "self_attn.o_proj",
        "attn_output",
        &[Hidden, Product(&[Heads, Size(VALUE)])]
    ),
    decoder::FEED_FORWARD_NORM,
    decoder::GATE.only(DENSE),
    decoder::UP.only(DENSE),
    decoder::DOWN.only(DENSE),
    experts::ROUTER.only(MIXED),
    experts::SELECTION_BIAS.when(Presence::Optional).only(MIXED),
    experts::GATE.only(MIXED),
    experts::UP.only(MIXED),
    experts::DOWN.only(MIXED),
    experts::SHARED_GATES.shaped(&[SHARED_WIDTH, Hidden]).only(HAS_SHARED),
    experts::SHARED_UPS.shaped(&[SHARED_WIDTH, Hidden]).only(HAS_SHARED),
    experts::SHARED_DOWNS.shaped(&[Hidden, SHARED_WIDTH]).only(HAS_SHARED),
];

static V2_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "deepseek_v2",
    numbers: &[
        ("vocab_size", 102_400),
        ("hidden_size", 4096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2048),
        ("n_routed_experts", 64),
    ],
    ..DEFAULTS
};

static V3_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "deepseek_v3",
    numbers: &[
        ("vocab_size", 129_280),
        ("hidden_size", 7168),
        ("intermediate_size", 18_432),
        ("num_hidden_layers", 61),
        ("num_attention_heads", 128),
        ("max_position_embeddings", 4096),
        ("n_routed_experts", 256),
        ("num_experts_per_tok", 8),
    ],
    ..DEFAULTS
};

/// What both assume.
const DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "",
    numbers: &[],
    // Of the part that is turned; the keys say the rest.
    head_size: DefaultHeadSize::Fixed(64),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// The keys of one of the two.
macro_rules! config_keys {
    ($dense:expr, $shared:expr, $width:expr, $groups:expr, $used:expr, $scale:expr, $norm:expr, $gating:expr) => {
        &[
            ConfigKey::count_or(DENSE_LAYERS, Default::Size($dense)),
            ConfigKey::count_or(SHARED, Default::Size($shared)),
            ConfigKey::size_or(experts::WIDTH_KEY, Default::Size($width)),
            ConfigKey::size_or(QUERY_RANK, Default::Absent),
            ConfigKey::size_or(RANK, Default::Size(512)),
            ConfigKey::size_or(PLAIN, Default::Size(128)),
            ConfigKey::size_or(TURNED, Default::Size(64)),
            ConfigKey::size_or(VALUE, Default::Size(128)),
            ConfigKey::count_or("n_group", $groups),
            ConfigKey::count_or("topk_group", $used),
            ConfigKey::number("routed_scaling_factor", Default::Number($scale)),
            ConfigKey::flag("norm_topk_prob", Default::Flag($norm)),
            ConfigKey::word("scoring_func", &["softmax", "sigmoid"], $gating),
            ConfigKey::count_or("num_nextn_predict_layers", Default::Absent),
            ConfigKey::flag("rope_interleave", Default::Flag(true)),
            ConfigKey::any("topk_method"),
            ConfigKey::any("qk_head_dim"),
            ConfigKey::any("moe_layer_freq"),
        ]
    };
}

/// Whether the reference's converter finds that a router's weights are normalized.
fn normalizes(config: &ModelConfig) -> Option<Entry> {
    config.flag("norm_topk_prob").filter(|normalizes| *normalizes).map(Entry::from)
}

fn score_growth(config: &ModelConfig) -> Option<Entry> {
    let RopeScaling::Yarn(yarn) = &config.rope.scaling else { return None };
    yarn.score_growth.map(|growth| ((0.1 * growth) as f32).into())
}

/// The sum of two sizes.
fn sum(config: &ModelConfig, keys: [&str; 2]) -> Option<Entry> {
    let [a, b] = keys.map(|key| config.size(key));
    Some(((a? + b?) as u32).into())
}

const OWN_METADATA: &[MetadataKey] = &[
    // Keys and values are of one head, the narrow one.
    MetadataKey::computed("attention.head_count_kv", |_| Some(1u32.into())),
    MetadataKey::setting("leading_dense_block_count", DENSE_LAYERS),
    MetadataKey::computed("vocab_size", |config| Some((config.vocabulary as u32).into())),
    MetadataKey::setting("attention.q_lora_rank", QUERY_RANK),
    MetadataKey::setting("attention.kv_lora_rank", RANK),
    MetadataKey::computed("attention.key_length", |config| sum(config, [RANK, TURNED])),
    MetadataKey::setting("attention.value_length", RANK),
    MetadataKey::computed("attention.key_length_mla", |config| sum(config, [PLAIN, TURNED])),
    MetadataKey::setting("attention.value_length_mla", VALUE),
    MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
    MetadataKey::setting("expert_shared_count", SHARED),
    MetadataKey::setting("expert_weights_scale", "routed_scaling_factor"),
    MetadataKey::computed("expert_weights_norm", normalizes),
    MetadataKey::setting("rope.dimension_count", TURNED),
    MetadataKey::computed("rope.scaling.yarn_log_multiplier", score_growth),
];

/// Groups that experts do not fill, and orders of rows that are another family's.
fn contradiction(config: &ModelConfig) -> Option<Contradiction> {
    let say = |key, problem| Some(Contradiction { key, problem });
    if config.flag("rope_interleave") == Some(false) {
        let problem = "is false, but neighbours are turned together here".to_owned();
        return say("rope_interleave", problem);
    }
    if config.size(TURNED).is_some_and(|turned| !turned.is_multiple_of(2)) {
        return say(TURNED, "is odd, but rotary embedding needs an even number".to_owned());
    }
    experts::wrong_groups(config)
}

/// What follows from the sizes of the narrow attention.
fn complete_config(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let size = |key: &str| keys.size(key).unwrap_or(0);
    let turned = size("rope.dimension_count");
    let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
    set(PLAIN, json!(size("attention.key_length_mla").saturating_sub(turned)));
    set(TURNED, json!(turned));
    set("head_dim", json!(turned));
    set("qk_head_dim", json!(size("attention.key_length_mla")));
    set("rope_interleave", json!(true));
    set("attention_bias", json!(false));
    set("mlp_bias", json!(false));
    set(RANK, json!(size("attention.kv_lora_rank")));
    set(QUERY_RANK, json!(keys.size("attention.q_lora_rank")));
    set("num_key_value_heads", json!(size("attention.head_count")));
    set("norm_topk_prob", json!(keys.is_set("expert_weights_norm")));
    set("num_nextn_predict_layers", json!(0));
}

/// What both have in common.
macro_rules! common {
    () => {
        fn gguf_name(&self) -> &'static str {
            "deepseek2"
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

        fn rope_keys(&self) -> &'static [&'static str] {
            &["mscale", "mscale_all_dim"]
        }

        fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
            contradiction(config)
        }

        fn further_layers(&self, config: &ModelConfig) -> u32 {
            let further = config.size("num_nextn_predict_layers").unwrap_or(0);
            u32::try_from(further).unwrap_or(u32::MAX)
        }

        fn own_metadata(&self) -> &'static [MetadataKey] {
            OWN_METADATA
        }
    };
}

impl Architecture for DeepseekV2 {
    common!();

    fn class_names(&self) -> &'static [&'static str] {
        &["DeepseekV2ForCausalLM"]
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        !is_sigmoid(metadata)
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &V2_DEFAULTS
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            let none = Default::Absent;
            config_keys!(0, 2, 1407, none, none, 1.0, false, none)
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        complete_config(keys, config);
        let is_grouped = config.get("n_group").and_then(Value::as_u64).is_some_and(|n| n > 1);
        let method = if is_grouped { "group_limited_greedy" } else { "greedy" };
        config.insert("topk_method".to_owned(), json!(method));
    }
}

impl Architecture for DeepseekV3 {
    common!();

    fn class_names(&self) -> &'static [&'static str] {
        &["DeepseekV3ForCausalLM"]
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        is_sigmoid(metadata)
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &V3_DEFAULTS
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            let [groups, used] = [Default::Size(8), Default::Size(4)];
            config_keys!(3, 1, 2048, groups, used, 2.5, true, Default::Word("sigmoid"))
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        complete_config(keys, config);
        config.insert("topk_method".to_owned(), json!("noaux_tc"));
    }
}

/// True if a router's logits become weights one by one.
fn is_sigmoid(metadata: &Metadata) -> bool {
    metadata.unsigned("deepseek2.expert_gating_func") == Some(2)
}
