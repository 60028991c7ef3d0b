//! EXAONE with experts (`ExaoneMoEModel` in `conversion/exaone.py`): DeepSeek 3's experts behind
//! EXAONE 4's windows, norms in front, and layers that predict further tokens.

use serde_json::{Map, Value};

use super::decoder::rules;
use super::experts::{DENSE_KEY, SHARED_KEY, SHARED_WIDTH};
use super::{decoder, exaone4, experts, further, llama};
use crate::architecture::{Architecture, ComputedTensor, Contradiction, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::further::FurtherNames;
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::Hidden;
use crate::rules::{Condition, TensorRule};
use crate::settings::{ConfigKey, Default, FULL, GgufKeys, MetadataKey};

/// EXAONE with experts.
pub(super) struct ExaoneMoe;

const FURTHER_KEY: &str = "num_nextn_predict_layers";
const SCALE_KEY: &str = "routed_scaling_factor";
const NORMALIZES_KEY: &str = "norm_topk_prob";

/// Layers that predict further tokens have a network.
const DENSE: Condition = Condition {
    key: DENSE_KEY,
    holds: |config, layer| config.is_further(layer) || (experts::DENSE.holds)(config, layer),
};
const MIXED: Condition = Condition {
    key: DENSE_KEY,
    holds: |config, layer| !config.is_further(layer) && (experts::MIXED.holds)(config, layer),
};

/// What is no expert.
const OTHERS: &[TensorRule] = rules![
    &decoder::AROUND,
    &decoder::ATTENTION,
    &decoder::HEAD_NORMS,
    &[
        decoder::FEED_FORWARD_NORM,
        decoder::GATE.only(DENSE),
        decoder::UP.only(DENSE),
        decoder::DOWN.only(DENSE),
        experts::SHARED_GATES.shaped(&[SHARED_WIDTH, Hidden]).only(MIXED),
        experts::SHARED_UPS.shaped(&[SHARED_WIDTH, Hidden]).only(MIXED),
        experts::SHARED_DOWNS.shaped(&[Hidden, SHARED_WIDTH]).only(MIXED),
    ],
    &further::ALL,
];

/// A router with its bias, and experts.
const fn mixed([gate, up, down]: [TensorRule; 3], bias: TensorRule) -> [TensorRule; 5] {
    [
        experts::ROUTER.only(MIXED),
        bias.only(MIXED),
        gate.only(MIXED),
        up.only(MIXED),
        down.only(MIXED),
    ]
}

const BIAS: TensorRule =
    experts::SELECTION_BIAS.named("model.layers.{layer}.mlp.e_score_correction_bias");
static RULES: &[TensorRule] = rules![OTHERS, &mixed(experts::EACH, BIAS)];
const FUSED_RULES: &[TensorRule] = rules![OTHERS, &mixed(experts::FUSED, experts::SELECTION_BIAS)];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "exaone_moe",
    numbers: &[
        ("vocab_size", 102_400),
        ("hidden_size", 4_096),
        ("intermediate_size", 16_384),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 32),
        ("max_position_embeddings", 2_048),
        ("num_experts", 64),
        ("num_experts_per_tok", 8),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for ExaoneMoe {
    fn class_names(&self) -> &'static [&'static str] {
        &["ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "exaone-moe"
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
        &[Spelling { own: "num_shared_experts", common: SHARED_KEY }]
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::count_or(DENSE_KEY, Default::Size(1)),
                ConfigKey::count_or(SHARED_KEY, Default::Size(1)),
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(1024)),
                ConfigKey::count_or("n_group", Default::Size(1)),
                ConfigKey::count_or("topk_group", Default::Size(1)),
                ConfigKey::number(SCALE_KEY, Default::Number(2.5)),
                ConfigKey::flag(NORMALIZES_KEY, Default::Flag(true)),
                ConfigKey::word("scoring_func", &["sigmoid"], Default::Word("sigmoid")),
                ConfigKey::count_or(exaone4::WINDOW, Default::Absent),
                ConfigKey::windows(exaone4::KINDS),
                ConfigKey::any(exaone4::PATTERN),
                ConfigKey::count_or(FURTHER_KEY, Default::Absent),
                ConfigKey::any("first_last_k_dense_replace"),
                ConfigKey::any("is_moe_layer"),
                ConfigKey::any("mlp_layer_types"),
                ConfigKey::any("topk_method"),
                ConfigKey::any("mtp_share_layers"),
            ]
        }
    }

    /// An older name of a key, and the kinds of layers from a pattern.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        if !config.contains_key(DENSE_KEY)
            && let Some(count) = config.get("first_last_k_dense_replace").cloned()
        {
            config.insert(DENSE_KEY.to_owned(), count);
        }
        experts::fill_dense(config);
        config.entry(exaone4::WINDOW).or_insert(4096.into());
        config.entry(exaone4::PATTERN).or_insert(4.into());
        exaone4::fill_kinds(config);
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        if config.size(exaone4::WINDOW).is_none() {
            let problem = "is null; files of this architecture always have a window".to_owned();
            return Some(Contradiction { key: exaone4::WINDOW, problem });
        }
        if config.size(SHARED_KEY) == Some(0) {
            let problem = "is 0; graphs of this architecture have an expert for every token";
            return Some(Contradiction { key: SHARED_KEY, problem: problem.to_owned() });
        }
        experts::wrong_groups(config)
    }

    fn further_layers(&self, config: &ModelConfig) -> u32 {
        u32::try_from(config.size(FURTHER_KEY).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    fn further_names(&self) -> Option<FurtherNames> {
        Some(further::MODULE)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                llama::VOCABULARY_SIZE,
                MetadataKey::setting("attention.sliding_window", exaone4::WINDOW),
                MetadataKey::setting("attention.sliding_window_pattern", exaone4::KINDS),
                MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
                MetadataKey::setting("expert_shared_count", SHARED_KEY),
                experts::SHARED_LENGTH,
                MetadataKey::setting("expert_weights_scale", SCALE_KEY),
                MetadataKey::setting("expert_weights_norm", NORMALIZES_KEY),
                MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
                MetadataKey::computed("nextn_predict_layers", |config| Some(config.further.into())),
                MetadataKey::computed("rope.scaling.type", |_| Some("none".into())),
            ]
        }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let kinds = config.get(exaone4::KINDS).and_then(Value::as_array);
        let period = kinds.and_then(|kinds| kinds.iter().position(|kind| *kind == FULL));
        let period = period.map_or(4, |full| full.saturating_add(1));
        config.insert(exaone4::PATTERN.to_owned(), period.into());
        experts::restore_kinds(keys, config);
        further::restore_count(FURTHER_KEY, keys, config);
    }
}
