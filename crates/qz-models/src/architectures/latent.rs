//! What DeepSeek V2, V3 and their like share (`DeepseekV2Model` in `conversion/deepseek.py`): latent
//! attention, shared experts, dense layers in front. GGUF knows all of them by one name.

use qz_tensor::Value as Entry;
use serde_json::{Map, Value, json};

use super::decoder::{layer_weight, rules};
use super::experts::{DENSE_KEY, SHARED_KEY};
use super::{decoder, experts, state_space};
use crate::architecture::Contradiction;
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::hyperparameters::ModelConfig;
use crate::lists::joined;
use crate::rope::RopeScaling;
use crate::rules::Dimension::{Heads, Hidden, Number, Product, Size, Sum};
use crate::rules::{Condition, Dimension, Presence, Role, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

const QUERY_RANK: &str = "q_lora_rank";
const RANK: &str = "kv_lora_rank";
pub(super) const PLAIN: &str = "qk_nope_head_dim";
pub(super) const TURNED: &str = "qk_rope_head_dim";
const VALUE: &str = "v_head_dim";
pub(super) const FURTHER_KEY: &str = "num_nextn_predict_layers";

/// Rows of all heads' queries.
const QUERIES: Dimension = Product(&[Heads, Sum(&[Size(PLAIN), Size(TURNED)])]);
/// Rows of one head's keys and values.
const KEYS_AND_VALUES: Dimension = Sum(&[Size(PLAIN), Size(VALUE)]);

const HAS_QUERY_RANK: Condition =
    Condition { key: QUERY_RANK, holds: |config, _| config.size(QUERY_RANK).is_some() };
const NO_QUERY_RANK: Condition =
    Condition { key: QUERY_RANK, holds: |config, _| config.size(QUERY_RANK).is_none() };

const KEYS_AND_VALUES_UP: TensorRule = layer_weight!(
    Role::LatentKeyUp,
    "self_attn.kv_b_proj",
    "attn_k_b",
    &[Product(&[Heads, KEYS_AND_VALUES]), Size(RANK)]
);

const QUERY: TensorRule =
    layer_weight!(Role::AttentionQuery, "self_attn.q_proj", "attn_q", &[QUERIES, Hidden]);

/// What makes queries of a narrow vector, which not all models have.
const RANKED_QUERY: [TensorRule; 3] = state_space::only(
    [
        layer_weight!(
            Role::LatentQuery,
            "self_attn.q_a_proj",
            "attn_q_a",
            &[Size(QUERY_RANK), Hidden]
        ),
        layer_weight!(
            Role::LatentQueryNorm,
            "self_attn.q_a_layernorm",
            "attn_q_a_norm",
            &[Size(QUERY_RANK)]
        ),
        layer_weight!(
            Role::LatentQueryUp,
            "self_attn.q_b_proj",
            "attn_q_b",
            &[QUERIES, Size(QUERY_RANK)]
        ),
    ],
    HAS_QUERY_RANK,
);

const KEYS_VALUES_OUTPUT: [TensorRule; 5] = [
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
];

/// Attention, and the norm in front of it.
pub(super) const ATTENTION: [TensorRule; 10] = joined(&[
    &[decoder::ATTENTION_NORM, QUERY.only(NO_QUERY_RANK)],
    &RANKED_QUERY,
    &KEYS_VALUES_OUTPUT,
]);
/// Attention of a family whose queries are made of no narrow vector.
pub(super) const WITHOUT_QUERY_RANK: [TensorRule; 6] = joined(&[&[QUERY], &KEYS_VALUES_OUTPUT]);

pub(super) static RULES: &[TensorRule] = rules![
    &decoder::AROUND,
    &ATTENTION,
    &[decoder::FEED_FORWARD_NORM, experts::BIAS.when(Presence::Optional)],
    &experts::behind_dense(experts::EACH),
];

/// What most assume.
pub(super) const DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "",
    numbers: &[],
    // Of the part that is turned; the keys say the rest.
    head_size: DefaultHeadSize::Fixed(64),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// What a family of these assumes where its configuration is silent.
pub(super) struct Assumed {
    pub(super) dense: u64,
    pub(super) shared: u64,
    /// Width of an expert.
    pub(super) width: u64,
    pub(super) query_rank: Default,
    pub(super) rank: u64,
    /// Elements of a head's queries that do not turn, and of its values.
    pub(super) still: u64,
    pub(super) value: u64,
    /// Groups of experts, and those that are used.
    pub(super) groups: [Default; 2],
    pub(super) scale: f64,
    pub(super) normalizes: bool,
    pub(super) gating: Default,
}

/// The keys of a family that assumes this.
pub(super) const fn config_keys(assumed: &Assumed) -> [ConfigKey; 19] {
    [
        ConfigKey::count_or(DENSE_KEY, Default::Size(assumed.dense)),
        ConfigKey::count_or(SHARED_KEY, Default::Size(assumed.shared)),
        ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(assumed.width)),
        ConfigKey::size_or(QUERY_RANK, assumed.query_rank),
        ConfigKey::size_or(RANK, Default::Size(assumed.rank)),
        ConfigKey::size_or(PLAIN, Default::Size(assumed.still)),
        ConfigKey::size_or(TURNED, Default::Size(64)),
        ConfigKey::size_or(VALUE, Default::Size(assumed.value)),
        ConfigKey::count_or("n_group", assumed.groups[0]),
        ConfigKey::count_or("topk_group", assumed.groups[1]),
        ConfigKey::number("routed_scaling_factor", Default::Number(assumed.scale)),
        ConfigKey::flag("norm_topk_prob", Default::Flag(assumed.normalizes)),
        ConfigKey::word("scoring_func", &["softmax", "sigmoid"], assumed.gating),
        ConfigKey::count_or(FURTHER_KEY, Default::Absent),
        ConfigKey::flag("rope_interleave", Default::Flag(true)),
        ConfigKey::any("topk_method"),
        ConfigKey::any("qk_head_dim"),
        ConfigKey::any("moe_layer_freq"),
        ConfigKey::any("mlp_layer_types"),
    ]
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

pub(super) const RANK_LENGTH: MetadataKey = MetadataKey::setting("attention.kv_lora_rank", RANK);
pub(super) const KEY_LENGTH: MetadataKey =
    MetadataKey::computed("attention.key_length", |config| sum(config, [RANK, TURNED]));
pub(super) const HEAD_LENGTH: MetadataKey =
    MetadataKey::computed("attention.key_length_mla", |config| sum(config, [PLAIN, TURNED]));
pub(super) const VALUE_LENGTH: MetadataKey =
    MetadataKey::setting("attention.value_length_mla", VALUE);
pub(super) const TURNED_LENGTH: MetadataKey = MetadataKey::setting("rope.dimension_count", TURNED);

pub(super) const OWN_METADATA: &[MetadataKey] = &[
    // Keys and values are of one head, the narrow one.
    MetadataKey::computed("attention.head_count_kv", |_| Some(1u32.into())),
    MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
    MetadataKey::computed("vocab_size", |config| Some((config.vocabulary as u32).into())),
    MetadataKey::setting("attention.q_lora_rank", QUERY_RANK),
    RANK_LENGTH,
    KEY_LENGTH,
    MetadataKey::setting("attention.value_length", RANK),
    HEAD_LENGTH,
    VALUE_LENGTH,
    MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
    MetadataKey::setting("expert_shared_count", SHARED_KEY),
    MetadataKey::setting("expert_weights_scale", "routed_scaling_factor"),
    MetadataKey::computed("expert_weights_norm", normalizes),
    TURNED_LENGTH,
    MetadataKey::computed("rope.scaling.yarn_log_multiplier", score_growth),
];

/// Groups that experts do not fill, and orders of rows that are another family's.
pub(super) fn contradiction(config: &ModelConfig) -> Option<Contradiction> {
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
pub(super) fn complete_config(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
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
    set(FURTHER_KEY, json!(0));
}
