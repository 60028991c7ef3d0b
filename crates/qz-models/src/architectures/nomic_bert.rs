//! Nomic's embedding models (`NomicBertModel` in `conversion/bert.py`): BERT whose queries and keys
//! turn instead of learned positions. Without experts it has a gated network, and no biases but
//! those of norms; with experts in every few layers it has biases, and no gates. Configurations
//! are those of the code beside the weights, of transformers' class, or both.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{bert, decoder};
use crate::architecture::{Activation, Architecture, Contradiction, Model, Spelling};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::lists::joined;
use crate::rope::RopeScaling;
use crate::rules::Dimension::{Experts, Hidden, Intermediate, KeyValues, Product, Queries, Sum};
use crate::rules::{Condition, Dimension, LayerIndex, Presence, Role, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// NomicBERT, with experts or without.
pub(super) struct NomicBert {
    mixes: bool,
}

/// Without experts.
pub(super) static PLAIN: NomicBert = NomicBert { mixes: false };
/// With experts.
pub(super) static MIXED: NomicBert = NomicBert { mixes: true };

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

/// Of so many layers the second has experts.
const PERIOD: &str = "moe_every_n_layers";
const NORMALIZES: &str = "moe_normalize_expert_weights";

fn is_mixed(config: &ModelConfig, layer: LayerIndex) -> bool {
    config.size(PERIOD).is_some_and(|period| u64::from(layer.0) % period == 1)
}

const HAS_EXPERTS: Condition = Condition { key: PERIOD, holds: is_mixed };
const HAS_NETWORK: Condition =
    Condition { key: PERIOD, holds: |config, layer| !is_mixed(config, layer) };

const QUERY_KEY_VALUE: Dimension = Sum(&[Queries, KeyValues, KeyValues]);

const AROUND: [TensorRule; 4] = [
    bert::TOKEN_EMBEDDING,
    bert::TOKEN_TYPE_EMBEDDING,
    bert::EMBEDDING_NORM.named("emb_ln.weight"),
    bert::EMBEDDING_NORM_BIAS.named("emb_ln.bias"),
];
const ATTENTION: [TensorRule; 2] = [
    TensorRule::weight(
        Role::AttentionQueryKeyValue,
        "encoder.layers.{layer}.attn.Wqkv.weight",
        "blk.{layer}.attn_qkv.weight",
        &[QUERY_KEY_VALUE, Hidden],
    ),
    decoder::ATTENTION_OUTPUT.named("encoder.layers.{layer}.attn.out_proj.weight"),
];
const ATTENTION_BIASES: [TensorRule; 2] = [
    TensorRule::bias(
        Role::AttentionQueryKeyValue,
        "encoder.layers.{layer}.attn.Wqkv.bias",
        "blk.{layer}.attn_qkv.bias",
        &[QUERY_KEY_VALUE],
    )
    .when(Presence::WhenTrue("qkv_proj_bias")),
    decoder::ATTENTION_OUTPUT_BIAS
        .named("encoder.layers.{layer}.attn.out_proj.bias")
        .when(Presence::WhenTrue("qkv_proj_bias")),
];
const NORMS: [TensorRule; 4] = [
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
const GATED: [TensorRule; 3] = [
    decoder::UP.named("encoder.layers.{layer}.mlp.fc11.weight"),
    decoder::GATE.named("encoder.layers.{layer}.mlp.fc12.weight"),
    decoder::DOWN.named("encoder.layers.{layer}.mlp.fc2.weight"),
];
const NETWORK: [TensorRule; 4] = [
    decoder::UP.named("encoder.layers.{layer}.mlp.fc1.weight").only(HAS_NETWORK),
    decoder::UP_BIAS
        .named("encoder.layers.{layer}.mlp.fc1.bias")
        .when(Presence::WhenTrue("mlp_fc1_bias"))
        .only(HAS_NETWORK),
    decoder::DOWN.named("encoder.layers.{layer}.mlp.fc2.weight").only(HAS_NETWORK),
    decoder::DOWN_BIAS
        .named("encoder.layers.{layer}.mlp.fc2.bias")
        .when(Presence::WhenTrue("mlp_fc2_bias"))
        .only(HAS_NETWORK),
];
const ROWS: Dimension = Product(&[Experts, Intermediate]);
/// Experts, all in one matrix: of each its rows, and of down with inputs as rows.
const EXPERTS: [TensorRule; 4] = [
    TensorRule::weight(
        Role::ExpertRouter,
        "encoder.layers.{layer}.mlp.router.layer.weight",
        "blk.{layer}.ffn_gate_inp.weight",
        &[Experts, Hidden],
    )
    .only(HAS_EXPERTS),
    TensorRule::weight(
        Role::FeedForwardUp,
        "encoder.layers.{layer}.mlp.experts.mlp.w1",
        "blk.{layer}.ffn_up_exps.weight",
        &[ROWS, Hidden],
    )
    .reshaped(&[Experts, Intermediate, Hidden])
    .only(HAS_EXPERTS),
    TensorRule::weight(
        Role::FeedForwardDown,
        "encoder.layers.{layer}.mlp.experts.mlp.w2",
        "blk.{layer}.ffn_down_exps.weight",
        &[ROWS, Hidden],
    )
    .transformed(Transform::KEEP.transposed())
    .reshaped(&[Experts, Hidden, Intermediate])
    .only(HAS_EXPERTS),
    // The reference leaves it out, too.
    TensorRule::dropped("encoder.layers.{layer}.mlp.experts.bias", VECTOR).only(HAS_EXPERTS),
];

static PLAIN_RULES: &[TensorRule] = rules![&AROUND, &ATTENTION, &GATED, &NORMS];
static MIXED_RULES: &[TensorRule] =
    rules![&AROUND, &ATTENTION, &ATTENTION_BIASES, &NETWORK, &EXPERTS, &NORMS];

/// Keys of both.
const KEYS: &[ConfigKey] = &[
    ConfigKey::size_or(bert::TOKEN_TYPES, Default::Size(2)),
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
    ConfigKey::any("scale_attn_weights"),
];
const PLAIN_KEYS: &[ConfigKey] = &[
    ConfigKey::word("activation_function", &["swiglu"], Default::Absent),
    ConfigKey::any("qkv_proj_bias"),
    ConfigKey::any("mlp_fc1_bias"),
    ConfigKey::any("mlp_fc2_bias"),
];
const MIXED_KEYS: &[ConfigKey] = &[
    ConfigKey::word("activation_function", &["gelu"], Default::Absent),
    ConfigKey::flag("qkv_proj_bias", Default::Flag(true)),
    ConfigKey::flag("mlp_fc1_bias", Default::Flag(true)),
    ConfigKey::flag("mlp_fc2_bias", Default::Flag(true)),
    ConfigKey::size(PERIOD),
    ConfigKey::flag(NORMALIZES, Default::Flag(false)),
    ConfigKey::flag("expert_choice_router", Default::Flag(false)),
    ConfigKey::exactly("ffn_div", 1.0),
    ConfigKey::any("moe_impl"),
    ConfigKey::any("moe_resid_pdrop"),
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
        if self.mixes { "nomic-bert-moe" } else { "nomic-bert" }
    }

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        let period = config.get(PERIOD).and_then(Value::as_u64);
        self.mixes == period.is_some_and(|period| period > 0)
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        if self.mixes { MIXED_RULES } else { PLAIN_RULES }
    }

    fn mixes_experts(&self) -> bool {
        self.mixes
    }

    fn expert_key(&self) -> &'static str {
        "num_experts"
    }

    fn activation(&self) -> Activation {
        match self.mixes {
            true => Activation { key: "activation_function", words: &["gelu"] },
            false => Activation::SILU,
        }
    }

    fn spellings(&self) -> &'static [Spelling] {
        match self.mixes {
            true => &[Spelling { own: "moe_top_k", common: "num_experts_per_tok" }],
            false => &[],
        }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const PLAIN: &[ConfigKey] =
            &joined::<_, { KEYS.len() + PLAIN_KEYS.len() }>(&[KEYS, PLAIN_KEYS]);
        const MIXED: &[ConfigKey] =
            &joined::<_, { KEYS.len() + MIXED_KEYS.len() }>(&[KEYS, MIXED_KEYS]);
        if self.mixes { MIXED } else { PLAIN }
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
        let flags = [
            "causal",
            "prenorm",
            "parallel_block",
            "rotary_emb_interleaved",
            "use_rms_norm",
            NORMALIZES,
            "expert_choice_router",
        ];
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
                MetadataKey::Experts,
                MetadataKey::HeadSize,
                MetadataKey::FileType,
                bert::NOT_CAUSAL,
            ]
        }
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        bert::write_metadata(self.gguf_name(), model, metadata)?;
        if self.mixes {
            let mut set = |key: &str, value: Option<u64>| {
                if let Some(value) = value {
                    metadata.set(format!("{}.{key}", self.gguf_name()), value as u32);
                }
            };
            set(PERIOD, model.config.size(PERIOD));
            set("expert_used_count", model.config.experts_used);
        }
        Ok(())
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
        let common = json!({
            "causal": false, TRAINED: 2048, "parallel_block": false, "prenorm": false,
            "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false,
            "rotary_emb_scale_base": null, "use_rms_norm": false,
        });
        let own = match self.mixes {
            true => json!({
                PERIOD: keys.size(PERIOD), NORMALIZES: false, "num_shared_experts": 0,
                "expert_choice_router": false,
            }),
            false => json!({
                "activation_function": "swiglu", "mlp_fc1_bias": false, "mlp_fc2_bias": false,
                "qkv_proj_bias": false,
            }),
        };
        for more in [common, own] {
            config.extend(more.as_object().cloned().unwrap_or_default());
        }
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Bert
    }
}
