//! Command R and R7B (`CommandR2Model`, `Cohere2Model` in `conversion/command_r.py`): attention
//! beside the network, behind one norm without a bias, and a factor on logits. Checkpoints
//! pair neighbours, as the graphs do.

use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{decoder, llama};
use crate::architecture::Architecture;
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::rules::Dimension::{HeadSize, Heads, KeyValues, Quotient};
use crate::rules::{Presence, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Command R.
pub(super) struct CommandR;
/// Command R7B.
pub(super) struct Cohere2;

const NORMS_HEADS: &str = "use_qk_norm";

/// Norms of heads with weights of their own, as Command R+ has them.
const HEAD_NORMS: [TensorRule; 2] = [
    decoder::QUERY_NORM.shaped(&[Heads, HeadSize]).when(Presence::WhenTrue(NORMS_HEADS)),
    decoder::KEY_NORM
        .shaped(&[Quotient(&KeyValues, &HeadSize), HeadSize])
        .when(Presence::WhenTrue(NORMS_HEADS)),
];

const NETWORK: [TensorRule; 3] = [decoder::GATE, decoder::UP, decoder::DOWN];
static RULES: &[TensorRule] = rules![&decoder::AROUND, &decoder::ATTENTION, &NETWORK];
static NORMED_RULES: &[TensorRule] =
    rules![&decoder::AROUND, &decoder::ATTENTION, &HEAD_NORMS, &NETWORK];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "cohere",
    numbers: &[
        ("vocab_size", 256_000),
        ("hidden_size", 8_192),
        ("intermediate_size", 22_528),
        ("num_hidden_layers", 40),
        ("num_attention_heads", 64),
        ("max_position_embeddings", 8_192),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: 500_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};
static DEFAULTS_OF_2: ConfigDefaults = ConfigDefaults {
    model_type: "cohere2",
    numbers: &[
        ("vocab_size", 256_000),
        ("hidden_size", 8_192),
        ("intermediate_size", 22_528),
        ("num_hidden_layers", 40),
        ("num_attention_heads", 64),
        ("max_position_embeddings", 8_192),
    ],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// Of so many layers of Command R7B the last sees all positions.
const PERIOD: u32 = 4;
pub(super) const SCALE: ConfigKey = ConfigKey::number("logit_scale", Default::Number(0.0625));
pub(super) const SCALE_STORED: MetadataKey = MetadataKey::setting("logit_scale", "logit_scale");
/// The reference says that nothing is scaled, whatever the configuration says.
pub(super) const UNSCALED: MetadataKey =
    MetadataKey::computed("rope.scaling.type", |_| Some("none".into()));

/// Embeddings are the output matrix unless the configuration denies it.
pub(super) fn fill(config: &mut Map<String, Value>) {
    config.entry("tie_word_embeddings").or_insert(json!(true));
    config.entry("layer_norm_eps").or_insert(json!(1e-5));
}

impl Architecture for CommandR {
    fn class_names(&self) -> &'static [&'static str] {
        &["CohereForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "command-r"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        NORMED_RULES
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[SCALE, ConfigKey::flag(NORMS_HEADS, Default::Flag(false))] }
    }

    /// The context of training stands in a key of its own.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill(config);
        if let Some(context) = config.get("model_max_length").filter(|value| value.is_u64()) {
            config.insert("max_position_embeddings".to_owned(), context.clone());
        }
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[SCALE_STORED, UNSCALED] }
    }
}

impl Architecture for Cohere2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Cohere2ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "cohere2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS_OF_2
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn window_pattern(&self) -> Option<u32> {
        Some(PERIOD)
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                SCALE,
                ConfigKey::count_or("sliding_window", Default::Size(4096)),
                ConfigKey::exactly("sliding_window_pattern", PERIOD as f64),
                ConfigKey::exactly("layer_switch", PERIOD as f64),
                ConfigKey::word("position_embedding_type", &["rope_gptj"], Default::Absent),
                ConfigKey::word(
                    "order_of_interleaved_layers",
                    &["local_attn_first"],
                    Default::Absent,
                ),
                ConfigKey::exactly("rotary_pct", 1.0),
                ConfigKey::any("use_embedding_sharing"),
                ConfigKey::any("use_gated_activation"),
                ConfigKey::any("use_parallel_block"),
                ConfigKey::any("use_parallel_embedding"),
            ]
        }
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill(config);
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                SCALE_STORED,
                MetadataKey::setting("attention.sliding_window", "sliding_window"),
                llama::VOCABULARY_SIZE,
                llama::TURNED,
                UNSCALED,
            ]
        }
    }

    fn complete_config(&self, _keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert("rotary_pct".to_owned(), json!(1.0));
    }
}
