//! MiniCPM 3 (`MiniCPM3Model` in `conversion/minicpm.py`): MiniCPM's factors, which its graph has
//! built in, and attention to a narrow vector of each token, which files have as checkpoints do.

use qz_tensor::Value as Entry;
use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use super::{decoder, phi3};
use crate::architecture::{Architecture, ComputedTensor, Contradiction};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rope::{LONG_FACTORS_NAME, RopeScaling, SHORT_FACTORS_NAME};
use crate::rules::Dimension::{Heads, Hidden, Product, Size, Sum};
use crate::rules::{Dimension, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// MiniCPM 3.
pub(super) struct MiniCpm3;

const QUERY_RANK: &str = "q_lora_rank";
const RANK: &str = "kv_lora_rank";
const PLAIN: &str = "qk_nope_head_dim";
const TURNED: &str = "qk_rope_head_dim";
const VALUE: &str = "v_head_dim";
/// The factors of the graph (`minicpm3.cpp` in llama.cpp).
const FACTORS: [(&str, f64); 3] =
    [("scale_emb", 12.0), ("scale_depth", 1.4), ("dim_model_base", 256.0)];

const QUERIES: Dimension = Product(&[Heads, Sum(&[Size(PLAIN), Size(TURNED)])]);
const KEYS_AND_VALUES: Dimension = Product(&[Heads, Sum(&[Size(PLAIN), Size(VALUE)])]);
const VALUES: Dimension = Product(&[Heads, Size(VALUE)]);

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    layer_weight!(Role::LatentQuery, "self_attn.q_a_proj", "attn_q_a", &[Size(QUERY_RANK), Hidden]),
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
    layer_weight!(
        Role::LatentKeyValueUp,
        "self_attn.kv_b_proj",
        "attn_kv_b",
        &[KEYS_AND_VALUES, Size(RANK)]
    ),
    decoder::ATTENTION_OUTPUT.shaped(&[Hidden, VALUES]),
    decoder::FEED_FORWARD_NORM,
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "minicpm3",
    numbers: &[
        ("vocab_size", 73_448),
        ("hidden_size", 2560),
        ("intermediate_size", 6400),
        ("num_hidden_layers", 62),
        ("num_attention_heads", 40),
        ("num_key_value_heads", 40),
        ("max_position_embeddings", 32_768),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

fn key_length(config: &ModelConfig) -> Option<Entry> {
    Some(((config.size(PLAIN)? + config.size(TURNED)?) as u32).into())
}

impl Architecture for MiniCpm3 {
    fn class_names(&self) -> &'static [&'static str] {
        &["MiniCPM3ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "minicpm3"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn has_own_heads(&self) -> bool {
        true
    }

    fn has_long_rope(&self) -> bool {
        true
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(QUERY_RANK, Default::Size(768)),
                ConfigKey::size_or(RANK, Default::Size(256)),
                ConfigKey::size_or(PLAIN, Default::Size(64)),
                ConfigKey::size_or(TURNED, Default::Size(32)),
                ConfigKey::size_or(VALUE, Default::Required),
                ConfigKey::exactly(FACTORS[0].0, FACTORS[0].1),
                ConfigKey::exactly(FACTORS[1].0, FACTORS[1].1),
                ConfigKey::exactly(FACTORS[2].0, FACTORS[2].1),
                ConfigKey::any("qk_head_dim"),
            ]
        }
    }

    /// A head's values are as long as the hidden states' part of it, unless a key says otherwise.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        config.entry("tie_word_embeddings").or_insert(json!(true));
        let size = |key: &str| config.get(key).and_then(Value::as_u64);
        let heads = size("num_attention_heads").unwrap_or(40).max(1);
        let implied = size("hidden_size").unwrap_or(2560) / heads;
        if config.get(VALUE).is_none_or(Value::is_null) {
            config.insert(VALUE.to_owned(), json!(implied));
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let say = |key, problem: String| Some(Contradiction { key, problem });
        let implied = config.hidden / config.heads.max(1);
        if let Some(size) = config.size(VALUE).filter(|size| *size != implied) {
            let problem = format!("is {size}, but files of this architecture mean {implied}");
            return say(VALUE, problem);
        }
        if config.key_value_heads != config.heads {
            return say("num_key_value_heads", "is not num_attention_heads".to_owned());
        }
        let theta = config.rope.theta.unwrap_or(DEFAULT_ROPE_THETA);
        if theta != DEFAULT_ROPE_THETA {
            let problem = format!("is {theta}, but files of this architecture mean 10000");
            return say("rope_theta", problem);
        }
        let turned = config.size(TURNED).unwrap_or(0);
        if turned == 0 || !turned.is_multiple_of(2) {
            return say(TURNED, "is odd, but rotary embedding needs an even number".to_owned());
        }
        match &config.rope.scaling {
            RopeScaling::None => None,
            RopeScaling::Long(long) if Some(long.original_context) != config.context => {
                let problem = format!(
                    "original_max_position_embeddings is {}, but files of this architecture cannot \
                     say another than max_position_embeddings",
                    long.original_context
                );
                say("rope_scaling", problem)
            }
            RopeScaling::Long(long) if long.long.len() as u64 != turned / 2 => {
                let count = long.long.len();
                let problem = format!("has {count} numbers for {} frequencies", turned / 2);
                say("rope_scaling.long_factor", problem)
            }
            RopeScaling::Long(_) => None,
            _ => say("rope_scaling", "files of this architecture cannot say it".to_owned()),
        }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        phi3::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        &[LONG_FACTORS_NAME, SHORT_FACTORS_NAME]
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::FileType,
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Layers,
                MetadataKey::Intermediate,
                MetadataKey::Heads,
                MetadataKey::KeyValueHeads,
                MetadataKey::RmsEpsilon,
                MetadataKey::computed("vocab_size", |config| {
                    Some((config.vocabulary as u32).into())
                }),
                MetadataKey::setting("attention.q_lora_rank", QUERY_RANK),
                MetadataKey::setting("attention.kv_lora_rank", RANK),
                MetadataKey::computed("attention.key_length", key_length),
                MetadataKey::setting("rope.dimension_count", TURNED),
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let size = |key: &str| keys.size(key).unwrap_or(0);
        let (key, turned) = (size("attention.key_length"), size("rope.dimension_count"));
        let value = size("embedding_length") / size("attention.head_count").max(1);
        let sizes = [
            (PLAIN, key.saturating_sub(turned)),
            (VALUE, value),
            ("qk_head_dim", key),
            ("head_dim", turned),
        ];
        for (key, size) in sizes {
            config.insert(key.to_owned(), json!(size));
        }
        for (key, factor) in FACTORS {
            let whole = factor as u64;
            let is_whole = whole as f64 == factor;
            config.insert(key.to_owned(), if is_whole { json!(whole) } else { json!(factor) });
        }
        config.insert("attention_bias".to_owned(), json!(false));
        config.insert("mlp_bias".to_owned(), json!(false));
    }
}
