//! Falcon-H1 (`FalconH1Model` in `conversion/falcon_h1.py`): attention and Mamba 2's state space
//! beside each other in every layer. A configuration's factors are multiplied into the weights,
//! so that files know nothing of them.

use serde_json::{Map, Value, json};

use super::decoder::{layer_weight, rules};
use super::{decoder, llama, state_space};
use crate::architecture::{Architecture, Contradiction};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rope::RopeScaling;
use crate::rules::Dimension::{Hidden, Intermediate, Number};
use crate::rules::{FactorKey, Presence, Role, Scaling, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};
use crate::tensor_map::ValueChange;

/// Falcon-H1.
pub(super) struct FalconH1;

const INNER_KEY: &str = "mamba_d_ssm";
const HEADS_KEY: &str = "mamba_n_heads";
const HEAD_KEY: &str = "mamba_d_head";
const EMBEDDING: &str = "embedding_multiplier";
const LOGITS: &str = "lm_head_multiplier";
const ATTENTION_INPUT: &str = "attention_in_multiplier";
const ATTENTION_OUTPUT: &str = "attention_out_multiplier";
const KEYS: &str = "key_multiplier";
const STATE_INPUT: &str = "ssm_in_multiplier";
const STATE_OUTPUT: &str = "ssm_out_multiplier";
const STATE_PARTS: &str = "ssm_multipliers";
const NETWORK: &str = "mlp_multipliers";

state_space::sizes!(
    "mamba_n_heads",
    "mamba_d_head",
    "mamba_n_groups",
    "mamba_d_state",
    "mamba_d_conv"
);

const fn times(key: &'static str) -> Scaling {
    Scaling::all(FactorKey::number(key))
}

/// The gate, what the state is made of, what it is written and read with, and time steps.
const OF_STATE_INPUT: Scaling = Scaling {
    all: Some(FactorKey::number(STATE_INPUT)),
    runs: &[
        (sizes::INNER, FactorKey::listed(STATE_PARTS, 0)),
        (sizes::INNER, FactorKey::listed(STATE_PARTS, 1)),
        (sizes::STATE, FactorKey::listed(STATE_PARTS, 2)),
        (sizes::STATE, FactorKey::listed(STATE_PARTS, 3)),
        (sizes::HEADS, FactorKey::listed(STATE_PARTS, 4)),
    ],
};
const OF_KEYS: Scaling = Scaling {
    all: Some(FactorKey::number(KEYS)),
    runs: &[(crate::rules::Dimension::KeyValues, FactorKey::number(ATTENTION_INPUT))],
};

const AROUND: [TensorRule; 3] = [
    decoder::TOKEN_EMBEDDING.scaled(times(EMBEDDING)),
    decoder::OUTPUT_NORM.named("model.final_layernorm.weight"),
    decoder::OUTPUT.scaled(times(LOGITS)),
];
const ATTENTION: [TensorRule; 5] = [
    decoder::ATTENTION_NORM,
    decoder::QUERY.scaled(times(ATTENTION_INPUT)),
    decoder::KEY.scaled(OF_KEYS),
    decoder::VALUE.scaled(times(ATTENTION_INPUT)),
    decoder::ATTENTION_OUTPUT.scaled(times(ATTENTION_OUTPUT)),
];
const FEED_FORWARD: [TensorRule; 4] = [
    // The reference's table has the whole name, so that nothing is added to what it becomes.
    layer_weight!(Role::FeedForwardNorm, "pre_ff_layernorm", "ffn_norm", &[Hidden])
        .gguf("blk.{layer}.ffn_norm"),
    layer_weight!(
        Role::FeedForwardGate,
        "feed_forward.gate_proj",
        "ffn_gate",
        &[Intermediate, Hidden]
    )
    .scaled(Scaling::all(FactorKey::listed(NETWORK, 0))),
    layer_weight!(Role::FeedForwardUp, "feed_forward.up_proj", "ffn_up", &[Intermediate, Hidden]),
    layer_weight!(
        Role::FeedForwardDown,
        "feed_forward.down_proj",
        "ffn_down",
        &[Hidden, Intermediate]
    )
    .scaled(Scaling::all(FactorKey::listed(NETWORK, 1))),
];
const MIXER: [TensorRule; 8] =
    scaled(state_space::mixer!("model.layers.{layer}.mamba.", "mamba_conv_bias"));

/// A state space's rules with the factors, and a norm that there need not be.
const fn scaled(mut rules: [TensorRule; 8]) -> [TensorRule; 8] {
    let mut at = 0;
    while at < rules.len() {
        rules[at] = match rules[at].role {
            Role::StateSpaceInput => rules[at].scaled(OF_STATE_INPUT),
            Role::StateSpaceOutput => rules[at].scaled(times(STATE_OUTPUT)),
            Role::StateSpaceNorm => rules[at].when(Presence::WhenTrue("mamba_rms_norm")),
            _ => rules[at],
        };
        at += 1;
    }
    rules
}

static RULES: &[TensorRule] = rules![&AROUND, &ATTENTION, &MIXER, &FEED_FORWARD];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "falcon_h1",
    numbers: &[
        ("vocab_size", 128_000),
        ("hidden_size", 4096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 8192),
    ],
    head_size: DefaultHeadSize::Quotient,
    rms_epsilon: Some(1e-5),
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// Biases, which the factors would be applied to otherwise than to weights.
const BIASES: &[&str] = &["attention_bias", "mlp_bias", "mamba_proj_bias", "projectors_bias"];

const METADATA: &[MetadataKey] = &[
    MetadataKey::Context,
    MetadataKey::Hidden,
    MetadataKey::Intermediate,
    MetadataKey::Heads,
    MetadataKey::Layers,
    MetadataKey::setting("ssm.conv_kernel", "mamba_d_conv"),
    MetadataKey::computed("ssm.inner_size", |config| {
        Some((config.dimension(sizes::INNER) as u32).into())
    }),
    MetadataKey::setting("ssm.state_size", "mamba_d_state"),
    MetadataKey::setting("ssm.time_step_rank", HEADS_KEY),
    MetadataKey::setting("ssm.group_count", "mamba_n_groups"),
    MetadataKey::RmsEpsilon,
    MetadataKey::FileType,
    llama::VOCABULARY_SIZE,
    MetadataKey::KeyValueHeads,
    MetadataKey::HeadSize,
    MetadataKey::RopeBases,
];

impl Architecture for FalconH1 {
    fn class_names(&self) -> &'static [&'static str] {
        &["FalconH1ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "falcon-h1"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        let size = |config: &Map<String, Value>, key: &str, default: u64| {
            config.get(key).and_then(Value::as_u64).unwrap_or(default)
        };
        if config.get(INNER_KEY).is_none_or(Value::is_null) {
            let expand = size(config, "mamba_expand", 2);
            let inner = expand.saturating_mul(size(config, "hidden_size", 4096));
            config.insert(INNER_KEY.to_owned(), json!(inner));
        }
        if config.get(HEAD_KEY).is_none_or(|size| size.is_null() || size == "auto") {
            let head = size(config, INNER_KEY, 1024) / size(config, HEADS_KEY, 128).max(1);
            config.insert(HEAD_KEY.to_owned(), json!(head));
        }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size(INNER_KEY),
                ConfigKey::size_or(HEADS_KEY, Default::Size(128)),
                ConfigKey::size(HEAD_KEY),
                ConfigKey::size_or("mamba_n_groups", Default::Size(1)),
                ConfigKey::size_or("mamba_d_state", Default::Size(256)),
                ConfigKey::size_or("mamba_d_conv", Default::Size(4)),
                ConfigKey::any("mamba_expand"),
                ConfigKey::any("mamba_chunk_size"),
                ConfigKey::flag("mamba_conv_bias", Default::Flag(true)),
                ConfigKey::flag("mamba_proj_bias", Default::Absent),
                ConfigKey::flag("projectors_bias", Default::Absent),
                ConfigKey::flag("mamba_rms_norm", Default::Flag(false)),
                ConfigKey::flag("mamba_norm_before_gate", Default::Flag(true)),
                ConfigKey::any("mamba_use_mlp"),
                ConfigKey::any("num_logits_to_keep"),
                ConfigKey::any("time_step_floor"),
                ConfigKey::any("time_step_limit"),
                ConfigKey::any("time_step_max"),
                ConfigKey::any("time_step_min"),
                ConfigKey::any("time_step_rank"),
                ConfigKey::number(EMBEDDING, Default::Absent),
                ConfigKey::number(LOGITS, Default::Absent),
                ConfigKey::number(ATTENTION_INPUT, Default::Absent),
                ConfigKey::number(ATTENTION_OUTPUT, Default::Absent),
                ConfigKey::number(KEYS, Default::Absent),
                ConfigKey::number(STATE_INPUT, Default::Absent),
                ConfigKey::number(STATE_OUTPUT, Default::Absent),
                ConfigKey::numbers(STATE_PARTS, 5),
                ConfigKey::numbers(NETWORK, 2),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
        let inner = config.dimension(sizes::INNER);
        if config.size(INNER_KEY) != Some(inner) {
            return say(INNER_KEY, "is not mamba_n_heads x mamba_d_head");
        }
        let groups = config.dimension(sizes::GROUPS);
        if !inner.is_multiple_of(groups) || !config.dimension(sizes::HEADS).is_multiple_of(groups) {
            return say("mamba_n_groups", "does not divide the heads of the state space");
        }
        let is_normed = config.flag("mamba_rms_norm") == Some(true);
        if is_normed && config.flag("mamba_norm_before_gate") == Some(true) {
            let problem = "is true, but graphs of this architecture have the gate first";
            return say("mamba_norm_before_gate", problem);
        }
        if let Some(key) = BIASES.iter().find(|key| config.switch(key) == Some(true)) {
            return say(key, "is true, and these biases are not supported");
        }
        if config.rope.scaling != RopeScaling::None {
            return say("rope_scaling", "is there, but files of this architecture cannot say it");
        }
        // Embedding and output matrix are one tensor in a file, times one number.
        if config.tied_embeddings && config.number(EMBEDDING) != config.number(LOGITS) {
            let problem = "is true, but embedding_multiplier and lm_head_multiplier differ";
            return say("tie_word_embeddings", problem);
        }
        None
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let size = |key: &str| keys.size(key).unwrap_or(0);
        let inner = size("ssm.inner_size");
        let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
        set(INNER_KEY, json!(inner));
        set(HEAD_KEY, json!(inner / size("ssm.time_step_rank").max(1)));
        set("mamba_expand", json!(inner / size("embedding_length").max(1)));
        set("mamba_norm_before_gate", json!(false));
        for key in BIASES {
            set(key, json!(false));
        }
        // The weights have them.
        for key in
            [EMBEDDING, LOGITS, ATTENTION_INPUT, ATTENTION_OUTPUT, KEYS, STATE_INPUT, STATE_OUTPUT]
        {
            set(key, json!(1.0));
        }
        set(STATE_PARTS, json!(vec![1.0; 5]));
        set(NETWORK, json!(vec![1.0; 2]));
    }
}
