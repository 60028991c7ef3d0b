//! BERT (`BertModel` in `conversion/bert.py`): attends in both directions, adds what is
//! learned of positions to tokens, and has its norms behind the sums. RoBERTa and XLM-RoBERTa
//! (`RobertaModel`, `XLMRobertaModel`) are BERTs whose first positions have numbers behind that
//! of padding: GGUF leaves out the vectors of those before, and the way back gives a BERT, which
//! computes the same.

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
use crate::rules::{Dimension, Presence, Role, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// BERT.
pub(super) struct Bert;
/// RoBERTa.
pub(super) struct Roberta;
/// XLM-RoBERTa.
pub(super) struct XlmRoberta;

pub(super) const POSITIONS: &str = "max_position_embeddings";
pub(super) const TOKEN_TYPES: &str = "type_vocab_size";
/// Vectors of positions that RoBERTa stores, and how many of them come before the first
/// position: filled in, not in any file.
pub(super) const STORED_POSITIONS: &str = "stored_positions";
pub(super) const SKIPPED_POSITIONS: &str = "skipped_positions";
/// What a classifier tells apart.
const LABELS: &str = "num_labels";

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
/// Attention, and the norm of the sum with it.
pub(super) const ATTENTION: [TensorRule; 10] = [
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
];
const UP: [TensorRule; 2] =
    module!(Role::FeedForwardUp, "intermediate.dense", "ffn_up", WIDE, &[Intermediate]);
const DOWN: [TensorRule; 2] =
    module!(Role::FeedForwardDown, "output.dense", "ffn_down", NARROW, VECTOR);
const DOWN_NORM: [TensorRule; 2] =
    module!(Role::FeedForwardSumNorm, "output.LayerNorm", "layer_output_norm", VECTOR, VECTOR);

pub(super) const TOKEN_EMBEDDING: TensorRule = TensorRule::weight(
    Role::TokenEmbedding,
    "embeddings.word_embeddings.weight",
    "token_embd.weight",
    &[Vocabulary, Hidden],
);
pub(super) const TOKEN_TYPE_EMBEDDING: TensorRule = TensorRule::weight(
    Role::TokenTypeEmbedding,
    "embeddings.token_type_embeddings.weight",
    "token_types.weight",
    &[Size(TOKEN_TYPES), Hidden],
);
pub(super) const EMBEDDING_NORM: TensorRule = TensorRule::weight(
    Role::TokenEmbeddingNorm,
    "embeddings.LayerNorm.weight",
    "token_embd_norm.weight",
    VECTOR,
);
pub(super) const EMBEDDING_NORM_BIAS: TensorRule = TensorRule::bias(
    Role::TokenEmbeddingNorm,
    "embeddings.LayerNorm.bias",
    "token_embd_norm.bias",
    VECTOR,
);
const POSITION_EMBEDDING: TensorRule = TensorRule::weight(
    Role::PositionEmbedding,
    "embeddings.position_embeddings.weight",
    "position_embd.weight",
    &[Size(POSITIONS), Hidden],
);
/// What a reranker makes of the first token's vector. A BERT has no such layers: files with them
/// do not come back.
const CLASSIFIER: [TensorRule; 4] = [
    TensorRule::weight(Role::Pooler, "classifier.dense.weight", "cls.weight", SQUARE)
        .when(Presence::Optional),
    TensorRule::bias(Role::Pooler, "classifier.dense.bias", "cls.bias", VECTOR)
        .when(Presence::Optional),
    TensorRule::weight(
        Role::Classifier,
        "classifier.out_proj.weight",
        "cls.output.weight",
        &[Size(LABELS), Hidden],
    )
    .when(Presence::Optional),
    TensorRule::bias(
        Role::Classifier,
        "classifier.out_proj.bias",
        "cls.output.bias",
        &[Size(LABELS)],
    )
    .when(Presence::Optional),
];

/// The rows behind those of no position.
const LATER_POSITION_EMBEDDING: TensorRule = POSITION_EMBEDDING
    .shaped(&[Size(STORED_POSITIONS), Hidden])
    .transformed(Transform::part(Size(STORED_POSITIONS), Size(SKIPPED_POSITIONS), Size(POSITIONS)));

static RULES: &[TensorRule] = &with_positions(POSITION_EMBEDDING);
static ROBERTA_RULES: &[TensorRule] = &with_classifier(with_positions(LATER_POSITION_EMBEDDING));

const fn with_classifier(rules: [TensorRule; 21]) -> [TensorRule; 25] {
    let mut all = [CLASSIFIER[0]; 25];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < rules.len() { rules[at] } else { CLASSIFIER[at - rules.len()] };
        at += 1;
    }
    all
}

const fn with_positions(positions: TensorRule) -> [TensorRule; 21] {
    [
        TOKEN_EMBEDDING,
        positions,
        TOKEN_TYPE_EMBEDDING,
        EMBEDDING_NORM,
        EMBEDDING_NORM_BIAS,
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
    ]
}

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

static ROBERTA_DEFAULTS: ConfigDefaults =
    ConfigDefaults { model_type: "roberta", numbers: ROBERTA_NUMBERS, ..DEFAULTS };
static XLM_ROBERTA_DEFAULTS: ConfigDefaults =
    ConfigDefaults { model_type: "xlm-roberta", numbers: XLM_ROBERTA_NUMBERS, ..DEFAULTS };
const ROBERTA_NUMBERS: &[(&str, u64)] = &[
    ("vocab_size", 50_265),
    ("hidden_size", 768),
    ("intermediate_size", 3072),
    ("num_hidden_layers", 12),
    ("num_attention_heads", 12),
];
const XLM_ROBERTA_NUMBERS: &[(&str, u64)] = &[
    ("vocab_size", 30_522),
    ("hidden_size", 768),
    ("intermediate_size", 3072),
    ("num_hidden_layers", 12),
    ("num_attention_heads", 12),
];

pub(super) const METADATA: &[MetadataKey] = &[
    MetadataKey::Layers,
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::Heads,
    MetadataKey::LayerNormEpsilon,
    MetadataKey::FileType,
    NOT_CAUSAL,
];

/// Tokens see both sides: the reference says so of all of BERT's successors.
pub(super) const NOT_CAUSAL: MetadataKey =
    MetadataKey::computed("attention.causal", |_| Some(Entry::Bool(false)));

/// GELU, whichever of the two: files do not say.
pub(super) const GELU: Activation =
    Activation { key: "hidden_act", words: &["gelu", "gelu_new", "gelu_pytorch_tanh"] };

pub(super) const RENAMES: &[Rename] = &[
    Rename::Prefix("bert.", ""),
    Rename::Suffix(".gamma", ".weight"),
    Rename::Suffix(".beta", ".bias"),
];

pub(super) const TOWERS: &[&str] =
    &["embeddings.position_ids", "pooler.", "cls.predictions", "cls.seq_relationship"];

const ROBERTA_KEYS: &[ConfigKey] = &[
    ConfigKey::size_or(POSITIONS, Default::Required),
    ConfigKey::size_or(STORED_POSITIONS, Default::Required),
    ConfigKey::count_or(SKIPPED_POSITIONS, Default::Required),
    ConfigKey::size_or(LABELS, Default::Size(2)),
    ConfigKey::size_or(TOKEN_TYPES, Default::Size(2)),
    ConfigKey::word("position_embedding_type", &["absolute"], Default::Absent),
    ConfigKey::any("gradient_checkpointing"),
];

const ROBERTA_RENAMES: &[Rename] = &[
    Rename::Prefix("roberta.", ""),
    Rename::Suffix(".gamma", ".weight"),
    Rename::Suffix(".beta", ".bias"),
];

const ROBERTA_TOWERS: &[&str] = &["embeddings.position_ids", "pooler.", "lm_head."];

/// Queries and keys turn: another family's.
pub(super) fn turns(config: &Map<String, Value>) -> bool {
    config.get("position_embedding_type").and_then(Value::as_str) == Some("rotary")
}

/// Positions that count, and vectors that are stored: those up to the padding token's number
/// are of none (`_xlmroberta_tokenizer_init`).
pub(super) fn fill_positions(config: &mut Map<String, Value>) {
    let stored = config.get(POSITIONS).and_then(Value::as_u64).unwrap_or(512);
    let skipped = match config.get("pad_token_id") {
        None => 2,
        Some(padding) => padding.as_u64().map_or(0, |padding| padding.saturating_add(1)),
    };
    if let Some(labels) = config.get("id2label").and_then(Value::as_object).map(Map::len) {
        config.insert(LABELS.to_owned(), json!(labels));
    }
    config.insert(STORED_POSITIONS.to_owned(), json!(stored));
    config.insert(SKIPPED_POSITIONS.to_owned(), json!(skipped));
    config.insert(POSITIONS.to_owned(), json!(stored.saturating_sub(skipped)));
}

/// Writes how a text becomes one vector, and what a classifier tells apart.
pub(super) fn write_metadata(
    name: &str,
    model: &Model<'_>,
    metadata: &mut Metadata,
) -> Result<(), Error> {
    pooling::write_pooling_type(name, model, metadata)?;
    let labels = labels(model)?;
    if !labels.is_empty() {
        metadata.set(format!("{name}.classifier.output_labels"), Array::String(labels.into()));
    }
    Ok(())
}

/// How a classifier makes one vector of a text.
pub(super) const CLASSIFIER_POOLING: &str = "classifier_pooling";
const CLASSIFIER_POOLING_STORED: &str = "classifier.pooling_type";

/// Writes it, if files have a number for it.
pub(super) fn write_classifier_pooling(name: &str, config: &ModelConfig, metadata: &mut Metadata) {
    let number = |word: &str| pooling::BY_NAME.iter().find(|(known, _)| *known == word);
    if let Some((_, number)) = config.word(CLASSIFIER_POOLING).and_then(number) {
        metadata.set(format!("{name}.{CLASSIFIER_POOLING_STORED}"), *number);
    }
}

/// The way back.
pub(super) fn restore_classifier_pooling(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let stored = keys.size(CLASSIFIER_POOLING_STORED);
    let word = pooling::BY_NAME.iter().find(|(_, number)| stored == Some(u64::from(*number)));
    config.extend(word.map(|(word, _)| (CLASSIFIER_POOLING.to_owned(), json!(word))));
}

/// What configurations of encoders have beside what files say.
pub(super) fn complete(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let types = keys.metadata.unsigned("tokenizer.ggml.token_type_count").unwrap_or(1);
    config.insert(TOKEN_TYPES.to_owned(), json!(types));
    config.insert("tie_word_embeddings".to_owned(), json!(true));
    for key in ["is_causal", "num_key_value_heads"] {
        config.remove(key);
    }
}

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
        GELU
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
        RENAMES
    }

    fn towers(&self) -> &'static [&'static str] {
        TOWERS
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        write_metadata(self.gguf_name(), model, metadata)
    }

    fn token_types(&self, config: &ModelConfig) -> Option<u32> {
        config.size(TOKEN_TYPES).map(|types| types as u32)
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        complete(keys, config);
        config.remove("head_dim");
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Bert
    }
}

/// What RoBERTa and XLM-RoBERTa have in common: all but classes and defaults.
macro_rules! roberta {
    ($family:ty, $classes:expr, $defaults:expr) => {
        impl Architecture for $family {
            fn class_names(&self) -> &'static [&'static str] {
                $classes
            }

            fn gguf_name(&self) -> &'static str {
                Bert.gguf_name()
            }

            fn is_of(&self, config: &Map<String, Value>) -> bool {
                !turns(config)
            }

            fn is_in(&self, _metadata: &Metadata) -> bool {
                false
            }

            fn defaults(&self) -> &'static ConfigDefaults {
                $defaults
            }

            fn tensor_rules(&self) -> &'static [TensorRule] {
                ROBERTA_RULES
            }

            fn has_rope(&self) -> bool {
                false
            }

            fn activation(&self) -> Activation {
                GELU
            }

            fn config_keys(&self) -> &'static [ConfigKey] {
                ROBERTA_KEYS
            }

            fn fill_config(&self, config: &mut Map<String, Value>) {
                fill_positions(config);
            }

            fn renames(&self) -> &'static [Rename] {
                ROBERTA_RENAMES
            }

            fn towers(&self) -> &'static [&'static str] {
                ROBERTA_TOWERS
            }

            fn metadata(&self) -> &'static [MetadataKey] {
                METADATA
            }

            fn write_own_metadata(
                &self,
                model: &Model<'_>,
                metadata: &mut Metadata,
            ) -> Result<(), Error> {
                write_metadata(self.gguf_name(), model, metadata)
            }

            fn token_types(&self, config: &ModelConfig) -> Option<u32> {
                Bert.token_types(config)
            }

            fn vocabulary_rules(&self) -> VocabularyRules {
                VocabularyRules::Bert
            }
        }
    };
}

roberta!(
    Roberta,
    &["RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification"],
    &ROBERTA_DEFAULTS
);
roberta!(
    XlmRoberta,
    &["XLMRobertaModel", "XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"],
    &XLM_ROBERTA_DEFAULTS
);
