//! Families of DeepSeek's latent attention that GGUF knows by one name: DeepSeek V2 and V3, Kimi K2,
//! GLM 4.7 Flash. What a router does, and the pre-tokenizer, tell them apart.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::latent::{self, Assumed};
use super::{experts, further, gemma3};
use crate::architecture::{Architecture, Contradiction, Rename};
use crate::config::ConfigDefaults;
use crate::further::FurtherNames;
use crate::hyperparameters::ModelConfig;
use crate::lists::joined;
use crate::rules::TensorRule;
use crate::settings::{
    ConfigKey, Default, GgufKeys, MetadataKey, STANDARD_METADATA, gating_function,
};

/// A family.
pub(super) struct Deepseek {
    class_names: &'static [&'static str],
    outer_model_types: &'static [&'static str],
    is_in: fn(&Metadata) -> bool,
    defaults: &'static ConfigDefaults,
    config_keys: &'static [ConfigKey],
    rules: &'static [TensorRule],
    metadata: &'static [MetadataKey],
    own_metadata: &'static [MetadataKey],
    further_names: Option<FurtherNames>,
    vocabulary: VocabularyRules,
    /// How experts are chosen, where a configuration comes back.
    method: fn(&Map<String, Value>) -> &'static str,
}

/// DeepSeek V2.
pub(super) static V2: Deepseek = Deepseek {
    class_names: &["DeepseekV2ForCausalLM"],
    outer_model_types: &[],
    is_in: |metadata| !is_sigmoid(metadata) && !is_glm(metadata),
    defaults: &ConfigDefaults {
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
        ..latent::DEFAULTS
    },
    config_keys: &latent::config_keys(&Assumed {
        dense: 0,
        shared: 2,
        width: 1407,
        query_rank: Default::Absent,
        rank: 512,
        still: 128,
        value: 128,
        groups: [Default::Absent; 2],
        scale: 1.0,
        normalizes: false,
        gating: Default::Absent,
    }),
    rules: latent::RULES,
    metadata: STANDARD_METADATA,
    own_metadata: latent::OWN_METADATA,
    further_names: None,
    vocabulary: VocabularyRules::Common,
    method: |config| {
        let is_grouped = config.get("n_group").and_then(Value::as_u64).is_some_and(|n| n > 1);
        if is_grouped { "group_limited_greedy" } else { "greedy" }
    },
};

/// DeepSeek V3 and R1, Kimi K2 and the text part of Kimi K2.5, Moonlight.
pub(super) static V3: Deepseek = Deepseek {
    class_names: &[
        "DeepseekV3ForCausalLM",
        "KimiK25ForConditionalGeneration",
        "KimiVLForConditionalGeneration",
    ],
    outer_model_types: &["kimi_k2", "kimi_k25", "kimi_vl"],
    is_in: |metadata| is_sigmoid(metadata) && !is_glm(metadata),
    defaults: &ConfigDefaults {
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
        ..latent::DEFAULTS
    },
    config_keys: &latent::config_keys(&Assumed {
        dense: 3,
        shared: 1,
        width: 2048,
        query_rank: Default::Absent,
        rank: 512,
        still: 128,
        value: 128,
        groups: [Default::Size(8), Default::Size(4)],
        scale: 2.5,
        normalizes: true,
        gating: Default::Word("sigmoid"),
    }),
    rules: latent::RULES,
    metadata: STANDARD_METADATA,
    own_metadata: latent::OWN_METADATA,
    further_names: None,
    vocabulary: VocabularyRules::Common,
    method: |_| "noaux_tc",
};

/// GLM 4.7 Flash (`Glm4MoeLiteModel` in `conversion/glm.py`), whose files do not say that its
/// router makes sigmoids.
pub(super) static GLM_FLASH: Deepseek = Deepseek {
    class_names: &["Glm4MoeLiteForCausalLM"],
    outer_model_types: &[],
    is_in: is_glm,
    defaults: &ConfigDefaults {
        model_type: "glm4_moe_lite",
        numbers: &[
            ("vocab_size", 154_880),
            ("hidden_size", 2048),
            ("intermediate_size", 10_240),
            ("num_hidden_layers", 47),
            ("num_attention_heads", 20),
            ("max_position_embeddings", 202_752),
            ("n_routed_experts", 64),
            ("num_experts_per_tok", 4),
        ],
        rms_epsilon: Some(1e-5),
        ..latent::DEFAULTS
    },
    config_keys: &latent::config_keys(&Assumed {
        dense: 1,
        shared: 1,
        width: 1536,
        query_rank: Default::Size(768),
        rank: 512,
        still: 192,
        value: 256,
        groups: [Default::Size(1); 2],
        scale: 1.8,
        normalizes: true,
        gating: Default::Absent,
    }),
    rules: GLM_RULES,
    metadata: GLM_METADATA,
    own_metadata: GLM_OWN_METADATA,
    further_names: Some(FurtherNames::Numbered),
    vocabulary: VocabularyRules::Glm4Experts,
    method: |_| "noaux_tc",
};

static GLM_RULES: &[TensorRule] = rules![latent::RULES, &further::ALL];
const GLM_OWN_METADATA: &[MetadataKey] =
    &joined::<_, 16>(&[latent::OWN_METADATA, &[further::COUNT]]);
/// Its configurations do not state the size of a head.
const GLM_METADATA: &[MetadataKey] = &[
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
    MetadataKey::ExpertsUsed,
    MetadataKey::setting("expert_group_count", "n_group"),
    MetadataKey::setting("expert_group_used_count", "topk_group"),
    MetadataKey::computed("expert_gating_func", gating_function),
    MetadataKey::FileType,
];

/// True if a router's logits become weights one by one.
fn is_sigmoid(metadata: &Metadata) -> bool {
    metadata.unsigned("deepseek2.expert_gating_func") == Some(2)
}

/// True for a model with GLM's tokens.
fn is_glm(metadata: &Metadata) -> bool {
    metadata.string("tokenizer.ggml.pre") == Some("glm4")
}

impl Architecture for Deepseek {
    fn class_names(&self) -> &'static [&'static str] {
        self.class_names
    }

    fn gguf_name(&self) -> &'static str {
        "deepseek2"
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        (self.is_in)(metadata)
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        self.defaults
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        self.outer_model_types
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        self.rules
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

    fn fill_config(&self, config: &mut Map<String, Value>) {
        experts::fill_dense(config);
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        self.config_keys
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        latent::contradiction(config)
    }

    fn renames(&self) -> &'static [Rename] {
        gemma3::TEXT_PART
    }

    fn towers(&self) -> &'static [&'static str] {
        &["vision_tower.", "multi_modal_projector.", "mm_projector."]
    }

    fn further_layers(&self, config: &ModelConfig) -> u32 {
        let further = config.size(latent::FURTHER_KEY).unwrap_or(0);
        u32::try_from(further).unwrap_or(u32::MAX)
    }

    fn further_names(&self) -> Option<FurtherNames> {
        self.further_names
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        self.metadata
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        self.own_metadata
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        latent::complete_config(keys, config);
        if self.further_names.is_some() {
            further::restore_count(latent::FURTHER_KEY, keys, config);
            experts::restore_kinds(keys, config);
        }
        config.insert("topk_method".to_owned(), json!((self.method)(config)));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        self.vocabulary
    }
}
