//! ModernBERT (`ModernBertModel` in `conversion/bert.py`): an encoder with norms in front,
//! queries, keys and values in one matrix, gate and up in another. Of each few layers the first
//! sees all positions, the others a window, and these turn by a base of their own.

use qz_tensor::{Metadata, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder::layer_weight;
use super::{bert, decoder, pooling};
use crate::architecture::{Activation, Architecture, Contradiction, Model, Rename, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rope::RopeScaling;
use crate::rules::Dimension::{GateAndUp, Hidden, KeyValues, Queries, Sum, Vocabulary};
use crate::rules::{Condition, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// ModernBERT.
pub(super) struct ModernBert;

const WINDOW: &str = "local_attention";
const PERIOD: &str = "global_attn_every_n_layers";
const KINDS: &str = "layer_types";
const ACTIVATION: &str = "hidden_activation";
const ACTIVATIONS: &[&str] = &["gelu", "silu"];

/// The norm of the embeddings stands before the first layer.
const AFTER_FIRST: Condition = Condition { key: "(layer)", holds: |_, layer| layer.0 > 0 };

static RULES: &[TensorRule] = &[
    bert::TOKEN_EMBEDDING.named("embeddings.tok_embeddings.weight").shaped(&[Vocabulary, Hidden]),
    bert::EMBEDDING_NORM.named("embeddings.norm.weight"),
    decoder::OUTPUT_NORM.named("final_norm.weight"),
    decoder::ATTENTION_NORM.named("layers.{layer}.attn_norm.weight").only(AFTER_FIRST),
    layer_weight!(
        Role::AttentionQueryKeyValue,
        "attn.Wqkv",
        "attn_qkv",
        &[Sum(&[Queries, KeyValues, KeyValues]), Hidden]
    )
    .named("layers.{layer}.attn.Wqkv.weight"),
    decoder::ATTENTION_OUTPUT.named("layers.{layer}.attn.Wo.weight"),
    decoder::FEED_FORWARD_NORM.named("layers.{layer}.mlp_norm.weight"),
    layer_weight!(Role::FeedForwardGateUp, "mlp.Wi", "ffn_up", &[GateAndUp, Hidden])
        .named("layers.{layer}.mlp.Wi.weight"),
    decoder::DOWN.named("layers.{layer}.mlp.Wo.weight"),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "modernbert",
    numbers: &[
        ("vocab_size", 50_368),
        ("hidden_size", 768),
        ("intermediate_size", 1152),
        ("num_hidden_layers", 22),
        ("num_attention_heads", 12),
        ("max_position_embeddings", 8192),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: 160_000.0,
    sliding_rope_theta: Some(DEFAULT_ROPE_THETA),
    window: DefaultWindow::Never,
};

const METADATA: &[MetadataKey] = &[
    MetadataKey::Layers,
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::Heads,
    MetadataKey::RopeBases,
    MetadataKey::RmsEpsilon,
    MetadataKey::LayerNormEpsilon,
    MetadataKey::FileType,
    bert::NOT_CAUSAL,
];

impl Architecture for ModernBert {
    fn class_names(&self) -> &'static [&'static str] {
        &["ModernBertModel", "ModernBertForMaskedLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "modern-bert"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        Activation { key: ACTIVATION, words: ACTIVATIONS }
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "norm_eps", common: "rms_norm_eps" },
            Spelling { own: "global_rope_theta", common: "rope_theta" },
            Spelling { own: "local_rope_theta", common: "rope_local_base_freq" },
        ]
    }

    /// Norms take the mean away: their epsilon is that of layer norms, by whatever key.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        let epsilon = config.get("rms_norm_eps").cloned().unwrap_or(json!(1e-5));
        config.entry("layer_norm_eps").or_insert(epsilon);
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(WINDOW, Default::Size(128)),
                ConfigKey::size_or(PERIOD, Default::Size(3)),
                ConfigKey::windows(KINDS),
                ConfigKey::word(bert::CLASSIFIER_POOLING, &["mean", "cls"], Default::Word("cls")),
                ConfigKey::word(ACTIVATION, ACTIVATIONS, Default::Word("gelu")),
                ConfigKey::word("position_embedding_type", &["absolute"], Default::Absent),
                ConfigKey::any("rope_local_base_freq"),
                ConfigKey::any("classifier_activation"),
                ConfigKey::any("cls_token_id"),
                ConfigKey::any("decoder_bias"),
                ConfigKey::any("norm_bias"),
                ConfigKey::any("classifier_bias"),
                ConfigKey::any("deterministic_flash_attn"),
                ConfigKey::any("initializer_cutoff_factor"),
                ConfigKey::any("embedding_dropout"),
                ConfigKey::any("sparse_prediction"),
                ConfigKey::any("sparse_pred_ignore_index"),
                ConfigKey::any("reference_compile"),
                ConfigKey::any("repad_logits_with_grad"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let period = config.size(PERIOD).unwrap_or(1).max(1) as usize;
        let mut kinds = config.flags(KINDS).unwrap_or_default().iter().enumerate();
        if let Some((layer, _)) =
            kinds.find(|(layer, is_windowed)| **is_windowed != (layer % period > 0))
        {
            let problem =
                format!("says otherwise of layer {layer} than {PERIOD}, which is {period}");
            return Some(Contradiction { key: KINDS, problem });
        }
        (config.rope.scaling != RopeScaling::None).then(|| Contradiction {
            key: "rope_scaling",
            problem: "files of this architecture say that there is none".to_owned(),
        })
    }

    fn renames(&self) -> &'static [Rename] {
        &[Rename::Prefix("model.", "")]
    }

    fn towers(&self) -> &'static [&'static str] {
        &["head.", "decoder."]
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        let name = self.gguf_name();
        pooling::write_pooling_type(name, model, metadata)?;
        let config = model.config;
        bert::write_classifier_pooling(name, config, metadata);
        let mut set = |key: &str, value: Entry| metadata.set(format!("{name}.{key}"), value);
        if let Some(window) = config.size(WINDOW) {
            set("attention.sliding_window", (window as u32).into());
        }
        if let Some(period) = config.size(PERIOD) {
            set("attention.sliding_window_pattern", (period as u32).into());
        }
        set("rope.scaling.type", "none".into());
        set("vocab_size", (config.vocabulary as u32).into());
        if let Some(activation) = config.word(ACTIVATION) {
            set(ACTIVATION, activation.into());
        }
        Ok(())
    }

    fn begin_vocabulary(&self, _config: &ModelConfig, metadata: &mut Metadata) {
        for kind in ["bos", "eos", "sep"] {
            metadata.set(format!("tokenizer.ggml.add_{kind}_token"), true);
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        for key in ["is_causal", "num_key_value_heads", "sliding_window"] {
            config.remove(key);
        }
        config.insert("tie_word_embeddings".to_owned(), json!(true));
        let epsilon = keys.number("attention.layer_norm_epsilon").map(crate::config::shortest);
        config.extend(epsilon.map(|epsilon| ("layer_norm_eps".to_owned(), epsilon)));
        for (key, stored) in
            [(WINDOW, "attention.sliding_window"), (PERIOD, "attention.sliding_window_pattern")]
        {
            config.extend(keys.size(stored).map(|size| (key.to_owned(), json!(size))));
        }
        bert::restore_classifier_pooling(keys, config);
        let activation = keys.metadata.string("modern-bert.hidden_activation");
        config.extend(activation.map(|word| (ACTIVATION.to_owned(), json!(word))));
        for (job, key) in [("cls", "bos"), ("sep", "seperator")] {
            let id = keys.metadata.unsigned(&format!("tokenizer.ggml.{key}_token_id"));
            config.extend(id.map(|id| (format!("{job}_token_id"), json!(id))));
        }
    }
}
