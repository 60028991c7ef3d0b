//! Nomic's embedding models without experts (`NomicBertModel` in `conversion/bert.py`): BERT
//! whose queries and keys turn instead of learned positions, with a gated network, and without
//! biases but those of norms. Configurations are those of the code beside the weights, of
//! transformers' class, or both.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use super::{bert, decoder};
use crate::architecture::{Architecture, Contradiction, Model};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rope::RopeScaling;
use crate::rules::Dimension::{Hidden, KeyValues, Queries, Sum};
use crate::rules::{Dimension, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// NomicBERT.
pub(super) struct NomicBert;

/// Keys of the code beside the weights, with transformers' for the same.
const BOTH: &[(&str, &str)] = &[
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("n_inner", "intermediate_size"),
    ("n_layer", "num_hidden_layers"),
    ("layer_norm_epsilon", "layer_norm_eps"),
    ("rotary_emb_base", "rope_theta"),
];
/// Positions that the code beside the weights takes, and those of training.
const TAKEN: &str = "n_positions";
const TRAINED: &str = "max_trained_positions";
const CONTEXT: &str = "max_position_embeddings";
const BASE: f64 = 1000.0;

const VECTOR: &[Dimension] = &[Hidden];

static RULES: &[TensorRule] = &[
    bert::TOKEN_EMBEDDING,
    bert::TOKEN_TYPE_EMBEDDING,
    bert::EMBEDDING_NORM.named("emb_ln.weight"),
    bert::EMBEDDING_NORM_BIAS.named("emb_ln.bias"),
    layer_weight!(
        Role::AttentionQueryKeyValue,
        "attn.Wqkv",
        "attn_qkv",
        &[Sum(&[Queries, KeyValues, KeyValues]), Hidden]
    )
    .named("encoder.layers.{layer}.attn.Wqkv.weight"),
    decoder::ATTENTION_OUTPUT.named("encoder.layers.{layer}.attn.out_proj.weight"),
    TensorRule::weight(
        Role::AttentionSumNorm,
        "encoder.layers.{layer}.norm1.weight",
        "blk.{layer}.attn_output_norm.weight",
        VECTOR,
    ),
    TensorRule::bias(
        Role::AttentionSumNorm,
        "encoder.layers.{layer}.norm1.bias",
        "blk.{layer}.attn_output_norm.bias",
        VECTOR,
    ),
    decoder::UP.named("encoder.layers.{layer}.mlp.fc11.weight"),
    decoder::GATE.named("encoder.layers.{layer}.mlp.fc12.weight"),
    decoder::DOWN.named("encoder.layers.{layer}.mlp.fc2.weight"),
    TensorRule::weight(
        Role::FeedForwardSumNorm,
        "encoder.layers.{layer}.norm2.weight",
        "blk.{layer}.layer_output_norm.weight",
        VECTOR,
    ),
    TensorRule::bias(
        Role::FeedForwardSumNorm,
        "encoder.layers.{layer}.norm2.bias",
        "blk.{layer}.layer_output_norm.bias",
        VECTOR,
    ),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "nomic_bert",
    numbers: &[
        ("vocab_size", 30_528),
        ("hidden_size", 768),
        ("intermediate_size", 3072),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 12),
        (CONTEXT, 2048),
    ],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: None,
    rope_theta: BASE,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for NomicBert {
    fn class_names(&self) -> &'static [&'static str] {
        &["NomicBertModel"]
    }

    fn gguf_name(&self) -> &'static str {
        "nomic-bert"
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
                ConfigKey::size_or(bert::TOKEN_TYPES, Default::Size(2)),
                ConfigKey::word("activation_function", &["swiglu"], Default::Absent),
                ConfigKey::flag("causal", Default::Flag(false)),
                ConfigKey::flag("prenorm", Default::Flag(false)),
                ConfigKey::flag("parallel_block", Default::Flag(false)),
                ConfigKey::flag("rotary_emb_interleaved", Default::Flag(false)),
                ConfigKey::flag("use_rms_norm", Default::Flag(false)),
                ConfigKey::exactly("rotary_emb_fraction", 1.0),
                ConfigKey::number("rotary_emb_scale_base", Default::Absent),
                ConfigKey::number("rotary_scaling_factor", Default::Absent),
                ConfigKey::any(TAKEN),
                ConfigKey::any(TRAINED),
                ConfigKey::any("n_embd"),
                ConfigKey::any("n_head"),
                ConfigKey::any("n_inner"),
                ConfigKey::any("n_layer"),
                ConfigKey::any("rotary_emb_base"),
                ConfigKey::any("qkv_proj_bias"),
                ConfigKey::any("mlp_fc1_bias"),
                ConfigKey::any("mlp_fc2_bias"),
                ConfigKey::any("scale_attn_weights"),
            ]
        }
    }

    /// Either form of the configuration. Published models take longer texts than they were
    /// trained with; the reference writes the latter.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        for (own, common) in BOTH {
            if let Some(value) = config.get(*own).filter(|value| !value.is_null()).cloned() {
                config.entry(*common).or_insert(value);
            }
        }
        let size = |key: &str| config.get(key).and_then(Value::as_u64);
        let context = match (size(CONTEXT), size(TAKEN), size(TRAINED).unwrap_or(2048)) {
            (None, Some(8192), 2048) => Some(2048),
            (None, Some(2048), 2048) => Some(512),
            (None, Some(taken), trained) => Some(taken.min(trained)),
            _ => None,
        };
        config.extend(context.map(|context| (CONTEXT.to_owned(), json!(context))));
        config.entry("layer_norm_eps").or_insert(json!(1e-12));
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let on = |key: &&&str| config.flag(key) == Some(true);
        let flags =
            ["causal", "prenorm", "parallel_block", "rotary_emb_interleaved", "use_rms_norm"];
        let factors = ["rotary_emb_scale_base", "rotary_scaling_factor"];
        let stated = factors.iter().find(|key| config.number(key).is_some_and(|own| own != 0.0));
        if let Some(key) = flags.iter().find(on).or(stated) {
            let problem = "asks for what this architecture does not compute".to_owned();
            return Some(Contradiction { key, problem });
        }
        (config.rope.scaling != RopeScaling::None).then(|| Contradiction {
            key: "rope_parameters",
            problem: "ask for scaled frequencies, which this architecture has not".to_owned(),
        })
    }

    fn towers(&self) -> &'static [&'static str] {
        &["pooler.", "cls.predictions"]
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::Layers,
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Intermediate,
                MetadataKey::Heads,
                MetadataKey::RopeBases,
                MetadataKey::LayerNormEpsilon,
                MetadataKey::HeadSize,
                MetadataKey::FileType,
                bert::NOT_CAUSAL,
            ]
        }
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        bert::write_metadata(self.gguf_name(), model, metadata)
    }

    fn token_types(&self, config: &ModelConfig) -> Option<u32> {
        config.size(bert::TOKEN_TYPES).map(|types| types as u32)
    }

    /// Both forms are written: either kind of reader finds its own.
    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        bert::complete(keys, config);
        for (own, common) in BOTH {
            if let Some(value) = config.get(*common).cloned() {
                config.insert((*own).to_owned(), value);
            }
        }
        let context = config.get(CONTEXT).cloned().unwrap_or_default();
        // What the code beside the weights takes of models that were trained with so many.
        let taken = if context == json!(2048) { json!(8192) } else { json!(2048) };
        config.insert(TAKEN.to_owned(), taken);
        let more = json!({
            "activation_function": "swiglu", "causal": false, TRAINED: 2048, "mlp_fc1_bias": false,
            "mlp_fc2_bias": false, "parallel_block": false, "prenorm": false,
            "qkv_proj_bias": false, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false,
            "rotary_emb_scale_base": null, "use_rms_norm": false,
        });
        config.extend(more.as_object().cloned().unwrap_or_default());
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Bert
    }
}
