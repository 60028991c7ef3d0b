//! Granite with and without experts (`GraniteModel`, `GraniteMoeModel` in
//! `conversion/granite.py`): Llama with factors on embeddings, scores, sums and logits.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::{self, rules};
use super::state_space::only;
use super::{experts, llama};
use crate::architecture::{Architecture, ComputedTensor, Contradiction, Model};
use crate::config::{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::lists::joined;
use crate::rules::Dimension::{Hidden, Number, Product, Size};
use crate::rules::{Condition, Dimension, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Granite without experts.
pub(super) struct Granite;
/// Granite with experts, and with one that every token is given to.
pub(super) struct GraniteMoe;

/// Width of the expert that every token is given to; none if it is zero.
pub(super) const SHARED_KEY: &str = "shared_intermediate_size";
const SHARED: Dimension = Size(SHARED_KEY);
const SHARED_TWICE: Dimension = Product(&[Number(2), SHARED]);
const HAS_SHARED: Condition = Condition {
    key: SHARED_KEY,
    holds: |config, _| config.size(SHARED_KEY).is_some_and(|width| width > 0),
};
const GATE_AND_UP: &str = "model.layers.{layer}.block_sparse_moe.input_linear.weight";
const SHARED_GATE_AND_UP: &str = "model.layers.{layer}.shared_mlp.input_linear.weight";

/// A layer's experts; gate and up stand in one matrix.
pub(super) const MIXTURE: [TensorRule; 4] = {
    let [gate, up, down] = experts::FUSED_AS_NETWORK;
    [
        experts::ROUTER.named("model.layers.{layer}.block_sparse_moe.router.layer.weight"),
        gate.named(GATE_AND_UP),
        up.named(GATE_AND_UP),
        down.named("model.layers.{layer}.block_sparse_moe.output_linear.weight"),
    ]
};

/// The matrices of the network that every token is given to, likewise.
pub(super) const fn shared([gate, up, down]: [TensorRule; 3]) -> [TensorRule; 3] {
    [
        gate.named(SHARED_GATE_AND_UP)
            .shaped(&[SHARED_TWICE, Hidden])
            .transformed(Transform::part(SHARED_TWICE, Number(0), SHARED)),
        up.named(SHARED_GATE_AND_UP).shaped(&[SHARED_TWICE, Hidden]).transformed(Transform::part(
            SHARED_TWICE,
            SHARED,
            SHARED,
        )),
        down.named("model.layers.{layer}.shared_mlp.output_linear.weight")
            .shaped(&[Hidden, SHARED]),
    ]
}

/// The expert that every token is given to.
pub(super) const SHARED_EXPERT: [TensorRule; 3] =
    shared([experts::SHARED_GATE, experts::SHARED_UP, experts::SHARED_DOWN]);

static MIXED_RULES: &[TensorRule] = {
    const SHARED: [TensorRule; 3] = only(SHARED_EXPERT, HAS_SHARED);
    rules![&decoder::AROUND, &llama::ATTENTION, &MIXTURE, &SHARED]
};

const DEFAULTS_OF_ALL: ConfigDefaults = ConfigDefaults {
    model_type: "",
    numbers: &[],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};
static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "granite",
    numbers: &[
        ("vocab_size", 32_000),
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2_048),
    ],
    ..DEFAULTS_OF_ALL
};

static MIXED_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "granitemoe",
    numbers: &[
        ("vocab_size", 32_000),
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2_048),
        ("num_local_experts", 8),
        ("num_experts_per_tok", 2),
    ],
    ..DEFAULTS_OF_ALL
};

/// Factors, with the keys that files have for them. One of zero is none.
const SCORES: [&str; 2] = ["attention.scale", "attention_multiplier"];
const EMBEDDINGS: [&str; 2] = ["embedding_scale", "embedding_multiplier"];
const SUMS: [&str; 2] = ["residual_scale", "residual_multiplier"];
const LOGITS: [&str; 2] = ["logit_scale", "logits_scaling"];

/// The keys that hold them.
const FACTOR_KEYS: [ConfigKey; 4] = [
    ConfigKey::number(SCORES[1], Default::Number(1.0)),
    ConfigKey::number(EMBEDDINGS[1], Default::Number(1.0)),
    ConfigKey::number(SUMS[1], Default::Number(1.0)),
    ConfigKey::number(LOGITS[1], Default::Number(1.0)),
];
const METADATA: [MetadataKey; 6] = [
    llama::VOCABULARY_SIZE,
    llama::TURNED,
    MetadataKey::setting(SCORES[0], SCORES[1]),
    MetadataKey::setting(EMBEDDINGS[0], EMBEDDINGS[1]),
    MetadataKey::setting(SUMS[0], SUMS[1]),
    MetadataKey::setting(LOGITS[0], LOGITS[1]),
];
const SHARED_METADATA: MetadataKey =
    MetadataKey::computed("expert_shared_feed_forward_length", |config| {
        let width = config.size(SHARED_KEY).filter(|width| *width > 0)?;
        Some((width as u32).into())
    });

/// What both have in common.
macro_rules! common {
    () => {
        /// Files have no room for another size of heads.
        fn fill_config(&self, config: &mut Map<String, Value>) {
            let size = |key: &str| config.get(key).and_then(Value::as_u64);
            let product = size("head_dim").zip(size("num_attention_heads")).map(|(a, b)| a * b);
            if product.is_some() && product == size("hidden_size") {
                config.shift_remove("head_dim");
            }
        }

        fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
            contradiction(config)
        }

        fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
            llama::factors(config)
        }

        fn computed_names(&self) -> &'static [&'static str] {
            llama::FACTORS
        }

        fn vocabulary_rules(&self) -> VocabularyRules {
            VocabularyRules::Llama
        }

        fn adjust_vocabulary(
            &self,
            model: &Model<'_>,
            metadata: &mut Metadata,
        ) -> Result<(), Error> {
            llama::adjust_vocabulary(model, metadata);
            Ok(())
        }
    };
}

/// Heads of another size, and factors of zero.
fn contradiction(config: &ModelConfig) -> Option<Contradiction> {
    if config.head_size_stated {
        let problem = format!(
            "is {}, but heads of this architecture have as many elements as hidden_size says",
            config.head_size
        );
        return Some(Contradiction { key: "head_dim", problem });
    }
    let factors = [SCORES, EMBEDDINGS, SUMS, LOGITS].map(|[_, key]| key);
    let key = factors.into_iter().find(|key| config.number(key) == Some(0.0))?;
    Some(Contradiction { key, problem: "is 0, and a factor of 0 means none".to_owned() })
}

impl Architecture for Granite {
    common!();

    fn class_names(&self) -> &'static [&'static str] {
        &["GraniteForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "granite"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        llama::RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &FACTOR_KEYS }
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &METADATA }
    }
}

impl Architecture for GraniteMoe {
    common!();

    fn class_names(&self) -> &'static [&'static str] {
        &["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "granitemoe"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &MIXED_DEFAULTS
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        &["granitemoeshared"]
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        MIXED_RULES
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            let [scores, embeddings, sums, logits] = FACTOR_KEYS;
            let shared = ConfigKey::count_or(SHARED_KEY, Default::Absent);
            &[scores, embeddings, sums, logits, shared]
        }
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &joined::<_, 7>(&[&METADATA, &[SHARED_METADATA]]) }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let Some(width) = keys.size("expert_shared_feed_forward_length") else { return };
        config.insert("architectures".to_owned(), json!(["GraniteMoeSharedForCausalLM"]));
        config.insert("model_type".to_owned(), json!("granitemoeshared"));
        config.insert(SHARED_KEY.to_owned(), json!(width));
    }
}
