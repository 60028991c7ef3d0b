//! gpt-oss (`GptOssModel` in `conversion/gpt_oss.py`): biases everywhere, sinks, and
//! experts that lie in one tensor, as MXFP4 or transposed.

use serde_json::{Map, Value, json};

use super::decoder;
use super::decoder::{layer_bias, layer_weight};
use crate::architecture::Architecture;
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::rules::Dimension::{Experts, GateAndUp, Heads, Hidden, Intermediate};
use crate::rules::{Columns, Role, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// gpt-oss.
pub(super) struct GptOss;

const GATE: TensorRule = layer_weight!(
    Role::FeedForwardGate,
    "mlp.experts.gate_proj",
    "ffn_gate_exps",
    &[Experts, Intermediate, Hidden]
);
const UP: TensorRule = layer_weight!(
    Role::FeedForwardUp,
    "mlp.experts.up_proj",
    "ffn_up_exps",
    &[Experts, Intermediate, Hidden]
);
const DOWN: TensorRule = layer_weight!(
    Role::FeedForwardDown,
    "mlp.experts.down_proj",
    "ffn_down_exps",
    &[Experts, Hidden, Intermediate]
);

/// Columns of gate and up projection take turns.
const fn every_second(columns: Columns) -> Transform {
    Transform { columns, ..Transform::KEEP }
}

const GATE_AND_UP: &str = "model.layers.{layer}.mlp.experts.gate_up_proj";
const GATE_AND_UP_BIAS: &str = "model.layers.{layer}.mlp.experts.gate_up_proj_bias";

/// How steep the gate is, and where it is cut off.
const ALPHA: f64 = 1.702;
const LIMIT: f64 = 7.0;

/// All tensors, with the experts' matrices `$gate`, `$up` and `$down`.
macro_rules! rules {
    ($gate:expr, $up:expr, $down:expr) => {
        &[
            decoder::TOKEN_EMBEDDING,
            decoder::OUTPUT_NORM,
            decoder::OUTPUT,
            decoder::ATTENTION_NORM,
            decoder::QUERY,
            decoder::KEY,
            decoder::VALUE,
            decoder::ATTENTION_OUTPUT,
            decoder::QUERY_BIAS.when(decoder::ATTENTION_BIAS),
            decoder::KEY_BIAS.when(decoder::ATTENTION_BIAS),
            decoder::VALUE_BIAS.when(decoder::ATTENTION_BIAS),
            decoder::ATTENTION_OUTPUT_BIAS.when(decoder::ATTENTION_BIAS),
            layer_weight!(Role::AttentionSinks, "self_attn.sinks", "attn_sinks", &[Heads])
                .named("model.layers.{layer}.self_attn.sinks"),
            // Named after its place behind attention; it is the one in front of the experts.
            decoder::FEED_FORWARD_NORM.gguf("blk.{layer}.post_attention_norm.weight"),
            layer_weight!(Role::ExpertRouter, "mlp.router", "ffn_gate_inp", &[Experts, Hidden]),
            layer_bias!(Role::ExpertRouter, "mlp.router", "ffn_gate_inp", &[Experts]),
            $gate,
            $up,
            $down,
            layer_bias!(
                Role::FeedForwardGate,
                "mlp.experts.gate_proj",
                "ffn_gate_exps",
                &[Experts, GateAndUp]
            )
            .named(GATE_AND_UP_BIAS)
            .transformed(every_second(Columns::Even)),
            layer_bias!(
                Role::FeedForwardUp,
                "mlp.experts.up_proj",
                "ffn_up_exps",
                &[Experts, GateAndUp]
            )
            .named(GATE_AND_UP_BIAS)
            .transformed(every_second(Columns::Odd)),
            layer_bias!(
                Role::FeedForwardDown,
                "mlp.experts.down_proj",
                "ffn_down_exps",
                &[Experts, Hidden]
            )
            .named("model.layers.{layer}.mlp.experts.down_proj_bias"),
        ]
    };
}

/// Experts of plain numbers.
static RULES: &[TensorRule] = rules!(
    GATE.named(GATE_AND_UP)
        .shaped(&[Experts, Hidden, GateAndUp])
        .transformed(every_second(Columns::Even).transposed()),
    UP.named(GATE_AND_UP)
        .shaped(&[Experts, Hidden, GateAndUp])
        .transformed(every_second(Columns::Odd).transposed()),
    DOWN.named("model.layers.{layer}.mlp.experts.down_proj")
        .shaped(&[Experts, Intermediate, Hidden])
        .transformed(Transform::KEEP.transposed())
);

/// Experts as `qz-packed` shows those of MXFP4.
static PACKED_RULES: &[TensorRule] = rules!(GATE, UP, DOWN);

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "gpt_oss",
    numbers: &[
        ("vocab_size", 201_088),
        ("hidden_size", 2880),
        ("intermediate_size", 2880),
        ("num_hidden_layers", 36),
        ("num_attention_heads", 64),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 131_072),
        ("num_local_experts", 128),
        ("num_experts_per_tok", 4),
    ],
    head_size: DefaultHeadSize::Fixed(64),
    rms_epsilon: Some(1e-5),
    rope_theta: 150_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

impl Architecture for GptOss {
    fn class_names(&self) -> &'static [&'static str] {
        &["GptOssForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "gpt-oss"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn shown_layout(&self) -> Option<&'static [TensorRule]> {
        Some(PACKED_RULES)
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn window_pattern(&self) -> Option<u32> {
        Some(2)
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::count_or("sliding_window", Default::Size(128)),
                ConfigKey::flag("attention_bias", Default::Flag(true)),
                ConfigKey::exactly("swiglu_alpha", ALPHA),
                ConfigKey::exactly("swiglu_limit", LIMIT),
                ConfigKey::any("experts_per_token"),
                ConfigKey::any("initial_context_length"),
            ]
        }
    }

    fn rope_keys(&self) -> &'static [&'static str] {
        &["truncate"]
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                MetadataKey::setting("attention.sliding_window", "sliding_window"),
                MetadataKey::computed("expert_feed_forward_length", |config| {
                    Some((config.intermediate as u32).into())
                }),
            ]
        }
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert("swiglu_alpha".to_owned(), json!(ALPHA));
        config.insert("swiglu_limit".to_owned(), json!(LIMIT));
        // All published models leave the ends of the scaled frequencies unrounded.
        for rope in ["rope_parameters", "rope_scaling"] {
            if let Some(Value::Object(rope)) = config.get_mut(rope)
                && rope.get("rope_type") == Some(&json!("yarn"))
            {
                rope.insert("truncate".to_owned(), json!(false));
            }
        }
    }
}
