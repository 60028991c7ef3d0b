//! LFM 2, with and without experts (`LFM2Model` and `LFM2MoeModel` in `conversion/lfm2.py`):
//! most layers have a short convolution in the place of attention.

use qz_tensor::{Array, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder::{layer_bias, layer_weight};
use super::{decoder, experts};
use crate::architecture::{Architecture, Spelling};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Experts, HeadSize, Hidden, Intermediate, Number, Product, Size};
use crate::rules::{Condition, LayerIndex, Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// LFM 2.
pub(super) struct Lfm2;
/// LFM 2 with experts.
pub(super) struct Lfm2Moe;

const KINDS_KEY: &str = "layer_types";
const CONVOLUTION: &str = "conv";
const FULL: &str = "full_attention";
/// The layers that attend, in files that have no kinds.
const ATTENDING_KEY: &str = "full_attn_idxs";
const TAPS_KEY: &str = "conv_L_cache";
const DENSE_KEY: &str = "num_dense_layers";
const ADJUSTS_KEY: &str = "block_auto_adjust_ff_dim";
const FACTOR_KEY: &str = "block_ffn_dim_multiplier";
const MULTIPLE_KEY: &str = "block_multiple_of";

/// Layers attend where nothing is said.
fn is_convolution(config: &ModelConfig, layer: LayerIndex) -> bool {
    config.word_in(KINDS_KEY, layer) == Some(CONVOLUTION)
}

const CONVOLVING: Condition = Condition { key: KINDS_KEY, holds: is_convolution };
const ATTENDING: Condition =
    Condition { key: KINDS_KEY, holds: |config, layer| !is_convolution(config, layer) };
const DENSE: Condition = Condition {
    key: DENSE_KEY,
    holds: |config, layer| u64::from(layer.0) < config.size(DENSE_KEY).unwrap_or(u64::MAX),
};
const MIXED: Condition = Condition {
    key: DENSE_KEY,
    holds: |config, layer| u64::from(layer.0) >= config.size(DENSE_KEY).unwrap_or(u64::MAX),
};

const BIAS: Presence = Presence::WhenTrue("conv_bias");

/// The rules of all, and more.
macro_rules! rules {
    ($($more:expr),* $(,)?) => {
        &[
            decoder::TOKEN_EMBEDDING,
            // The model's last norm, whatever its name.
            TensorRule::weight(
                Role::OutputNorm,
                "model.embedding_norm.weight",
                "token_embd_norm.weight",
                &[Hidden],
            ),
            decoder::OUTPUT,
            layer_weight!(Role::AttentionNorm, "operator_norm", "attn_norm", &[Hidden]),
            layer_weight!(
                Role::ShortConvolution,
                "conv.conv",
                "shortconv.conv",
                &[Hidden, Number(1), Size(TAPS_KEY)]
            )
            .reshaped(&[Hidden, Size(TAPS_KEY)])
            .only(CONVOLVING),
            layer_bias!(Role::ShortConvolution, "conv.conv", "shortconv.conv", &[Hidden])
                .only(CONVOLVING)
                .when(BIAS),
            layer_weight!(
                Role::ShortConvolutionInput,
                "conv.in_proj",
                "shortconv.in_proj",
                &[Product(&[Number(3), Hidden]), Hidden]
            )
            .only(CONVOLVING),
            layer_weight!(
                Role::ShortConvolutionOutput,
                "conv.out_proj",
                "shortconv.out_proj",
                &[Hidden, Hidden]
            )
            .only(CONVOLVING),
            decoder::QUERY.only(ATTENDING),
            decoder::KEY.only(ATTENDING),
            decoder::VALUE.only(ATTENDING),
            decoder::ATTENTION_OUTPUT
                .named("model.layers.{layer}.self_attn.out_proj.weight")
                .only(ATTENDING),
            layer_weight!(
                Role::AttentionQueryNorm,
                "self_attn.q_layernorm",
                "attn_q_norm",
                &[HeadSize]
            )
            .only(ATTENDING),
            layer_weight!(
                Role::AttentionKeyNorm,
                "self_attn.k_layernorm",
                "attn_k_norm",
                &[HeadSize]
            )
            .only(ATTENDING),
            layer_weight!(Role::FeedForwardNorm, "ffn_norm", "ffn_norm", &[Hidden]),
            layer_weight!(
                Role::FeedForwardGate,
                "feed_forward.w1",
                "ffn_gate",
                &[Intermediate, Hidden]
            )
            .only(DENSE),
            layer_weight!(
                Role::FeedForwardUp,
                "feed_forward.w3",
                "ffn_up",
                &[Intermediate, Hidden]
            )
            .only(DENSE),
            layer_weight!(
                Role::FeedForwardDown,
                "feed_forward.w2",
                "ffn_down",
                &[Hidden, Intermediate]
            )
            .only(DENSE),
            $($more,)*
        ]
    };
}

static RULES: &[TensorRule] = rules!();

/// The rules of a mixture with `$gate`, `$up` and `$down`.
macro_rules! mixed {
    ($gate:expr, $up:expr, $down:expr) => {
        rules!(
            layer_weight!(
                Role::ExpertRouter,
                "feed_forward.gate",
                "ffn_gate_inp",
                &[Experts, Hidden]
            )
            .only(MIXED),
            experts::SELECTION_BIAS
                .named("model.layers.{layer}.feed_forward.expert_bias")
                .when(Presence::WhenTrue("use_expert_bias"))
                .only(MIXED),
            $gate.only(MIXED),
            $up.only(MIXED),
            $down.only(MIXED),
        )
    };
}

static MIXED_RULES: &[TensorRule] = mixed!(
    experts::GATE.named("model.layers.{layer}.feed_forward.experts.{expert}.w1.weight"),
    experts::UP.named("model.layers.{layer}.feed_forward.experts.{expert}.w3.weight"),
    experts::DOWN.named("model.layers.{layer}.feed_forward.experts.{expert}.w2.weight")
);
const FUSED: &str = "model.layers.{layer}.feed_forward.experts.gate_up_proj";
const FUSED_RULES: &[TensorRule] = mixed!(
    experts::FUSED_GATE.named(FUSED),
    experts::FUSED_UP.named(FUSED),
    experts::FUSED_DOWN.named("model.layers.{layer}.feed_forward.experts.down_proj")
);

/// What both assume.
const DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "",
    numbers: &[],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: 1e6,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

static DENSE_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "lfm2",
    numbers: &[
        ("vocab_size", 65_536),
        ("hidden_size", 2560),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 128_000),
    ],
    ..DEFAULTS
};

static MIXED_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "lfm2_moe",
    numbers: &[
        ("vocab_size", 65_536),
        ("hidden_size", 2048),
        ("intermediate_size", 7168),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 128_000),
        ("num_experts", 32),
        ("num_experts_per_tok", 4),
    ],
    ..DEFAULTS
};

/// Of each layer the heads of keys and values: none where there is a convolution.
fn key_value_heads(config: &ModelConfig) -> Option<Entry> {
    let of = |layer| match is_convolution(config, LayerIndex(layer)) {
        true => 0,
        false => config.key_value_heads as i32,
    };
    Some(Entry::Array(Array::I32((0..config.layers).map(of).collect())))
}

/// The standard metadata with heads of each layer.
macro_rules! metadata {
    ($($more:expr),* $(,)?) => {
        const {
            &[
                MetadataKey::Layers,
                MetadataKey::Context,
                MetadataKey::Hidden,
                MetadataKey::Intermediate,
                MetadataKey::Heads,
                MetadataKey::computed("attention.head_count_kv", key_value_heads),
                MetadataKey::RopeScaling,
                MetadataKey::RopeBases,
                MetadataKey::RmsEpsilon,
                MetadataKey::Experts,
                MetadataKey::ExpertsUsed,
                MetadataKey::FileType,
                $($more,)*
                MetadataKey::computed("vocab_size", |config| {
                    Some((config.vocabulary as u32).into())
                }),
                MetadataKey::setting("shortconv.l_cache", TAPS_KEY),
            ]
        }
    };
}

/// How wide the network is: as stated, or two thirds of that, rounded up.
fn fill_width(config: &mut Map<String, Value>) {
    if let Some(width) = config.get("block_ff_dim").cloned() {
        config.insert("intermediate_size".to_owned(), width);
    }
    let adjusts = config.get(ADJUSTS_KEY).and_then(Value::as_bool).unwrap_or(true);
    let width = config.get("intermediate_size").and_then(Value::as_u64).unwrap_or(12_288);
    if !adjusts || width > 1 << 31 {
        return;
    }
    let number =
        |key: &str, default: f64| config.get(key).and_then(Value::as_f64).unwrap_or(default);
    let scaled = (number(FACTOR_KEY, 1.0) * (2 * width / 3) as f64) as u64;
    let multiple = (number(MULTIPLE_KEY, 256.0) as u64).max(1);
    config.insert("intermediate_size".to_owned(), json!(scaled.next_multiple_of(multiple)));
}

/// The kinds of layers, where only those that attend are listed.
fn fill_kinds(config: &mut Map<String, Value>) {
    let listed = config.get(ATTENDING_KEY).and_then(Value::as_array);
    let Some(listed) = listed.filter(|_| config.get(KINDS_KEY).is_none_or(Value::is_null)) else {
        return;
    };
    let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(32);
    let attends = |layer: u64| listed.iter().any(|index| index.as_u64() == Some(layer));
    let kinds =
        (0..layers.min(1 << 16)).map(|layer| if attends(layer) { FULL } else { CONVOLUTION });
    let kinds: Value = kinds.collect();
    config.insert(KINDS_KEY.to_owned(), kinds);
}

fn complete_config(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let heads = keys.sizes("attention.head_count_kv").unwrap_or_default();
    let kinds = heads.iter().map(|heads| if *heads == 0 { CONVOLUTION } else { FULL });
    config.insert(KINDS_KEY.to_owned(), kinds.collect());
    config.insert(ADJUSTS_KEY.to_owned(), json!(false));
}

/// What both have in common.
macro_rules! common {
    ($class:literal, $name:literal, $defaults:ident, $rules:ident) => {
        fn class_names(&self) -> &'static [&'static str] {
            &[$class]
        }

        fn gguf_name(&self) -> &'static str {
            $name
        }

        fn defaults(&self) -> &'static ConfigDefaults {
            &$defaults
        }

        fn tensor_rules(&self) -> &'static [TensorRule] {
            $rules
        }

        fn spellings(&self) -> &'static [Spelling] {
            &[Spelling { own: "norm_eps", common: "rms_norm_eps" }]
        }
    };
}

impl Architecture for Lfm2 {
    common!("Lfm2ForCausalLM", "lfm2", DENSE_DEFAULTS, RULES);

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill_width(config);
        fill_kinds(config);
        if let Some(is_tied) = config.shift_remove("tie_embedding") {
            config.insert("tie_word_embeddings".to_owned(), is_tied);
        }
        config.entry("tie_word_embeddings").or_insert(json!(true));
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::words_per_layer(KINDS_KEY, &[CONVOLUTION, FULL]),
                ConfigKey::size_or(TAPS_KEY, Default::Size(3)),
                ConfigKey::flag("conv_bias", Default::Flag(false)),
                ConfigKey::any(ADJUSTS_KEY),
                ConfigKey::any(FACTOR_KEY),
                ConfigKey::any(MULTIPLE_KEY),
                ConfigKey::any("block_ff_dim"),
                ConfigKey::any(ATTENDING_KEY),
                ConfigKey::any("block_dim"),
                ConfigKey::any("block_norm_eps"),
                ConfigKey::any("block_mlp_init_scale"),
                ConfigKey::any("block_out_init_scale"),
                ConfigKey::any("block_use_xavier_init"),
                ConfigKey::any("conv_dim"),
                ConfigKey::any("conv_dim_out"),
                ConfigKey::any("conv_use_xavier_init"),
                ConfigKey::any("num_heads"),
            ]
        }
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        metadata!()
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        complete_config(keys, config);
    }
}

impl Architecture for Lfm2Moe {
    common!("Lfm2MoeForCausalLM", "lfm2moe", MIXED_DEFAULTS, MIXED_RULES);

    fn fill_config(&self, config: &mut Map<String, Value>) {
        config.entry("tie_word_embeddings").or_insert(json!(true));
    }

    fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
        &[FUSED_RULES]
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn expert_key(&self) -> &'static str {
        "num_experts"
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::words_per_layer(KINDS_KEY, &[CONVOLUTION, FULL]),
                ConfigKey::size_or(TAPS_KEY, Default::Size(3)),
                ConfigKey::flag("conv_bias", Default::Flag(false)),
                ConfigKey::count_or(DENSE_KEY, Default::Size(2)),
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(1792)),
                ConfigKey::flag("use_expert_bias", Default::Flag(true)),
                ConfigKey::word("scoring_func", &["sigmoid"], Default::Absent),
            ]
        }
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        metadata!(
            MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
            MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
            MetadataKey::computed("expert_gating_func", |_| Some(2u32.into())),
        )
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        complete_config(keys, config);
        config.insert("norm_topk_prob".to_owned(), json!(true));
        config.insert("routed_scaling_factor".to_owned(), json!(1.0));
        config.remove("scoring_func");
    }
}
