//! ERNIE 4.5 with experts (`Ernie4_5MoeModel` in `conversion/ernie.py`): a softmax with a bias to
//! choose by, and DeepSeek's shared experts. Its checkpoints pair neighbours, as its graph does.

use qz_tensor::Value as Entry;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::experts::{DENSE_KEY, SHARED_KEY, STEP_KEY};
use super::{decoder, experts};
use crate::architecture::{Architecture, Contradiction, Rename, Spelling};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Experts, Number};
use crate::rules::{Dimension, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// ERNIE 4.5 with experts.
pub(super) struct ErnieMoe;

/// The last layer with experts; −1 is the last of all.
const END_KEY: &str = "moe_layer_end_index";

const BIAS_SHAPE: &[Dimension] = &[Number(1), Experts];
const BIAS: TensorRule = experts::BIAS
    .named("model.layers.{layer}.mlp.moe_statics.e_score_correction_bias")
    .shaped(BIAS_SHAPE);
/// What is no expert.
const OTHERS: &[TensorRule] =
    rules![&decoder::AROUND, &decoder::ATTENTION, &[decoder::FEED_FORWARD_NORM, BIAS]];
static RULES: &[TensorRule] = rules![OTHERS, &experts::behind_dense(experts::EACH)];
const FUSED_RULES: &[TensorRule] = rules![OTHERS, &experts::behind_dense(experts::FUSED)];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "ernie4_5_moe",
    numbers: &[
        ("vocab_size", 103_424),
        ("hidden_size", 2560),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 28),
        ("num_attention_heads", 20),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 131_072),
        ("num_experts", 64),
        ("num_experts_per_tok", 6),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: 500_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// What the reference's converter writes, and no graph reads.
fn shared_width(config: &ModelConfig) -> Option<Entry> {
    config.size(SHARED_KEY).filter(|count| *count > 0)?;
    Some(((config.intermediate / config.key_value_heads) as u32).into())
}

const METADATA: &[MetadataKey] = &[
    MetadataKey::Layers,
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::Heads,
    MetadataKey::KeyValueHeads,
    MetadataKey::NotCausal,
    MetadataKey::RopeScaling,
    MetadataKey::RopeBases,
    MetadataKey::RmsEpsilon,
    MetadataKey::HeadSize,
    MetadataKey::FileType,
    MetadataKey::Experts,
    MetadataKey::ExpertsUsed,
    MetadataKey::setting("interleave_moe_layer_step", STEP_KEY),
    MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
    MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
    MetadataKey::setting("expert_shared_count", SHARED_KEY),
    MetadataKey::computed("expert_shared_feed_forward_length", shared_width),
];

impl Architecture for ErnieMoe {
    fn class_names(&self) -> &'static [&'static str] {
        &["Ernie4_5_MoeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "ernie4_5-moe"
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

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "moe_num_experts", common: "num_experts" },
            Spelling { own: "moe_k", common: "num_experts_per_tok" },
            Spelling { own: "moe_layer_start_index", common: DENSE_KEY },
            Spelling { own: "moe_layer_interval", common: STEP_KEY },
            Spelling { own: "moe_num_shared_experts", common: SHARED_KEY },
        ]
    }

    /// Embeddings are the output matrix unless the configuration denies it.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        config.entry("tie_word_embeddings").or_insert(json!(true));
        if config.get(END_KEY) == Some(&json!(-1)) {
            config.shift_remove(END_KEY);
        }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::flag("use_bias", Default::Flag(false)),
                ConfigKey::count_or(DENSE_KEY, Default::Size(1)),
                ConfigKey::count_or(END_KEY, Default::Absent),
                ConfigKey::size_or(STEP_KEY, Default::Size(1)),
                ConfigKey::count_or(SHARED_KEY, Default::Size(2)),
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(1536)),
                ConfigKey::exactly("moe_norm_min", 1e-12),
                ConfigKey::word("moe_gate", &["topk"], Default::Absent),
                ConfigKey::any("moe_capacity"),
                ConfigKey::any("moe_use_aux_free"),
                ConfigKey::any("mlp_layer_types"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let end = config.size(END_KEY).filter(|end| end + 1 < u64::from(config.layers))?;
        let problem = format!("is {end}: layers without experts at the end are not supported");
        Some(Contradiction { key: END_KEY, problem })
    }

    fn renames(&self) -> &'static [Rename] {
        &[Rename::Prefix("ernie.", "model.")]
    }

    /// A layer that predicts further tokens, which files have no place for.
    fn towers(&self) -> &'static [&'static str] {
        &["model.mtp_"]
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
        config.insert(END_KEY.to_owned(), json!(layers.saturating_sub(1)));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Ernie
    }
}
