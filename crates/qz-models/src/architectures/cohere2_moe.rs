//! Cohere 2 with experts (`Cohere2MoeModel` in `conversion/command_r.py`): attention and experts
//! beside each other behind one norm, windows on some layers, which alone turn beside those in
//! front that have no experts.

use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::experts::{DENSE_KEY, SHARED_KEY};
use super::{cohere, decoder, experts, further, llama};
use crate::architecture::{Architecture, Contradiction, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::further::FurtherNames;
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, FULL, GgufKeys, MetadataKey, SLIDING};

/// Cohere 2 with experts.
pub(super) struct Cohere2Moe;

const NORMALIZES_KEY: &str = "norm_topk_prob";
const FURTHER_KEY: &str = "num_nextn_predict_layers";
const COMBINATION_KEY: &str = "shared_expert_combination_strategy";
const WINDOW: &str = "sliding_window";
const KINDS: &str = "layer_types";
/// Of so many layers in front, and behind them, the last sees all positions.
const DENSE_PERIOD_KEY: &str = "prefix_dense_sliding_window_pattern";
const PERIOD_KEY: &str = "sliding_window_pattern";

/// What is no expert.
const OTHERS: &[TensorRule] = rules![&decoder::AROUND, &decoder::ATTENTION, &further::ALL];
static RULES: &[TensorRule] = rules![OTHERS, &experts::behind_dense(experts::EACH)];
const FUSED_RULES: &[TensorRule] = rules![OTHERS, &experts::behind_dense(experts::FUSED)];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "cohere2_moe",
    numbers: &[
        ("vocab_size", 256_000),
        ("hidden_size", 8_192),
        ("num_hidden_layers", 40),
        ("num_attention_heads", 64),
        ("max_position_embeddings", 8_192),
        ("num_experts", 8),
        ("num_experts_per_tok", 2),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

const METADATA: &[MetadataKey] = &[
    cohere::SCALE_STORED,
    MetadataKey::setting("attention.sliding_window", WINDOW),
    MetadataKey::setting("attention.sliding_window_pattern", KINDS),
    llama::VOCABULARY_SIZE,
    MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
    MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
    MetadataKey::setting("expert_weights_norm", NORMALIZES_KEY),
    MetadataKey::computed("expert_shared_count", |config| {
        let count = config.size(SHARED_KEY).filter(|count| *count > 0)?;
        Some((count as u32).into())
    }),
    experts::SHARED_LENGTH,
    further::COUNT,
    llama::TURNED,
    cohere::UNSCALED,
];

/// The kinds of so many layers, of which the first have no experts.
fn kinds(layers: u64, dense: u64, periods: [u64; 2]) -> Vec<&'static str> {
    let kind = |layer: u64| {
        let (at, period) =
            if layer < dense { (layer, periods[0]) } else { (layer - dense, periods[1]) };
        if (at + 1).is_multiple_of(period.max(1)) { FULL } else { SLIDING }
    };
    (0..layers).map(kind).collect()
}

impl Architecture for Cohere2Moe {
    fn class_names(&self) -> &'static [&'static str] {
        &["Cohere2MoeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "cohere2moe"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
        &[FUSED_RULES]
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn expert_key(&self) -> &'static str {
        "num_experts"
    }

    /// A model may have nothing but experts.
    fn has_dense_network(&self) -> bool {
        false
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "intermediate_size", common: experts::WIDTH_KEY },
            Spelling { own: "prefix_dense_intermediate_size", common: "intermediate_size" },
            Spelling { own: "num_shared_experts", common: SHARED_KEY },
            Spelling { own: "expert_selection_fn", common: "scoring_func" },
        ]
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        cohere::fill(config);
        experts::fill_dense(config);
        let size = |key: &str| config.get(key).and_then(Value::as_u64);
        let layers = size("num_hidden_layers").unwrap_or(0).min(1 << 16);
        let periods = [size(DENSE_PERIOD_KEY).unwrap_or(1), size(PERIOD_KEY).unwrap_or(4)];
        let kinds = kinds(layers, size(DENSE_KEY).unwrap_or(0), periods);
        let stated = config.entry(KINDS).or_insert(Value::Null);
        if stated.is_null() {
            *stated = json!(kinds);
        }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                cohere::SCALE,
                ConfigKey::count_or(DENSE_KEY, Default::Size(0)),
                ConfigKey::count_or(SHARED_KEY, Default::Size(0)),
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(22_528)),
                ConfigKey::flag(NORMALIZES_KEY, Default::Flag(true)),
                ConfigKey::word("scoring_func", &["softmax", "sigmoid"], Default::Word("softmax")),
                ConfigKey::word(COMBINATION_KEY, &["average"], Default::Word("average")),
                ConfigKey::size_or(WINDOW, Default::Size(4096)),
                ConfigKey::windows(KINDS),
                ConfigKey::size_or(DENSE_PERIOD_KEY, Default::Size(1)),
                ConfigKey::any(PERIOD_KEY),
                ConfigKey::count_or(FURTHER_KEY, Default::Absent),
                ConfigKey::word("position_embedding_type", &["rope_gptj"], Default::Absent),
                ConfigKey::exactly("rotary_pct", 1.0),
                ConfigKey::any("mlp_layer_types"),
                ConfigKey::any("use_embedding_sharing"),
                ConfigKey::any("use_gated_activation"),
                ConfigKey::any("use_parallel_block"),
                ConfigKey::any("use_parallel_embedding"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
        let dense = config.size(DENSE_KEY).unwrap_or(0);
        if config.word("scoring_func") == Some("softmax")
            && config.flag(NORMALIZES_KEY) == Some(false)
        {
            return say(NORMALIZES_KEY, "is false, but a softmax of those chosen has the sum 1");
        }
        if dense > 0 && config.size(DENSE_PERIOD_KEY) != Some(1) {
            return say(DENSE_PERIOD_KEY, "is not 1, but graphs turn all layers without experts");
        }
        if dense > 0 && config.intermediate == 0 {
            return say("intermediate_size", "is missing, but there are layers without experts");
        }
        None
    }

    fn further_layers(&self, config: &ModelConfig) -> u32 {
        u32::try_from(config.size(FURTHER_KEY).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    fn further_names(&self) -> Option<FurtherNames> {
        Some(FurtherNames::Numbered)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        further::restore_count(FURTHER_KEY, keys, config);
        config.insert(COMBINATION_KEY.to_owned(), json!("average"));
        config.insert(DENSE_PERIOD_KEY.to_owned(), json!(1));
        config.insert(PERIOD_KEY.to_owned(), json!(4));
        config.insert(SHARED_KEY.to_owned(), json!(keys.size("expert_shared_count").unwrap_or(0)));
        experts::restore_kinds(keys, config);
    }
}
