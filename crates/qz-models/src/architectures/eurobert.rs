//! EuroBERT (`EuroBertModel` in `conversion/bert.py`): a Llama whose tokens see both sides, without
//! an output matrix.

use qz_tensor::{Metadata, Value as Entry};
use serde_json::{Map, Value, json};

use super::{bert, decoder, pooling};
use crate::architecture::{Architecture, Contradiction, Model, Rename};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::lists::joined;
use crate::rope::RopeScaling;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey, STANDARD_METADATA};

/// EuroBERT.
pub(super) struct EuroBert;

const UNSCALED: MetadataKey = MetadataKey::computed("rope.scaling.type", |_| Some("none".into()));

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING.named("embed_tokens.weight"),
    decoder::OUTPUT_NORM.named("norm.weight"),
    decoder::ATTENTION_NORM.named("layers.{layer}.input_layernorm.weight"),
    decoder::QUERY.named("layers.{layer}.self_attn.q_proj.weight"),
    decoder::KEY.named("layers.{layer}.self_attn.k_proj.weight"),
    decoder::VALUE.named("layers.{layer}.self_attn.v_proj.weight"),
    decoder::ATTENTION_OUTPUT.named("layers.{layer}.self_attn.o_proj.weight"),
    decoder::FEED_FORWARD_NORM.named("layers.{layer}.post_attention_layernorm.weight"),
    decoder::GATE.named("layers.{layer}.mlp.gate_proj.weight"),
    decoder::UP.named("layers.{layer}.mlp.up_proj.weight"),
    decoder::DOWN.named("layers.{layer}.mlp.down_proj.weight"),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "eurobert",
    numbers: &[
        ("vocab_size", 128_256),
        ("hidden_size", 768),
        ("intermediate_size", 3072),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 12),
        ("max_position_embeddings", 8192),
    ],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

const OWN: &[MetadataKey] = &[bert::NOT_CAUSAL, UNSCALED];
const METADATA: &[MetadataKey] =
    &joined::<_, { STANDARD_METADATA.len() + 2 }>(&[STANDARD_METADATA, OWN]);

impl Architecture for EuroBert {
    fn class_names(&self) -> &'static [&'static str] {
        &["EuroBertModel", "EuroBertForMaskedLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "eurobert"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::word(
                    bert::CLASSIFIER_POOLING,
                    &["late", "bos", "mean", "cls"],
                    Default::Absent,
                ),
                ConfigKey::any("mask_token_id"),
                ConfigKey::any("mask_token"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        (config.rope.scaling != RopeScaling::None).then(|| Contradiction {
            key: "rope_scaling",
            problem: "files of this architecture say that there is none".to_owned(),
        })
    }

    fn renames(&self) -> &'static [Rename] {
        &[Rename::Prefix("model.", "")]
    }

    fn towers(&self) -> &'static [&'static str] {
        &["lm_head."]
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        pooling::write_pooling_type(self.gguf_name(), model, metadata)?;
        bert::write_classifier_pooling(self.gguf_name(), model.config, metadata);
        Ok(())
    }

    fn begin_vocabulary(&self, _config: &ModelConfig, metadata: &mut Metadata) {
        metadata.set("tokenizer.ggml.add_bos_token", Entry::Bool(false));
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.remove("is_causal");
        bert::restore_classifier_pooling(keys, config);
        let mask = keys.metadata.unsigned("tokenizer.ggml.mask_token_id");
        config.extend(mask.map(|id| ("mask_token_id".to_owned(), json!(id))));
        for key in ["tie_word_embeddings", "attention_bias", "mlp_bias"] {
            config.insert(key.to_owned(), json!(false));
        }
    }
}
