//! Families of DeepSeek's latent attention. GGUF knows DeepSeek V2 and V3, Kimi K2 and GLM 4.7
//! Flash by one name: what a router does, and the pre-tokenizer, tell them apart. Mistral 4 has a
//! name of its own.

use qz_tensor::{Location, Metadata, Warning};
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::latent::{self, Assumed};
use super::{decoder, experts, further, gemma3, partial};
use crate::architecture::{Architecture, Contradiction, Model, Rename};
use crate::config::ConfigDefaults;
use crate::error::Error;
use crate::further::FurtherNames;
use crate::hyperparameters::ModelConfig;
use crate::lists::joined;
use crate::rope::RopeScaling;
use crate::rules::TensorRule;
use crate::settings::{
    ConfigKey, Default, GgufKeys, MetadataKey, STANDARD_METADATA, gating_function,
};

/// A family.
pub(super) struct Deepseek {
    gguf_name: &'static str,
    is_of: fn(&Map<String, Value>) -> bool,
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
    method: fn(&Map<String, Value>) -> Option<&'static str>,
}

const SHARED_NAME: &str = "deepseek2";

/// DeepSeek V2.
pub(super) static V2: Deepseek = Deepseek {
    gguf_name: SHARED_NAME,
    is_of: |_| true,
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
        Some(if is_grouped { "group_limited_greedy" } else { "greedy" })
    },
};

/// DeepSeek V3 and R1, Kimi K2 and the text part of Kimi K2.5, Moonlight.
pub(super) static V3: Deepseek = Deepseek {
    gguf_name: SHARED_NAME,
    is_of: |_| true,
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
    method: |_| Some("noaux_tc"),
};

/// GLM 4.7 Flash (`Glm4MoeLiteModel` in `conversion/glm.py`), whose files do not say that its
/// router makes sigmoids.
pub(super) static GLM_FLASH: Deepseek = Deepseek {
    gguf_name: SHARED_NAME,
    is_of: |_| true,
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
    method: |_| Some("noaux_tc"),
};

const MISTRAL_NAME: &str = "mistral4";
const QUERY_GROWTH: &str = "llama_4_scaling_beta";

/// Mistral 4 (`Mistral4Model` in `conversion/mistral3.py`), published as the part of a model that
/// sees.
pub(super) static MISTRAL_4: Deepseek = Deepseek {
    gguf_name: MISTRAL_NAME,
    is_of: |config| config.get("model_type").is_some_and(|kind| kind == MISTRAL_NAME),
    class_names: &["Mistral4ForCausalLM", "Mistral3ForConditionalGeneration"],
    outer_model_types: &[],
    is_in: |_| true,
    defaults: &ConfigDefaults {
        model_type: MISTRAL_NAME,
        numbers: &[
            ("vocab_size", 131_072),
            ("hidden_size", 4096),
            ("intermediate_size", 12_288),
            ("num_hidden_layers", 36),
            ("num_attention_heads", 32),
            ("max_position_embeddings", 1_048_576),
            ("n_routed_experts", 128),
            ("num_experts_per_tok", 4),
        ],
        ..latent::DEFAULTS
    },
    config_keys: &joined::<_, { 19 + MISTRAL_KEYS.len() }>(&[
        &latent::config_keys(&Assumed {
            dense: 0,
            shared: 1,
            width: 2048,
            query_rank: Default::Size(1024),
            rank: 256,
            still: 64,
            value: 128,
            groups: [Default::Size(1); 2],
            scale: 1.0,
            normalizes: true,
            gating: Default::Absent,
        }),
        MISTRAL_KEYS,
    ]),
    rules: MISTRAL_RULES,
    metadata: STANDARD_METADATA,
    own_metadata: latent::OWN_METADATA,
    further_names: None,
    vocabulary: VocabularyRules::Common,
    method: |_| None,
};

/// What the model around it says of its part that sees.
const MISTRAL_KEYS: &[ConfigKey] = &[
    ConfigKey::any("vision_config"),
    ConfigKey::any("multimodal_projector_bias"),
    ConfigKey::any("projector_hidden_act"),
    ConfigKey::any("spatial_merge_size"),
    ConfigKey::any("vision_feature_layer"),
];

static MISTRAL_RULES: &[TensorRule] = rules![
    &decoder::AROUND,
    &latent::ATTENTION,
    &[decoder::FEED_FORWARD_NORM],
    &experts::behind_dense_fused(),
];

/// Takes away which part of a head turns, where it is what sizes say; anything else is refused.
fn drop_turned_part(config: &mut Map<String, Value>) {
    let size = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(64);
    let [still, turned] = [latent::PLAIN, latent::TURNED].map(size);
    let part = turned as f64 / (still + turned).max(1) as f64;
    for rope in ["rope_parameters", "rope_scaling"] {
        if let Some(Value::Object(rope)) = config.get_mut(rope)
            && rope.get(partial::KEY).and_then(Value::as_f64) == Some(part)
        {
            rope.shift_remove(partial::KEY);
        }
    }
}

/// The size of whole heads, and what files do not say of rotary parameters: how queries grow is
/// what the class assumes.
fn restore_mistral_rope(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    const GROWTH: f64 = 0.1;
    let [turned, head] =
        ["rope.dimension_count", "attention.key_length_mla"].map(|key| keys.size(key).unwrap_or(0));
    config.insert("head_dim".to_owned(), json!(head));
    for rope in ["rope_parameters", "rope_scaling"] {
        if let Some(Value::Object(rope)) = config.get_mut(rope) {
            rope.insert(QUERY_GROWTH.to_owned(), json!(GROWTH));
            rope.insert(partial::KEY.to_owned(), json!(turned as f64 / head.max(1) as f64));
            let context = keys.size("context_length");
            rope.insert("max_position_embeddings".to_owned(), json!(context));
        }
    }
}

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
        self.gguf_name
    }

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        (self.is_of)(config)
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
        match self.gguf_name {
            MISTRAL_NAME => &["mscale", "mscale_all_dim", QUERY_GROWTH],
            _ => &["mscale", "mscale_all_dim"],
        }
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        experts::fill_dense(config);
        if self.gguf_name == MISTRAL_NAME {
            drop_turned_part(config);
        }
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

    fn warnings(&self, model: &Model<'_>) -> Result<Vec<Warning>, Error> {
        let RopeScaling::Yarn(yarn) = &model.config.rope.scaling else { return Ok(Vec::new()) };
        let (Some(growth), MISTRAL_NAME) = (yarn.query_growth, self.gguf_name) else {
            return Ok(Vec::new());
        };
        let message = format!(
            "{growth}: files of this architecture do not say this, as by the reference's \
             converter; engines compute the same up to position {}",
            yarn.original_context
        );
        let location = Location::file(model.files.path("config.json")).tensor(QUERY_GROWTH);
        Ok(vec![Warning { location, rule: "query-growth-lost", message }])
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
        if let Some(method) = (self.method)(config) {
            config.insert("topk_method".to_owned(), json!(method));
        }
        if self.gguf_name == MISTRAL_NAME {
            restore_mistral_rope(keys, config);
        }
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        self.vocabulary
    }
}
