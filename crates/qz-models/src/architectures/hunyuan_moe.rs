//! Hunyuan with experts (`HunYuanMoEModel` in `conversion/hunyuan.py`): all layers have some, and
//! one as wide as a network that every token is given to.

use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{experts, hunyuan};
use crate::architecture::{Architecture, Contradiction, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Intermediate};
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, GgufKeys, MetadataKey};

/// Hunyuan with experts.
pub(super) struct HunyuanMoe;

const SHARED_KEY: &str = "num_shared_expert";
const USED_KEY: &str = "num_experts_per_tok";

/// What no router has a say in.
const OTHERS: &[TensorRule] = rules![
    hunyuan::OTHERS,
    &[
        experts::ROUTER.named("model.layers.{layer}.mlp.gate.wg.weight"),
        experts::SHARED_GATE
            .named("model.layers.{layer}.mlp.shared_mlp.gate_proj.weight")
            .shaped(&[Intermediate, Hidden]),
        experts::SHARED_UP
            .named("model.layers.{layer}.mlp.shared_mlp.up_proj.weight")
            .shaped(&[Intermediate, Hidden]),
        experts::SHARED_DOWN
            .named("model.layers.{layer}.mlp.shared_mlp.down_proj.weight")
            .shaped(&[Hidden, Intermediate]),
    ],
];
static RULES: &[TensorRule] = rules![OTHERS, &experts::EACH];
const FUSED_RULES: &[TensorRule] = rules![OTHERS, &experts::FUSED];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "hunyuan_v1_moe",
    numbers: &[
        ("vocab_size", 290_943),
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2_048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

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
    MetadataKey::Experts,
    MetadataKey::HeadSize,
    MetadataKey::FileType,
    MetadataKey::computed("expert_shared_feed_forward_length", |config| {
        Some((config.intermediate as u32).into())
    }),
    MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
    MetadataKey::ExpertsUsed,
    MetadataKey::setting("expert_shared_count", SHARED_KEY),
];

impl Architecture for HunyuanMoe {
    fn class_names(&self) -> &'static [&'static str] {
        &["HunYuanMoEV1ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "hunyuan-moe"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        &["hunyuan"]
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
        &[Spelling { own: "moe_topk", common: USED_KEY }]
    }

    /// A list of one number for each layer that are all the same is that number; experts are as
    /// wide as the network if nothing is said.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        hunyuan::fold(config, 1000.0);
        if let Some(Value::Array(used)) = config.get(USED_KEY)
            && let Some(first) = used.first().cloned()
            && used.iter().all(|own| *own == first)
        {
            config.insert(USED_KEY.to_owned(), first);
        }
        let width = config.get("intermediate_size").cloned();
        if let Some(width) = width.filter(|_| !config.contains_key(experts::WIDTH_KEY)) {
            config.insert(experts::WIDTH_KEY.to_owned(), width);
        }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            let [folded, heads, norms, shares, factor, kind, vocabulary] = hunyuan::COMMON_KEYS;
            &[
                ConfigKey::size_per_layer(experts::WIDTH_KEY),
                ConfigKey::count_per_layer(SHARED_KEY),
                ConfigKey::any("eod_token_id"),
                ConfigKey::any("use_mixed_mlp_moe"),
                ConfigKey::any("moe_layer_num_skipped"),
                ConfigKey::any("moe_drop_tokens"),
                ConfigKey::any("moe_random_routing_dropped_token"),
                folded,
                heads,
                norms,
                shares,
                factor,
                kind,
                vocabulary,
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let differs = |key| config.sizes(key).map(|_| key);
        if let Some(key) = differs(experts::WIDTH_KEY).or_else(|| differs(SHARED_KEY)) {
            let problem = "differs from layer to layer, which is not supported".to_owned();
            return Some(Contradiction { key, problem });
        }
        if let Some(count) = config.size(SHARED_KEY).filter(|count| *count != 1) {
            let problem = format!("is {count}; files of this architecture mean one");
            return Some(Contradiction { key: SHARED_KEY, problem });
        }
        hunyuan::unfolded(config)
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &hunyuan::FOLDED_METADATA }
    }

    /// The reference reads lists.
    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
        for key in [USED_KEY, experts::WIDTH_KEY, SHARED_KEY] {
            if let Some(value) = config.get(key).filter(|value| value.is_u64()).cloned() {
                let list: Vec<Value> = (0..layers).map(|_| value.clone()).collect();
                config.insert(key.to_owned(), json!(list));
            }
        }
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Hunyuan
    }
}
