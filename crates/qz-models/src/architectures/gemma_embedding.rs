//! EmbeddingGemma (`EmbeddingGemma` in `conversion/gemma.py`): Gemma 3 without an output matrix,
//! whose tokens see both sides. The layers that sentence-transformers puts behind it are files of
//! their own, and not written.

use qz_tensor::{Location, Metadata, Warning};
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::{decoder, gemma, gemma3, pooling};
use crate::architecture::{Activation, Architecture, Contradiction, Model, Rename};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// EmbeddingGemma.
pub(super) struct GemmaEmbedding;

const BOTH_SIDES: &str = "use_bidirectional_attention";
const SCALAR: &str = "query_pre_attn_scalar";

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING.named("embed_tokens.weight"),
    gemma::shifted(decoder::OUTPUT_NORM).named("norm.weight"),
    gemma::shifted(decoder::ATTENTION_NORM).named("layers.{layer}.input_layernorm.weight"),
    decoder::QUERY.named("layers.{layer}.self_attn.q_proj.weight"),
    decoder::KEY.named("layers.{layer}.self_attn.k_proj.weight"),
    decoder::VALUE.named("layers.{layer}.self_attn.v_proj.weight"),
    decoder::ATTENTION_OUTPUT.named("layers.{layer}.self_attn.o_proj.weight"),
    gemma::shifted(decoder::QUERY_NORM).named("layers.{layer}.self_attn.q_norm.weight"),
    gemma::shifted(decoder::KEY_NORM).named("layers.{layer}.self_attn.k_norm.weight"),
    gemma::shifted(decoder::POST_ATTENTION_NORM)
        .named("layers.{layer}.post_attention_layernorm.weight"),
    gemma::shifted(decoder::PRE_FEED_FORWARD_NORM)
        .named("layers.{layer}.pre_feedforward_layernorm.weight"),
    decoder::GATE.named("layers.{layer}.mlp.gate_proj.weight"),
    decoder::UP.named("layers.{layer}.mlp.up_proj.weight"),
    decoder::DOWN.named("layers.{layer}.mlp.down_proj.weight"),
    gemma::shifted(decoder::POST_FEED_FORWARD_NORM)
        .named("layers.{layer}.post_feedforward_layernorm.weight"),
];

/// Gemma 3's, which has another name for what it is in a configuration.
static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "gemma3_text",
    numbers: gemma3::NUMBERS,
    head_size: DefaultHeadSize::Fixed(256),
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: 1e6,
    sliding_rope_theta: Some(DEFAULT_ROPE_THETA),
    window: DefaultWindow::Never,
};

impl Architecture for GemmaEmbedding {
    fn class_names(&self) -> &'static [&'static str] {
        &["Gemma3TextModel"]
    }

    fn gguf_name(&self) -> &'static str {
        "gemma-embedding"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        gemma::GELU
    }

    fn window_pattern(&self) -> Option<u32> {
        Some(gemma3::PATTERN)
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or("sliding_window", Default::Required),
                ConfigKey::number(SCALAR, Default::Number(256.0)),
                ConfigKey::flag(BOTH_SIDES, Default::Flag(false)),
                ConfigKey::exactly("sliding_window_pattern", gemma3::PATTERN as f64),
                ConfigKey::exactly("_sliding_window_pattern", gemma3::PATTERN as f64),
                ConfigKey::any("rope_local_base_freq"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        if config.flag(BOTH_SIDES) != Some(true) {
            let problem = "is not true, but tokens of this architecture see both sides".to_owned();
            return Some(Contradiction { key: BOTH_SIDES, problem });
        }
        let (scalar, size) = (config.number(SCALAR)?, config.head_size as f64);
        (scalar != size).then(|| Contradiction {
            key: SCALAR,
            problem: format!("is {scalar}, but this architecture computes with {size}"),
        })
    }

    fn renames(&self) -> &'static [Rename] {
        &[Rename::Prefix("model.", "")]
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[MetadataKey::setting("attention.sliding_window", "sliding_window")] }
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        pooling::write_pooling_type(self.gguf_name(), model, metadata)
    }

    fn warnings(&self, model: &Model<'_>) -> Result<Vec<Warning>, Error> {
        let folders = pooling::folders(model, "Dense")?;
        let Some(first) = folders.first() else { return Ok(Vec::new()) };
        Ok(vec![Warning {
            location: Location::file(model.files.path(first)),
            rule: "dense-layers-left-out",
            message: "the layers behind the model that modules.json names are not written: \
                      whoever makes vectors of its hidden states has to apply them"
                .to_owned(),
        }])
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        for key in ["sliding_window_pattern", "_sliding_window_pattern"] {
            config.insert(key.to_owned(), json!(gemma3::PATTERN));
        }
        config.insert(BOTH_SIDES.to_owned(), json!(true));
        let size = config.get("head_dim").cloned().unwrap_or_default();
        config.insert(SCALAR.to_owned(), size);
        config.insert("attention_bias".to_owned(), json!(false));
        config.insert("tie_word_embeddings".to_owned(), json!(true));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Gemma
    }
}
