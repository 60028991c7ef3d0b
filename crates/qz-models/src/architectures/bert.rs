//! BERT (`BertModel` in `conversion/bert.py`): attends in both directions, adds what is
//! learned of positions to tokens, and has its norms behind the sums.

use qz_tensor::{Array, Metadata, Value as Entry};
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::layer_module;
use super::pooling;
use crate::architecture::{Activation, Architecture, Model, Rename};
use crate::config::{
    ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow, JsonObject,
};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Intermediate, Size, Vocabulary};
use crate::rules::{Dimension, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// BERT.
pub(super) struct Bert;

const POSITIONS: &str = "max_position_embeddings";
const TOKEN_TYPES: &str = "type_vocab_size";

/// The weight and the bias of a module of a layer.
macro_rules! module {
    ($role:expr, $hugging_face:literal, $gguf:literal, $shape:expr, $bias:expr) => {
        layer_module!("encoder.layer.{layer}.", $role, $hugging_face, $gguf, $shape, $bias)
    };
}

const SQUARE: &[Dimension] = &[Hidden, Hidden];
const WIDE: &[Dimension] = &[Intermediate, Hidden];
const NARROW: &[Dimension] = &[Hidden, Intermediate];
const VECTOR: &[Dimension] = &[Hidden];

const QUERY: [TensorRule; 2] =
    module!(Role::AttentionQuery, "attention.self.query", "attn_q", SQUARE, VECTOR);
const KEY: [TensorRule; 2] =
    module!(Role::AttentionKey, "attention.self.key", "attn_k", SQUARE, VECTOR);
const VALUE: [TensorRule; 2] =
    module!(Role::AttentionValue, "attention.self.value", "attn_v", SQUARE, VECTOR);
const OUTPUT: [TensorRule; 2] =
    module!(Role::AttentionOutput, "attention.output.dense", "attn_output", SQUARE, VECTOR);
const OUTPUT_NORM: [TensorRule; 2] = module!(
    Role::AttentionSumNorm,
    "attention.output.LayerNorm",
    "attn_output_norm",
    VECTOR,
    VECTOR
);
const UP: [TensorRule; 2] =
    module!(Role::FeedForwardUp, "intermediate.dense", "ffn_up", WIDE, &[Intermediate]);
const DOWN: [TensorRule; 2] =
    module!(Role::FeedForwardDown, "output.dense", "ffn_down", NARROW, VECTOR);
const DOWN_NORM: [TensorRule; 2] =
    module!(Role::FeedForwardSumNorm, "output.LayerNorm", "layer_output_norm", VECTOR, VECTOR);

static RULES: &[TensorRule] = &[
    TensorRule::weight(
        Role::TokenEmbedding,
        "embeddings.word_embeddings.weight",
        "token_embd.weight",
        &[Vocabulary, Hidden],
    ),
    TensorRule::weight(
        Role::PositionEmbedding,
        "embeddings.position_embeddings.weight",
        "position_embd.weight",
        &[Size(POSITIONS), Hidden],
    ),
    TensorRule::weight(
        Role::TokenTypeEmbedding,
        "embeddings.token_type_embeddings.weight",
        "token_types.weight",
        &[Size(TOKEN_TYPES), Hidden],
    ),
    TensorRule::weight(
        Role::TokenEmbeddingNorm,
        "embeddings.LayerNorm.weight",
        "token_embd_norm.weight",
        VECTOR,
    ),
    TensorRule::bias(
        Role::TokenEmbeddingNorm,
        "embeddings.LayerNorm.bias",
        "token_embd_norm.bias",
        VECTOR,
    ),
    QUERY[0],
    QUERY[1],
    KEY[0],
    KEY[1],
    VALUE[0],
    VALUE[1],
    OUTPUT[0],
    OUTPUT[1],
    OUTPUT_NORM[0],
    OUTPUT_NORM[1],
    UP[0],
    UP[1],
    DOWN[0],
    DOWN[1],
    DOWN_NORM[0],
    DOWN_NORM[1],
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "bert",
    numbers: &[
        ("vocab_size", 30_522),
        ("hidden_size", 768),
        ("intermediate_size", 3072),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 12),
        (POSITIONS, 512),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// The names of what a classifier tells apart, unless they are transformers' own for two.
fn labels(model: &Model<'_>) -> Result<Vec<String>, Error> {
    const FILE: &str = "config.json";
    const KEY: &str = "id2label";
    let bytes = model.files.read(FILE)?.unwrap_or_default();
    let config = JsonObject::parse(model.files.path(FILE), &bytes)?;
    let Some(names) = config.object(KEY)? else { return Ok(Vec::new()) };
    let mut labels: Vec<(u32, String)> = Vec::new();
    for (id, name) in names.entries() {
        match (id.parse(), name.as_str()) {
            (Ok(id), Some(name)) => labels.push((id, name.to_owned())),
            _ => return Err(config.fault(KEY, "expected names by number")),
        }
    }
    labels.sort_unstable();
    let is_default = labels.len() == 2 && labels[0].1 == "LABEL_0";
    Ok(if is_default { Vec::new() } else { labels.into_iter().map(|(_, name)| name).collect() })
}

impl Architecture for Bert {
    fn class_names(&self) -> &'static [&'static str] {
        &["BertModel", "BertForMaskedLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "bert"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn has_rope(&self) -> bool {
        false
    }

    fn activation(&self) -> Activation {
        Activation { key: "hidden_act", words: &["gelu", "gelu_new", "gelu_pytorch_tanh"] }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(POSITIONS, Default::Size(512)),
                ConfigKey::size_or(TOKEN_TYPES, Default::Size(2)),
                ConfigKey::word("position_embedding_type", &["absolute"], Default::Absent),
                ConfigKey::any("gradient_checkpointing"),
            ]
        }
    }

    fn renames(&self) -> &'static [Rename] {
        &[
            Rename::Prefix("bert.", ""),
            Rename::Suffix(".gamma", ".weight"),
            Rename::Suffix(".beta", ".bias"),
        ]
    }

    fn towers(&self) -> &'static [&'static str] {
        &["embeddings.position_ids", "pooler.", "cls.predictions", "cls.seq_relationship"]
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::Layers,
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Intermediate,
                MetadataKey::Heads,
                MetadataKey::LayerNormEpsilon,
                MetadataKey::FileType,
                MetadataKey::computed("attention.causal", |_| Some(Entry::Bool(false))),
            ]
        }
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        pooling::write_pooling_type(self.gguf_name(), model, metadata)?;
        let labels = labels(model)?;
        if !labels.is_empty() {
            metadata.set("bert.classifier.output_labels", Array::String(labels.into()));
        }
        Ok(())
    }

    fn begin_vocabulary(&self, config: &ModelConfig, metadata: &mut Metadata) {
        let types = config.size(TOKEN_TYPES).unwrap_or(1) as u32;
        metadata.set("tokenizer.ggml.token_type_count", types);
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let types = keys.metadata.unsigned("tokenizer.ggml.token_type_count").unwrap_or(1);
        config.insert(TOKEN_TYPES.to_owned(), json!(types));
        config.insert("tie_word_embeddings".to_owned(), json!(true));
        for key in ["is_causal", "num_key_value_heads", "head_dim"] {
            config.remove(key);
        }
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Bert
    }
}
