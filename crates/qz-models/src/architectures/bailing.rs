//! Ling (`BailingMoeModel`, `BailingMoeV2Model` in `conversion/bailingmoe.py`): queries, keys and
//! values in one matrix, DeepSeek's experts. The first one's softmax has no bias; of the second
//! heads are normed and turn in part.

use serde_json::{Map, Value, json};

use super::decoder::{layer_weight, rules};
use super::experts::{DENSE_KEY, SHARED_KEY};
use super::{decoder, experts, further, llama, partial};
use crate::architecture::{Architecture, Contradiction, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_RMS_EPSILON, DefaultHeadSize, DefaultWindow};
use crate::further::FurtherNames;
use crate::hyperparameters::ModelConfig;
use crate::lists::joined;
use crate::rules::Dimension::{Hidden, KeyValues, Number, Queries, Sum};
use crate::rules::{Dimension, Presence, Role, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Ling.
pub(super) struct Bailing;
/// Ling 2.
pub(super) struct Bailing2;

const FURTHER_KEY: &str = "num_nextn_predict_layers";
const SCALE_KEY: &str = "routed_scaling_factor";
const NORMALIZES_KEY: &str = "norm_topk_prob";

const FUSED_ROWS: Dimension = Sum(&[Queries, KeyValues, KeyValues]);
const FUSED_NAME: &str = "model.layers.{layer}.attention.query_key_value.weight";

/// One of the three of a matrix, which begins after so many rows.
const fn part(rule: TensorRule, first: Dimension, rows: Dimension) -> TensorRule {
    rule.named(FUSED_NAME)
        .shaped(&[FUSED_ROWS, Hidden])
        .transformed(Transform::part(FUSED_ROWS, first, rows))
}

/// What both have in front of networks, but for queries, keys and values.
const OTHERS: [TensorRule; 6] = [
    decoder::TOKEN_EMBEDDING.named("model.word_embeddings.weight"),
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::ATTENTION_OUTPUT.named("model.layers.{layer}.attention.dense.weight"),
    decoder::FEED_FORWARD_NORM,
];
static RULES: &[TensorRule] = rules![
    &OTHERS,
    &[
        part(decoder::QUERY, Number(0), Queries).paired(),
        part(decoder::KEY, Queries, KeyValues).paired(),
        part(decoder::VALUE, Sum(&[Queries, KeyValues]), KeyValues),
    ],
    &experts::behind_dense(experts::EACH),
];
static RULES_OF_2: &[TensorRule] = rules![
    &OTHERS,
    &[
        layer_weight!(
            Role::AttentionQueryKeyValue,
            "attention.query_key_value",
            "attn_qkv",
            &[FUSED_ROWS, Hidden]
        ),
        decoder::QUERY_NORM.named("model.layers.{layer}.attention.query_layernorm.weight"),
        decoder::KEY_NORM.named("model.layers.{layer}.attention.key_layernorm.weight"),
        experts::BIAS.named("model.layers.{layer}.mlp.gate.expert_bias").when(Presence::Optional),
        // The norm behind a layer that predicts further tokens.
        layer_weight!(Role::NextTokenOutputNorm, "final_layernorm", "layer_output_norm", &[Hidden])
            .only(crate::further::FURTHER)
            .when(Presence::Optional),
    ],
    &further::ALL,
    &experts::behind_dense(experts::EACH),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "bailing_moe",
    numbers: &[
        ("vocab_size", 30_592),
        ("hidden_size", 1024),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 16),
        ("max_position_embeddings", 16_384),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: 10_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// Keys of published configurations that both have.
const COMMON_KEYS: [ConfigKey; 13] = [
    ConfigKey::count_or(DENSE_KEY, Default::Size(0)),
    ConfigKey::count_or(SHARED_KEY, Default::Size(0)),
    ConfigKey::size_or(experts::WIDTH_KEY, Default::Required),
    ConfigKey::flag(NORMALIZES_KEY, Default::Flag(true)),
    ConfigKey::flag("use_bias", Default::Flag(false)),
    ConfigKey::flag("use_qkv_bias", Default::Flag(false)),
    ConfigKey::flag("norm_head", Default::Flag(false)),
    ConfigKey::flag("norm_softmax", Default::Flag(false)),
    ConfigKey::flag("use_rmsnorm", Default::Flag(true)),
    ConfigKey::any("multi_gate"),
    ConfigKey::any("router_dtype"),
    ConfigKey::any("using_split_qkv_in_self_attention"),
    ConfigKey::any("rotary_type"),
];

/// Switches of what is not computed.
fn unsupported(config: &ModelConfig) -> Option<Contradiction> {
    let asked = [
        ("use_bias", true),
        ("use_qkv_bias", true),
        ("norm_head", true),
        ("norm_softmax", true),
        ("use_rmsnorm", false),
    ];
    let (key, value) = asked.into_iter().find(|(key, value)| config.flag(key) == Some(*value))?;
    Some(Contradiction { key, problem: format!("is {value}, which is not supported") })
}

/// What both have in common.
macro_rules! common {
    () => {
        fn mixes_experts(&self) -> bool {
            true
        }

        fn expert_key(&self) -> &'static str {
            "num_experts"
        }

        fn outer_model_types(&self) -> &'static [&'static str] {
            &["bailing_moe", "bailing_moe_v2", "bailing_moe_linear"]
        }
    };
}

impl Architecture for Bailing {
    common!();

    fn class_names(&self) -> &'static [&'static str] {
        &["BailingMoeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "bailingmoe"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[Spelling { own: "num_shared_experts", common: SHARED_KEY }]
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &COMMON_KEYS }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let dense = config.size(DENSE_KEY).filter(|dense| *dense > 0);
        let problem =
            |dense| format!("is {dense}, but graphs of this architecture have experts everywhere");
        let dense = dense.map(|dense| Contradiction { key: DENSE_KEY, problem: problem(dense) });
        unsupported(config).or(dense)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                llama::TURNED,
                MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
                llama::VOCABULARY_SIZE,
                MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
                MetadataKey::computed("expert_weights_scale", |_| Some(1.0f32.into())),
                MetadataKey::setting("expert_shared_count", SHARED_KEY),
                MetadataKey::setting("expert_weights_norm", NORMALIZES_KEY),
            ]
        }
    }
}

impl Architecture for Bailing2 {
    common!();

    fn class_names(&self) -> &'static [&'static str] {
        &["BailingMoeV2ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "bailingmoe2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES_OF_2
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        partial::KEYS
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "num_shared_experts", common: SHARED_KEY },
            Spelling { own: "score_function", common: "scoring_func" },
        ]
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        partial::fill(config, 0.5);
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        KEYS_OF_2
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let shared = config.size(SHARED_KEY).unwrap_or(0);
        let width = config.size(SHARED_WIDTH_KEY);
        let expected = config.size(experts::WIDTH_KEY).map(|width| width * shared);
        if width.is_some() && width != expected {
            let problem = format!("is {width:?}, but the shared experts are {expected:?} wide");
            return Some(Contradiction { key: SHARED_WIDTH_KEY, problem });
        }
        if shared != 1 {
            let problem = format!("is {shared}, but graphs of this architecture compute with one");
            return Some(Contradiction { key: SHARED_KEY, problem });
        }
        unsupported(config).or_else(|| experts::wrong_groups(config))
    }

    fn further_layers(&self, config: &ModelConfig) -> u32 {
        u32::try_from(config.size(FURTHER_KEY).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    fn further_names(&self) -> Option<FurtherNames> {
        Some(FurtherNames::Numbered)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                partial::TURNED,
                MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
                llama::VOCABULARY_SIZE,
                MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
                experts::SHARED_LENGTH,
                MetadataKey::setting("expert_weights_scale", SCALE_KEY),
                MetadataKey::setting("expert_shared_count", SHARED_KEY),
                MetadataKey::setting("expert_weights_norm", NORMALIZES_KEY),
                MetadataKey::computed("nextn_predict_layers", |config| {
                    config.size(FURTHER_KEY).map(|_| config.further.into())
                }),
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        partial::restore(keys, config);
        further::restore_count(FURTHER_KEY, keys, config);
        config.insert("use_qk_norm".to_owned(), json!(true));
        let shared = keys.size("expert_shared_feed_forward_length");
        config.insert(SHARED_WIDTH_KEY.to_owned(), json!(shared));
    }
}

const SHARED_WIDTH_KEY: &str = "moe_shared_expert_intermediate_size";
const KEYS_OF_2: &[ConfigKey] = {
    const OWN: &[ConfigKey] = &[
        ConfigKey::size_or(SHARED_WIDTH_KEY, Default::Absent),
        ConfigKey::count_or("n_group", Default::Size(8)),
        ConfigKey::count_or("topk_group", Default::Size(4)),
        ConfigKey::number(SCALE_KEY, Default::Number(2.5)),
        ConfigKey::word("scoring_func", &["sigmoid"], Default::Word("sigmoid")),
        ConfigKey::count_or(FURTHER_KEY, Default::Absent),
        ConfigKey::any(partial::KEY),
        ConfigKey::any("rotary_dim"),
        ConfigKey::any("moe_router_enable_expert_bias"),
    ];
    &joined::<_, { COMMON_KEYS.len() + OWN.len() }>(&[&COMMON_KEYS, OWN])
};
