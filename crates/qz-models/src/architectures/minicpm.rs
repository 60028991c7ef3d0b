//! MiniCPM 1, 2 and 4 (`MiniCPMModel` in `conversion/minicpm.py`): Llama with factors on
//! embeddings, sums and logits, which a configuration states by depth and width; in some, the
//! length of the text decides about frequencies.

use qz_tensor::Value as Entry;
use serde_json::{Map, Value, json};

use super::{decoder, phi3};
use crate::architecture::{Architecture, ComputedTensor, Contradiction};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rope::{LONG_FACTORS_NAME, RopeScaling, SHORT_FACTORS_NAME};
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// MiniCPM 1, 2 and 4.
pub(super) struct MiniCpm;

/// Factors, with the keys that files have for them: on embeddings; over the root of the layers'
/// number on sums; the width that logits are divided by the hidden states' over.
const EMBEDDINGS: [&str; 2] = ["embedding_scale", "scale_emb"];
const SUMS: [&str; 2] = ["residual_scale", "scale_depth"];
const LOGITS: [&str; 2] = ["logit_scale", "dim_model_base"];

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::QUERY.paired(),
    decoder::KEY.paired(),
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::FEED_FORWARD_NORM,
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "minicpm",
    numbers: &[
        ("vocab_size", 32_000),
        ("hidden_size", 4096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-6),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// By how much what attention and network give is weakened.
fn sums(config: &ModelConfig) -> Option<Entry> {
    Some((of_depth(config.number(SUMS[1])?, config.layers) as f32).into())
}

fn of_depth(scale: f64, layers: u32) -> f64 {
    scale / f64::from(layers).sqrt()
}

fn logits(config: &ModelConfig) -> Option<Entry> {
    Some(((config.hidden as f64 / config.number(LOGITS[1])?) as f32).into())
}

/// The number of fewest digits near `number` of which `is_same` holds.
fn shortest_near(number: f64, is_same: impl Fn(f64) -> bool) -> Value {
    let digits = (0..17).filter_map(|digits| format!("{number:.digits$e}").parse::<f64>().ok());
    let shortest = digits.into_iter().find(|number| is_same(*number)).unwrap_or(number);
    // Configurations have whole numbers without a point.
    let whole = shortest as u64;
    if whole as f64 == shortest { json!(whole) } else { json!(shortest) }
}

impl Architecture for MiniCpm {
    fn class_names(&self) -> &'static [&'static str] {
        &["MiniCPMForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "minicpm"
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
                ConfigKey::number(EMBEDDINGS[1], Default::Required),
                ConfigKey::number(SUMS[1], Default::Required),
                ConfigKey::number(LOGITS[1], Default::Required),
            ]
        }
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        config.entry("tie_word_embeddings").or_insert(json!(true));
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let factors = [EMBEDDINGS[1], SUMS[1], LOGITS[1]];
        let none = factors.into_iter().find(|key| config.number(key).is_none_or(|own| own <= 0.0));
        if let Some(key) = none {
            return Some(Contradiction { key, problem: "is not above zero".to_owned() });
        }
        match &config.rope.scaling {
            RopeScaling::Long(long) if Some(long.original_context) != config.context => {
                let problem = format!(
                    "original_max_position_embeddings is {}, but files of this architecture cannot \
                     say another than max_position_embeddings",
                    long.original_context
                );
                Some(Contradiction { key: "rope_scaling", problem })
            }
            _ => phi3::wrong_count(config),
        }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        phi3::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        &[LONG_FACTORS_NAME, SHORT_FACTORS_NAME]
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::setting(EMBEDDINGS[0], EMBEDDINGS[1]),
                MetadataKey::computed(SUMS[0], sums),
                MetadataKey::computed(LOGITS[0], logits),
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let layers = keys.size("block_count").and_then(|layers| u32::try_from(layers).ok());
        let (layers, hidden) = (layers.unwrap_or(1), keys.size("embedding_length").unwrap_or(1));
        if let Some(stored) = keys.number(EMBEDDINGS[0]) {
            let value = shortest_near(f64::from(stored), |scale| scale as f32 == stored);
            config.insert(EMBEDDINGS[1].to_owned(), value);
        }
        if let Some(stored) = keys.number(SUMS[0]) {
            let scale = f64::from(stored) * f64::from(layers).sqrt();
            let value = shortest_near(scale, |scale| of_depth(scale, layers) as f32 == stored);
            config.insert(SUMS[1].to_owned(), value);
        }
        if let Some(stored) = keys.number(LOGITS[0]).filter(|stored| *stored > 0.0) {
            let hidden = hidden as f64;
            let base = hidden / f64::from(stored);
            let value = shortest_near(base, |base| (hidden / base) as f32 == stored);
            config.insert(LOGITS[1].to_owned(), value);
        }
        config.insert("attention_bias".to_owned(), json!(false));
    }
}
