//! Mistral 3 and Ministral 3 (`Mistral3Model` in `conversion/mistral3.py`): Llama, whose queries
//! may grow with their position. Of models that see, the part that reads and writes text.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::{gemma3, llama};
use crate::architecture::{Architecture, ComputedTensor, Model, Rename};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rope::RopeScaling;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, GgufKeys, MetadataKey};

/// Mistral 3 and Ministral 3.
pub(super) struct Mistral3;

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "ministral3",
    numbers: &[
        ("vocab_size", 131_072),
        ("hidden_size", 4096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 34),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 262_144),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::None,
};

const QUERY_GROWTH: &str = "llama_4_scaling_beta";

/// What stands behind YaRN's own parameters: of a model that has both.
fn of_yarn(
    config: &ModelConfig,
    number: fn(&crate::rope::YarnScaling) -> Option<f64>,
) -> Option<f32> {
    let RopeScaling::Yarn(yarn) = &config.rope.scaling else { return None };
    yarn.query_growth?;
    number(yarn).map(|number| number as f32)
}

impl Architecture for Mistral3 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"]
    }

    fn gguf_name(&self) -> &'static str {
        "mistral3"
    }

    /// Mistral 4 is of its class, too.
    fn is_of(&self, config: &Map<String, Value>) -> bool {
        config.get("model_type").is_none_or(|kind| kind != "mistral4")
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        &["mistral3"]
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        llama::RULES
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        &["mscale", "mscale_all_dim", QUERY_GROWTH]
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::any("vision_config"),
                ConfigKey::any("multimodal_projector_bias"),
                ConfigKey::any("projector_hidden_act"),
                ConfigKey::any("spatial_merge_size"),
                ConfigKey::any("vision_feature_layer"),
            ]
        }
    }

    fn renames(&self) -> &'static [Rename] {
        gemma3::TEXT_PART
    }

    fn towers(&self) -> &'static [&'static str] {
        gemma3::TOWERS
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                llama::VOCABULARY_SIZE,
                llama::TURNED,
                MetadataKey::computed("rope.scaling.yarn_log_multiplier", |config| {
                    Some(of_yarn(config, |yarn| yarn.score_growth)?.into())
                }),
                MetadataKey::computed("attention.temperature_scale", |config| {
                    Some(of_yarn(config, |yarn| yarn.query_growth)?.into())
                }),
            ]
        }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }

    /// One whose queries do not grow is a Mistral.
    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let Some(growth) = keys.number("attention.temperature_scale") else {
            config.insert("architectures".to_owned(), json!(["MistralForCausalLM"]));
            config.insert("model_type".to_owned(), json!("mistral"));
            config.insert("sliding_window".to_owned(), Value::Null);
            return;
        };
        let stretch = keys.number("rope.scaling.yarn_log_multiplier").unwrap_or(1.0);
        for rope in ["rope_parameters", "rope_scaling"] {
            if let Some(Value::Object(rope)) = config.get_mut(rope) {
                rope.insert(QUERY_GROWTH.to_owned(), crate::config::shortest(growth));
                rope.insert("mscale".to_owned(), json!(1.0));
                rope.insert("mscale_all_dim".to_owned(), crate::config::shortest(stretch));
            }
        }
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Llama
    }

    fn adjust_vocabulary(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        llama::adjust_vocabulary(model, metadata);
        Ok(())
    }
}
