//! Mamba 1 and FalconMamba (`MambaModel` in `conversion/mamba.py`): states that decay as fast
//! as each token says. FalconMamba divides the parts of which that is made by their root mean
//! square.

use qz_tensor::{Metadata, Value as Entry};
use serde_json::{Map, Value, json};

use crate::architecture::{Architecture, Contradiction};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Number, Product, Size, Sum, Vocabulary};
use crate::rules::{Dimension, Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};
use crate::tensor_map::ValueChange;

/// Mamba 1.
pub(super) struct Mamba;
/// FalconMamba.
pub(super) struct FalconMamba;

const STATES_KEY: &str = "state_size";
const RANK_KEY: &str = "time_step_rank";
const TAPS_KEY: &str = "conv_kernel";
const EXPAND_KEY: &str = "expand";
const NORMS: &str = "ssm.dt_b_c_rms";

const INNER: Dimension = Product(&[Size(EXPAND_KEY), Hidden]);
const STATES: Dimension = Size(STATES_KEY);
const RANK: Dimension = Size(RANK_KEY);
const TAPS: Dimension = Size(TAPS_KEY);

/// A rule of a layer's weight.
macro_rules! weight {
    ($role:expr, $hugging_face:literal, $gguf:literal, $shape:expr) => {
        TensorRule::weight(
            $role,
            concat!("backbone.layers.{layer}.", $hugging_face),
            concat!("blk.{layer}.", $gguf),
            $shape,
        )
    };
}

/// A rule of a layer's bias.
macro_rules! bias {
    ($role:expr, $hugging_face:literal, $gguf:literal, $shape:expr) => {
        TensorRule::bias(
            $role,
            concat!("backbone.layers.{layer}.mixer.", $hugging_face, ".bias"),
            concat!("blk.{layer}.", $gguf, ".bias"),
            $shape,
        )
    };
}

static RULES: &[TensorRule] = &[
    TensorRule::weight(
        Role::TokenEmbedding,
        "backbone.embeddings.weight",
        "token_embd.weight",
        &[Vocabulary, Hidden],
    ),
    TensorRule::weight(Role::OutputNorm, "backbone.norm_f.weight", "output_norm.weight", &[Hidden]),
    TensorRule::weight(Role::Output, "lm_head.weight", "output.weight", &[Vocabulary, Hidden])
        .when(Presence::WhenFalse("tie_word_embeddings")),
    weight!(Role::AttentionNorm, "norm.weight", "attn_norm.weight", &[Hidden]),
    weight!(
        Role::StateSpaceInput,
        "mixer.in_proj.weight",
        "ssm_in.weight",
        &[Product(&[Number(2), INNER]), Hidden]
    ),
    weight!(
        Role::StateSpaceConvolution,
        "mixer.conv1d.weight",
        "ssm_conv1d.weight",
        &[INNER, Number(1), TAPS]
    )
    .reshaped(&[INNER, TAPS]),
    bias!(Role::StateSpaceConvolution, "conv1d", "ssm_conv1d", &[INNER])
        .when(Presence::WhenTrue("use_conv_bias")),
    weight!(
        Role::StateSpaceParts,
        "mixer.x_proj.weight",
        "ssm_x.weight",
        &[Sum(&[RANK, STATES, STATES]), INNER]
    ),
    weight!(Role::StateSpaceTimeStep, "mixer.dt_proj.weight", "ssm_dt.weight", &[INNER, RANK]),
    bias!(Role::StateSpaceTimeStep, "dt_proj", "ssm_dt", &[INNER]),
    weight!(Role::StateSpaceDecay, "mixer.A_log", "ssm_a", &[INNER, STATES])
        .changed(ValueChange::NegativeExponential),
    weight!(Role::StateSpaceSkip, "mixer.D", "ssm_d", &[INNER]),
    weight!(Role::StateSpaceOutput, "mixer.out_proj.weight", "ssm_out.weight", &[Hidden, INNER]),
];

/// What both assume.
const DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "",
    numbers: &[],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

static MAMBA_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "mamba",
    numbers: &[("vocab_size", 50_280), ("hidden_size", 768), ("num_hidden_layers", 32)],
    ..DEFAULTS
};

static FALCON_DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "falcon_mamba",
    numbers: &[("vocab_size", 50_280), ("hidden_size", 768), ("num_hidden_layers", 32)],
    ..DEFAULTS
};

/// The metadata of one of the two.
macro_rules! metadata {
    ($norms:literal) => {
        const {
            &[
                // Whoever uses the default gets as much.
                MetadataKey::computed("context_length", |_| Some((1u32 << 20).into())),
                MetadataKey::Hidden,
                MetadataKey::computed("feed_forward_length", |_| Some(0u32.into())),
                MetadataKey::computed("attention.head_count", |_| Some(0u32.into())),
                MetadataKey::Layers,
                MetadataKey::setting("ssm.conv_kernel", TAPS_KEY),
                MetadataKey::computed("ssm.inner_size", inner),
                MetadataKey::setting("ssm.state_size", STATES_KEY),
                MetadataKey::setting("ssm.time_step_rank", RANK_KEY),
                MetadataKey::computed("attention.layer_norm_rms_epsilon", |config| {
                    Some((config.layer_norm_epsilon.unwrap_or(1e-5) as f32).into())
                }),
                MetadataKey::computed(NORMS, |_| Some($norms.into())),
                MetadataKey::FileType,
            ]
        }
    };
}

fn inner(config: &ModelConfig) -> Option<Entry> {
    Some((config.dimension(INNER) as u32).into())
}

/// A sixteenth of the width, rounded up, where no rank is stated.
fn fill_rank(config: &mut Map<String, Value>) {
    let is_stated = config.get(RANK_KEY).is_some_and(Value::is_u64);
    if !is_stated {
        let hidden = config.get("hidden_size").and_then(Value::as_u64).unwrap_or(768);
        config.insert(RANK_KEY.to_owned(), json!(hidden.div_ceil(16)));
    }
}

fn is_normed(metadata: &Metadata) -> bool {
    metadata.get("mamba.ssm.dt_b_c_rms") == Some(&Entry::Bool(true))
}

/// What both have in common.
macro_rules! common {
    ($class:literal, $defaults:ident, $norms:literal) => {
        fn class_names(&self) -> &'static [&'static str] {
            &[$class]
        }

        fn gguf_name(&self) -> &'static str {
            "mamba"
        }

        fn is_in(&self, metadata: &Metadata) -> bool {
            is_normed(metadata) == $norms
        }

        fn defaults(&self) -> &'static ConfigDefaults {
            &$defaults
        }

        fn tensor_rules(&self) -> &'static [TensorRule] {
            RULES
        }

        fn has_attention(&self) -> bool {
            false
        }

        fn fill_config(&self, config: &mut Map<String, Value>) {
            fill_rank(config);
            config.entry("tie_word_embeddings").or_insert(json!(true));
        }

        fn config_keys(&self) -> &'static [ConfigKey] {
            CONFIG_KEYS
        }

        fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
            contradiction(config)
        }

        fn metadata(&self) -> &'static [MetadataKey] {
            metadata!($norms)
        }

        fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
            complete_config(keys, config);
        }
    };
}

/// Whether norms keep the mean, in files of the first implementation.
const ROOT_MEAN_SQUARE: &str = "rms_norm";

const CONFIG_KEYS: &[ConfigKey] = &[
    ConfigKey::size_or(STATES_KEY, Default::Size(16)),
    ConfigKey::size_or(RANK_KEY, Default::Required),
    ConfigKey::size_or(TAPS_KEY, Default::Size(4)),
    ConfigKey::size_or(EXPAND_KEY, Default::Size(2)),
    ConfigKey::flag("use_conv_bias", Default::Flag(true)),
    ConfigKey::any("intermediate_size"),
    ConfigKey::any("mixer_rms_eps"),
    ConfigKey::flag(ROOT_MEAN_SQUARE, Default::Absent),
    ConfigKey::any("residual_in_fp32"),
    ConfigKey::any("rescale_prenorm_residual"),
    ConfigKey::any("time_step_floor"),
    ConfigKey::any("time_step_init_scheme"),
    ConfigKey::any("time_step_max"),
    ConfigKey::any("time_step_min"),
    ConfigKey::any("time_step_scale"),
    ConfigKey::any("use_associative_scan"),
    ConfigKey::any("use_falcon_mambapy"),
    ConfigKey::any("use_mambapy"),
    ConfigKey::any("layer_types"),
];

fn contradiction(config: &ModelConfig) -> Option<Contradiction> {
    if config.flag(ROOT_MEAN_SQUARE) == Some(false) {
        let problem = "is false, but norms of this architecture are of the root mean square";
        return Some(Contradiction { key: ROOT_MEAN_SQUARE, problem: problem.to_owned() });
    }
    let expand = config.size(EXPAND_KEY)?;
    (expand != 2).then(|| Contradiction {
        key: EXPAND_KEY,
        problem: format!("is {expand}, but graphs of this architecture compute as with 2"),
    })
}

fn complete_config(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let size = |key: &str| keys.size(key).unwrap_or(0);
    let inner = size("ssm.inner_size");
    let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
    set(EXPAND_KEY, json!(inner / size("embedding_length").max(1)));
    set("intermediate_size", json!(inner));
    if let Some(epsilon) = keys.number("attention.layer_norm_rms_epsilon") {
        set("layer_norm_epsilon", crate::config::shortest(epsilon));
    }
    config.remove("max_position_embeddings");
}

impl Architecture for Mamba {
    common!("MambaForCausalLM", MAMBA_DEFAULTS, false);
}

impl Architecture for FalconMamba {
    common!("FalconMambaForCausalLM", FALCON_DEFAULTS, true);
}
