//! Hunyuan without experts (`HunYuanModel` in `conversion/hunyuan.py`): norms of each head's queries and keys
//! after they have turned.

use qz_tensor::Metadata;
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{decoder, gemma};
use crate::architecture::{Architecture, Contradiction, Model};
use crate::config::{
    ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow, JsonObject,
};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rope::RopeScaling;
use crate::rules::{Condition, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Hunyuan.
pub(super) struct Hunyuan;

/// What both have beside networks.
pub(super) const OTHERS: &[TensorRule] = rules![
    &decoder::ATTENTION,
    &[
        decoder::TOKEN_EMBEDDING,
        decoder::OUTPUT_NORM,
        gemma::TIED_OUTPUT,
        UNTIED_OUTPUT,
        decoder::QUERY_NORM.named("model.layers.{layer}.self_attn.query_layernorm.weight"),
        decoder::KEY_NORM.named("model.layers.{layer}.self_attn.key_layernorm.weight"),
        decoder::FEED_FORWARD_NORM,
    ],
];
static RULES: &[TensorRule] = rules![OTHERS, &[decoder::GATE, decoder::UP, decoder::DOWN]];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "hunyuan_v1_dense",
    numbers: &[
        ("vocab_size", 290_943),
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 2_048),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// The output matrix of a model whose embeddings are none.
const UNTIED_OUTPUT: TensorRule = decoder::OUTPUT.only(Condition {
    key: "tie_word_embeddings",
    holds: |config, _| config.switch("tie_word_embeddings") == Some(false),
});

/// The token that ends a document, which ends texts whatever `eos_token_id` says.
const END_OF_DOCUMENT: &str = "eod_token_id";
/// What the base grew by where the reference folds it into the base: not a key of any file.
const FOLDED: &str = "folded_rope_alpha";
/// The context that is written then.
const CONTEXT: u64 = 256 << 10;

/// A base that grows by a fixed factor is another base. `assumed` is the factor of a
/// configuration that does not say.
pub(super) fn fold(config: &mut Map<String, Value>, assumed: f64) {
    let size = |key: &str| config.get(key).and_then(Value::as_u64);
    let head = size("head_dim")
        .or_else(|| Some(size("hidden_size")? / size("num_attention_heads")?.max(1)));
    let theta = config.get("rope_theta").and_then(Value::as_f64);
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(Value::Object(rope)) = config.get_mut(key) else { continue };
        let kind = ["rope_type", "type"].iter().find_map(|key| rope.get(*key)?.as_str());
        let alpha = rope.get("alpha").and_then(Value::as_f64).filter(|alpha| *alpha > 0.0);
        let (Some("dynamic"), Some(head @ 3..)) = (kind, head) else { continue };
        let alpha = alpha.unwrap_or(assumed);
        let base = rope.get("rope_theta").and_then(Value::as_f64).or(theta).unwrap_or(10_000.0);
        let grown = base * libm::pow(alpha, head as f64 / (head - 2) as f64);
        *rope = Map::new();
        rope.insert("rope_type".to_owned(), json!("default"));
        rope.insert("rope_theta".to_owned(), json!(grown));
        config.insert(FOLDED.to_owned(), json!(alpha));
        config.insert("rope_theta".to_owned(), json!(grown));
        config.insert("max_position_embeddings".to_owned(), json!(CONTEXT));
        return;
    }
}

/// A factor that there is no head for to compute its base from.
pub(super) fn unfolded(config: &ModelConfig) -> Option<Contradiction> {
    (config.rope.scaling == RopeScaling::Dynamic).then(|| Contradiction {
        key: "rope_scaling",
        problem: "is dynamic without a head to compute its base from".to_owned(),
    })
}

/// What the reference writes where it folds a factor into the base.
pub(super) const FOLDED_METADATA: [MetadataKey; 3] = [
    MetadataKey::computed("rope.scaling.type", |config| {
        Some(config.number(FOLDED).map(|_| "none")?.into())
    }),
    MetadataKey::computed("rope.scaling.factor", |config| {
        Some(config.number(FOLDED).map(|_| 1.0f32)?.into())
    }),
    MetadataKey::computed("rope.scaling.original_context_length", |config| {
        Some(config.number(FOLDED).map(|_| CONTEXT as u32)?.into())
    }),
];

/// Keys of published configurations that both have.
pub(super) const COMMON_KEYS: [ConfigKey; 7] = [
    ConfigKey::number(FOLDED, Default::Absent),
    ConfigKey::any("attention_head_dim"),
    ConfigKey::any("use_qk_norm"),
    ConfigKey::any("use_cla"),
    ConfigKey::any("cla_share_factor"),
    ConfigKey::any("norm_type"),
    ConfigKey::any("org_vocab_size"),
];

const CONFIG_KEYS: [ConfigKey; 8] = {
    let [folded, heads, norms, shares, factor, kind, vocabulary] = COMMON_KEYS;
    let end = ConfigKey::count_or(END_OF_DOCUMENT, Default::Absent);
    [end, folded, heads, norms, shares, factor, kind, vocabulary]
};

impl Architecture for Hunyuan {
    fn class_names(&self) -> &'static [&'static str] {
        &["HunYuanDenseV1ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "hunyuan-dense"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &CONFIG_KEYS }
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fold(config, 50.0);
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        unfolded(config)
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &FOLDED_METADATA }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        if let Some(end) = keys.metadata.unsigned("tokenizer.ggml.eos_token_id") {
            config.insert(END_OF_DOCUMENT.to_owned(), json!(end));
        }
    }

    fn adjust_vocabulary(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        const FILE: &str = "generation_config.json";
        if let Some(end) = model.config.size(END_OF_DOCUMENT) {
            metadata.set("tokenizer.ggml.eos_token_id", end as u32);
        }
        let Some(bytes) = model.files.read(FILE)? else { return Ok(()) };
        let Ok(generation) = JsonObject::parse(model.files.path(FILE), &bytes) else {
            // It is told of where its recommendations are read.
            return Ok(());
        };
        if let Some(Value::Array(ends)) = generation.get("eos_token_id")
            && let [first, _, ..] = ends.as_slice()
            && let Some(id) = first.as_u64().and_then(|id| u32::try_from(id).ok())
        {
            metadata.set("tokenizer.ggml.eot_token_id", id);
        }
        Ok(())
    }
}
