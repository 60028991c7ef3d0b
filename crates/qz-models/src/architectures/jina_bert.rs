//! Jina's embedding models of the second generation (`JinaBertV2Model` in `conversion/bert.py`):
//! BERT without learned positions, whose scores fall with the distance (ALiBi), and with a network
//! that has a gate; and of the third (`XLMRobertaModel`): XLM-RoBERTa whose queries and keys turn.
//! Their classes are in code beside the weights.

use qz_tensor::{Metadata, Value as Entry};
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::bert;
use super::decoder::layer_module;
use super::decoder::rules;
use crate::architecture::{Activation, Architecture, Contradiction, Model, Rename};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow, shortest};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rope::RopeScaling;
use crate::rules::Dimension::{GateAndUp, Hidden, Intermediate, KeyValues, Queries, Sum};
use crate::rules::{Dimension, Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// The second generation.
pub(super) struct JinaBert2;
/// The third.
pub(super) struct JinaBert3;

const POSITIONS: &str = "position_embedding_type";
const NETWORK: &str = "feed_forward_type";
const VECTOR: &[Dimension] = &[Hidden];
const NARROW: &[Dimension] = &[Hidden, Intermediate];

const EMBEDDINGS: [TensorRule; 4] = [
    bert::TOKEN_EMBEDDING,
    bert::TOKEN_TYPE_EMBEDDING,
    bert::EMBEDDING_NORM,
    bert::EMBEDDING_NORM_BIAS,
];
/// Norms of queries and keys, and a further norm behind attention, of the models for code: they
/// are not computed.
const OF_CODE: [TensorRule; 6] = {
    let query = layer_module!(
        "encoder.layer.{layer}.",
        Role::AttentionQueryNorm,
        "attention.self.layer_norm_q",
        "attn_q_norm",
        VECTOR,
        VECTOR
    );
    let key = layer_module!(
        "encoder.layer.{layer}.",
        Role::AttentionKeyNorm,
        "attention.self.layer_norm_k",
        "attn_k_norm",
        VECTOR,
        VECTOR
    );
    let further = layer_module!(
        "encoder.layer.{layer}.",
        Role::AttentionOwnNorm,
        "layer_norm_1",
        "attn_norm_2",
        VECTOR,
        VECTOR
    );
    [
        query[0].when(Presence::Optional),
        query[1].when(Presence::Optional),
        key[0].when(Presence::Optional),
        key[1].when(Presence::Optional),
        further[0].when(Presence::Optional),
        further[1].when(Presence::Optional),
    ]
};

const GATE_UP: TensorRule = TensorRule::weight(
    Role::FeedForwardGateUp,
    "encoder.layer.{layer}.mlp.gated_layers.weight",
    "blk.{layer}.ffn_up.weight",
    &[GateAndUp, Hidden],
);
const DOWN: [TensorRule; 2] = layer_module!(
    "encoder.layer.{layer}.",
    Role::FeedForwardDown,
    "mlp.wo",
    "ffn_down",
    NARROW,
    VECTOR
);
const NORM: [TensorRule; 2] = layer_module!(
    "encoder.layer.{layer}.",
    Role::FeedForwardSumNorm,
    "mlp.layernorm",
    "layer_output_norm",
    VECTOR,
    VECTOR
);

static RULES: &[TensorRule] =
    rules![&EMBEDDINGS, &bert::ATTENTION, &OF_CODE, &[GATE_UP], &DOWN, &NORM];
/// The models for code call their network otherwise.
const CODE_RULES: &[TensorRule] = rules![
    &EMBEDDINGS,
    &bert::ATTENTION,
    &OF_CODE,
    &[
        GATE_UP.named("encoder.layer.{layer}.mlp.up_gated_layer.weight"),
        DOWN[0].named("encoder.layer.{layer}.mlp.down_layer.weight"),
        DOWN[1].named("encoder.layer.{layer}.mlp.down_layer.bias"),
        NORM[0].named("encoder.layer.{layer}.layer_norm_2.weight"),
        NORM[1].named("encoder.layer.{layer}.layer_norm_2.bias"),
    ],
];

/// Of the third generation, as flash attention's package calls its tensors.
macro_rules! module {
    ($role:ident, $hugging_face:literal, $gguf:literal, $shape:expr, $bias:expr) => {
        layer_module!("encoder.layers.{layer}.", Role::$role, $hugging_face, $gguf, $shape, $bias)
    };
}

static THIRD_RULES: &[TensorRule] = rules![
    &[
        bert::TOKEN_EMBEDDING,
        bert::TOKEN_TYPE_EMBEDDING,
        bert::EMBEDDING_NORM.named("emb_ln.weight"),
        bert::EMBEDDING_NORM_BIAS.named("emb_ln.bias"),
    ],
    &module!(
        AttentionQueryKeyValue,
        "mixer.Wqkv",
        "attn_qkv",
        &[Sum(&[Queries, KeyValues, KeyValues]), Hidden],
        &[Sum(&[Queries, KeyValues, KeyValues])]
    ),
    &module!(AttentionOutput, "mixer.out_proj", "attn_output", &[Hidden, Queries], VECTOR),
    &module!(AttentionSumNorm, "norm1", "attn_output_norm", VECTOR, VECTOR),
    &module!(FeedForwardUp, "mlp.fc1", "ffn_up", &[Intermediate, Hidden], &[Intermediate]),
    &module!(FeedForwardDown, "mlp.fc2", "ffn_down", NARROW, VECTOR),
    &module!(FeedForwardSumNorm, "norm2", "layer_output_norm", VECTOR, VECTOR),
];

static SECOND_DEFAULTS: ConfigDefaults = ConfigDefaults { model_type: "bert", ..DEFAULTS };
static THIRD_DEFAULTS: ConfigDefaults =
    ConfigDefaults { model_type: "xlm-roberta", rope_theta: USUAL_BASE, ..DEFAULTS };
const DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "",
    numbers: &[],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for JinaBert2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["JinaBertForMaskedLM", "JinaBertModel"]
    }

    fn gguf_name(&self) -> &'static str {
        "jina-bert-v2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &SECOND_DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
        &[CODE_RULES]
    }

    fn has_rope(&self) -> bool {
        false
    }

    fn activation(&self) -> Activation {
        bert::GELU
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(bert::TOKEN_TYPES, Default::Size(2)),
                ConfigKey::word(POSITIONS, &["alibi"], Default::Required),
                ConfigKey::word(NETWORK, &["geglu"], Default::Required),
                ConfigKey::any("emb_pooler"),
                ConfigKey::any("gradient_checkpointing"),
            ]
        }
    }

    fn renames(&self) -> &'static [Rename] {
        bert::RENAMES
    }

    fn towers(&self) -> &'static [&'static str] {
        bert::TOWERS
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        bert::METADATA
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        bert::write_metadata(self.gguf_name(), model, metadata)
    }

    fn token_types(&self, config: &ModelConfig) -> Option<u32> {
        config.size(bert::TOKEN_TYPES).map(|types| types as u32)
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        bert::complete(keys, config);
        config.remove("head_dim");
        config.insert(POSITIONS.to_owned(), json!("alibi"));
        config.insert(NETWORK.to_owned(), json!("geglu"));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Bert
    }
}

/// The base where nothing is said.
const USUAL_BASE: f64 = 20_000.0;
/// The base of the frequencies.
const BASE: &str = "rotary_emb_base";
/// The names of the adapters in the checkpoint, of which a file of the model has none.
const ADAPTERS: &str = "lora_adaptations";

impl Architecture for JinaBert3 {
    fn class_names(&self) -> &'static [&'static str] {
        &["XLMRobertaModel"]
    }

    fn gguf_name(&self) -> &'static str {
        "jina-bert-v3"
    }

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        bert::turns(config)
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &THIRD_DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        THIRD_RULES
    }

    fn activation(&self) -> Activation {
        bert::GELU
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        bert::fill_positions(config);
        if let Some(base) = config.get(BASE).cloned() {
            config.insert("rope_theta".to_owned(), base);
            config.shift_remove("rope_parameters");
        }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(bert::POSITIONS, Default::Required),
                ConfigKey::size_or(bert::STORED_POSITIONS, Default::Required),
                ConfigKey::count_or(bert::SKIPPED_POSITIONS, Default::Required),
                ConfigKey::size_or(bert::TOKEN_TYPES, Default::Size(2)),
                ConfigKey::word(POSITIONS, &["rotary"], Default::Required),
                ConfigKey::number(BASE, Default::Number(USUAL_BASE)),
                ConfigKey::any(ADAPTERS),
                ConfigKey::any("lora_alpha"),
                ConfigKey::any("lora_rank"),
                ConfigKey::any("lora_dropout_p"),
                ConfigKey::any("lora_main_params_trainable"),
                ConfigKey::any("load_trained_adapters"),
                ConfigKey::any("task_instructions"),
                ConfigKey::any("matryoshka_dimensions"),
                ConfigKey::any("truncate_dim"),
                ConfigKey::any("emb_pooler"),
                ConfigKey::any("use_flash_attn"),
                ConfigKey::any("output_past"),
                ConfigKey::flag("use_reg_tokens", Default::Flag(false)),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
        if config.flag("use_reg_tokens") == Some(true) {
            return say("use_reg_tokens", "is true, which is not supported");
        }
        match config.rope.scaling {
            RopeScaling::None => None,
            _ => say("rope_scaling", "is not supported for this architecture"),
        }
    }

    fn renames(&self) -> &'static [Rename] {
        &[
            Rename::Prefix("roberta.", ""),
            Rename::Suffix(".parametrizations.weight.original", ".weight"),
        ]
    }

    fn towers(&self) -> &'static [&'static str] {
        &["pooler.", "lm_head."]
    }

    /// Adapters for tasks lie beside the matrices. The reference writes a file for each.
    fn is_apart(&self, name: &str) -> bool {
        let endings = [".lora_A", ".lora_B"];
        self.towers().iter().any(|tower| name.starts_with(tower))
            || endings.iter().any(|ending| name.ends_with(ending))
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::Layers,
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Intermediate,
                MetadataKey::Heads,
                MetadataKey::computed("rope.freq_base", |config| {
                    Some(Entry::from(config.number(BASE)? as f32))
                }),
                MetadataKey::LayerNormEpsilon,
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

    /// Positions are counted from 0: those up to that of padding are not told apart any more.
    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        bert::complete(keys, config);
        for key in ["head_dim", "rope_parameters", "rope_scaling", "rope_theta"] {
            config.remove(key);
        }
        // Where a file has no base, llama.cpp takes the usual one of others.
        let base = keys.number("rope.freq_base").unwrap_or(DEFAULT_ROPE_THETA as f32);
        config.insert(BASE.to_owned(), shortest(base));
        config.insert(POSITIONS.to_owned(), json!("rotary"));
        let context = keys.size("context_length").unwrap_or(0);
        let padding = keys.metadata.unsigned("tokenizer.ggml.padding_token_id");
        let skipped = padding.map_or(0, |padding| padding + 1);
        config.insert(bert::POSITIONS.to_owned(), json!(context + skipped));
        config.insert("pad_token_id".to_owned(), json!(padding));
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Bert
    }
}
