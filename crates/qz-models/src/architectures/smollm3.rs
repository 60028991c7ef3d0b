//! SmolLM 3 (`SmolLM3Model` in `conversion/llama.py`): Llama, of whose layers every fourth does not
//! turn queries and keys.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::llama;
use crate::architecture::{Architecture, ComputedTensor, Contradiction, Model};
use crate::config::{ConfigDefaults, DEFAULT_RMS_EPSILON, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::{Dimension, LayerIndex, TensorRule};
use crate::settings::{ConfigKey, GgufKeys, MetadataKey};

/// SmolLM 3.
pub(super) struct SmolLm3;

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "smollm3",
    numbers: &[
        ("vocab_size", 128_256),
        ("hidden_size", 2_048),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 36),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 32_768),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: 2e6,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// For each layer whether it turns.
const TURNING: &str = "no_rope_layers";
/// Of so many layers the last does not.
const PERIOD: u32 = 4;
const INTERVAL: &str = "no_rope_layer_interval";

fn turns(layer: u32) -> bool {
    !(layer + 1).is_multiple_of(PERIOD)
}

impl Architecture for SmolLm3 {
    fn class_names(&self) -> &'static [&'static str] {
        &["SmolLM3ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "smollm3"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        llama::RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::count_per_layer(TURNING), ConfigKey::exactly(INTERVAL, PERIOD as f64)] }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        if config.size(TURNING).is_none() && config.sizes(TURNING).is_none() {
            return None;
        }
        let stated =
            |layer| config.dimension_in(Dimension::Size(TURNING), Some(LayerIndex(layer))) != 0;
        let other = (0..config.layers).find(|layer| stated(*layer) != turns(*layer))?;
        Some(Contradiction {
            key: TURNING,
            problem: format!(
                "is {} in layer {other}, but of each {PERIOD} layers of this architecture the \
                 last does not turn, and the others do",
                u8::from(stated(other))
            ),
        })
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[llama::VOCABULARY_SIZE, llama::TURNED] }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let layers = keys.size("block_count").unwrap_or(0) as u32;
        let turning: Vec<u8> = (0..layers).map(|layer| turns(layer).into()).collect();
        config.insert(TURNING.to_owned(), json!(turning));
        config.insert(INTERVAL.to_owned(), json!(PERIOD));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Llama
    }

    fn adjust_vocabulary(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        llama::adjust_vocabulary(model, metadata);
        Ok(())
    }
}
