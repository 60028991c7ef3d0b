//! OpenELM (`OpenELMModel` in `conversion/openelm.py`): layers with heads and networks of their own
//! sizes; queries, keys and values in one matrix, norms of each head's queries and keys, gate and
//! up in one matrix. Its classes are in code beside the weights.

use qz_tensor::{Array, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder;
use crate::architecture::{Activation, Architecture, Contradiction, Spelling};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rope::RopeScaling;
use crate::rules::Dimension::{HeadSize, Hidden, Number, Product, Size, Sum};
use crate::rules::{Dimension, LayerIndex, Role, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// OpenELM.
pub(super) struct OpenElm;

const HEADS: &str = "num_query_heads";
const KEY_VALUE_HEADS: &str = "num_kv_heads";
/// How many times as wide as hidden states each layer's network is, up to what the widths are
/// multiples of.
const MULTIPLIERS: &str = "ffn_multipliers";
const DIVISOR: &str = "ffn_dim_divisor";
/// The widths that follow, and how many layers have one.
const WIDTHS: &str = "intermediate_sizes";
const LAYERS: &str = "num_hidden_layers";
/// The published models'.
const USUAL_DIVISOR: u64 = 256;

const QUERIES: Dimension = Product(&[Size(HEADS), HeadSize]);
const KEYS: Dimension = Product(&[Size(KEY_VALUE_HEADS), HeadSize]);
const WIDTH: Dimension = Size(WIDTHS);
const BOTH_WIDTHS: Dimension = Product(&[Number(2), WIDTH]);
const GATE_UP: &str = "transformer.layers.{layer}.ffn.proj_1.weight";

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING.named("transformer.token_embeddings.weight"),
    decoder::OUTPUT_NORM.named("transformer.norm.weight"),
    decoder::ATTENTION_NORM.named("transformer.layers.{layer}.attn_norm.weight"),
    TensorRule::weight(
        Role::AttentionQueryKeyValue,
        "transformer.layers.{layer}.attn.qkv_proj.weight",
        "blk.{layer}.attn_qkv.weight",
        &[Sum(&[QUERIES, KEYS, KEYS]), Hidden],
    ),
    decoder::QUERY_NORM.named("transformer.layers.{layer}.attn.q_norm.weight"),
    decoder::KEY_NORM.named("transformer.layers.{layer}.attn.k_norm.weight"),
    decoder::ATTENTION_OUTPUT
        .named("transformer.layers.{layer}.attn.out_proj.weight")
        .shaped(&[Hidden, QUERIES]),
    decoder::FEED_FORWARD_NORM.named("transformer.layers.{layer}.ffn_norm.weight"),
    decoder::GATE.named(GATE_UP).shaped(&[BOTH_WIDTHS, Hidden]).transformed(Transform::part(
        BOTH_WIDTHS,
        Number(0),
        WIDTH,
    )),
    decoder::UP.named(GATE_UP).shaped(&[BOTH_WIDTHS, Hidden]).transformed(Transform::part(
        BOTH_WIDTHS,
        WIDTH,
        WIDTH,
    )),
    decoder::DOWN.named("transformer.layers.{layer}.ffn.proj_2.weight").shaped(&[Hidden, WIDTH]),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "openelm",
    numbers: &[("vocab_size", 32_000), ("max_position_embeddings", 2048)],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: Some(1e-6),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// The multiple of `divisor` next to `width`, but none that is a tenth less.
fn make_divisible(width: f64, divisor: u64) -> u64 {
    // As Python's floor division; a width past any model's is refused later.
    let divided = ((width + divisor as f64 / 2.0) as u64 / divisor).saturating_mul(divisor);
    let near = divided.max(divisor);
    if (near as f64) < 0.9 * width { near.saturating_add(divisor) } else { near }
}

/// The widths of all layers' networks, if the configuration says them.
fn widths(config: &Map<String, Value>) -> Option<Vec<u64>> {
    let hidden = config.get("hidden_size")?.as_u64()?;
    let divisor = config.get(DIVISOR)?.as_u64().filter(|divisor| *divisor > 0)?;
    let width = |own: &Value| Some(make_divisible(own.as_f64()? * hidden as f64, divisor));
    config.get(MULTIPLIERS)?.as_array()?.iter().map(width).collect()
}

/// Sizes, one for each layer, as files have them even where all are the same.
fn list(config: &ModelConfig, key: &'static str) -> Option<Entry> {
    let layers = (0..config.layers).map(LayerIndex);
    let sizes = layers.map(|layer| config.dimension_in(Size(key), Some(layer)) as i32);
    Some(Entry::Array(Array::I32(sizes.collect())))
}

/// Sizes of a file, one for each layer.
fn sizes(keys: GgufKeys<'_>, key: &str) -> Vec<i32> {
    keys.sizes(key).unwrap_or_default().to_vec()
}

impl Architecture for OpenElm {
    fn class_names(&self) -> &'static [&'static str] {
        &["OpenELMForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "openelm"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn activation(&self) -> Activation {
        Activation { key: "activation_fn_name", words: &["swish", "silu"] }
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "model_dim", common: "hidden_size" },
            Spelling { own: "num_transformer_layers", common: LAYERS },
            Spelling { own: "max_context_length", common: "max_position_embeddings" },
            Spelling { own: "rope_freq_constant", common: "rope_theta" },
        ]
    }

    /// The largest layer's sizes stand for all where none is meant.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        let heads = |key: &str| -> Vec<u64> {
            let list = config.get(key).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_u64).collect()
        };
        let pairs = heads(HEADS).into_iter().zip(heads(KEY_VALUE_HEADS));
        // Those that do not fit are told of as such.
        let fits = |(heads, own): &(u64, u64)| *own > 0 && heads.is_multiple_of(*own);
        if let Some((heads, own)) = pairs.filter(fits).max() {
            config.insert("num_attention_heads".to_owned(), json!(heads));
            config.insert("num_key_value_heads".to_owned(), json!(own));
        }
        if let Some(widths) = widths(config) {
            config.insert("intermediate_size".to_owned(), json!(widths.iter().max()));
            config.insert(WIDTHS.to_owned(), json!(widths));
        }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_per_layer(HEADS),
                ConfigKey::size_per_layer(KEY_VALUE_HEADS),
                ConfigKey::any(MULTIPLIERS),
                ConfigKey::size(DIVISOR),
                ConfigKey::size_per_layer(WIDTHS),
                ConfigKey::word("activation_fn_name", &["swish", "silu"], Default::Absent),
                ConfigKey::word("normalization_layer_name", &["rms_norm"], Default::Absent),
                ConfigKey::flag("normalize_qk_projections", Default::Flag(true)),
                ConfigKey::flag("share_input_output_layers", Default::Flag(true)),
                ConfigKey::flag("ffn_with_glu", Default::Flag(true)),
                // What the lists of heads were made of.
                ConfigKey::any("num_gqa_groups"),
                ConfigKey::any("qkv_multipliers"),
                ConfigKey::any("rope_max_length"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
        let flags = ["normalize_qk_projections", "share_input_output_layers", "ffn_with_glu"];
        if let Some(key) = flags.into_iter().find(|key| config.flag(key) != Some(true)) {
            return say(key, "is false, which files of this architecture cannot say");
        }
        let in_layer = |key, layer| config.dimension_in(Size(key), Some(layer));
        let fits = |layer| in_layer(HEADS, layer).is_multiple_of(in_layer(KEY_VALUE_HEADS, layer));
        if !(0..config.layers).map(LayerIndex).all(fits) {
            return say(KEY_VALUE_HEADS, "does not divide num_query_heads of the same layer");
        }
        match config.rope.scaling {
            RopeScaling::None => None,
            _ => say("rope_scaling", "is not supported for this architecture"),
        }
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::Layers,
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::computed("feed_forward_length", |config| list(config, WIDTHS)),
                MetadataKey::computed("attention.head_count", |config| list(config, HEADS)),
                MetadataKey::computed("attention.head_count_kv", |config| {
                    list(config, KEY_VALUE_HEADS)
                }),
                MetadataKey::RopeBases,
                MetadataKey::RmsEpsilon,
                MetadataKey::computed("rope.dimension_count", |config| {
                    Some((config.head_size as u32).into())
                }),
                MetadataKey::HeadSize,
                MetadataKey::FileType,
            ]
        }
    }

    /// In the words of the code beside the weights. What it makes the lists of heads from is not
    /// known.
    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        for key in [
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
            "rms_norm_eps",
            "rope_parameters",
            "rope_scaling",
        ] {
            config.shift_remove(key);
        }
        let widths = sizes(keys, "feed_forward_length");
        let common = widths.iter().fold(0, |a, b| greatest_common(a, u64::from(b.unsigned_abs())));
        let divisor = if common.is_multiple_of(USUAL_DIVISOR) { USUAL_DIVISOR } else { common };
        let hidden = keys.size("embedding_length").unwrap_or(1).max(1) as f64;
        let multipliers: Vec<f64> = widths.iter().map(|width| f64::from(*width) / hidden).collect();
        let (heads, own) =
            (sizes(keys, "attention.head_count"), sizes(keys, "attention.head_count_kv"));
        let groups = heads.first().zip(own.first()).map(|(heads, own)| heads / own.max(&1));
        let more = json!({
            HEADS: heads, KEY_VALUE_HEADS: own, MULTIPLIERS: multipliers, DIVISOR: divisor,
            "num_gqa_groups": groups, "normalization_layer_name": "rms_norm",
            "normalize_qk_projections": true, "share_input_output_layers": true,
            "ffn_with_glu": true,
        });
        config.extend(more.as_object().cloned().unwrap_or_default());
    }
}

fn greatest_common(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common(b, a % b) }
}
