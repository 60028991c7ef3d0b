//! Mamba 2 (`Mamba2Model` in `conversion/mamba.py`): a state space instead of attention,
//! and no feed-forward network.

use qz_tensor::Value as Entry;
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::{decoder, state_space};
use crate::architecture::{Architecture, Contradiction, Rename};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Number, Vocabulary};
use crate::rules::{Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};
use crate::tensor_map::ValueChange;

/// Mamba 2.
pub(super) struct Mamba2;

state_space::sizes!("num_heads", "head_dim", "n_groups", "state_size", "conv_kernel");

static RULES: &[TensorRule] = rules![
    &[
        TensorRule::weight(
            Role::TokenEmbedding,
            "backbone.embeddings.weight",
            "token_embd.weight",
            &[Vocabulary, Hidden],
        ),
        TensorRule::weight(
            Role::OutputNorm,
            "backbone.norm_f.weight",
            "output_norm.weight",
            &[Hidden],
        ),
        decoder::OUTPUT,
        TensorRule::weight(
            Role::AttentionNorm,
            "backbone.layers.{layer}.norm.weight",
            "blk.{layer}.attn_norm.weight",
            &[Hidden],
        ),
    ],
    &state_space::mixer!("backbone.layers.{layer}.mixer.", "use_conv_bias"),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "mamba2",
    numbers: &[("vocab_size", 32_768), ("hidden_size", 4096), ("num_hidden_layers", 64)],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

fn inner(config: &ModelConfig) -> Option<Entry> {
    Some((config.dimension(sizes::INNER) as u32).into())
}

impl Architecture for Mamba2 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Mamba2ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "mamba2"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn renames(&self) -> &'static [Rename] {
        &[
            Rename::Prefix("model.backbone.", "backbone."),
            Rename::Prefix("model.lm_head.", "lm_head."),
        ]
    }

    fn has_attention(&self) -> bool {
        false
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or("num_heads", Default::Size(128)),
                ConfigKey::size_or("head_dim", Default::Size(64)),
                ConfigKey::size_or("state_size", Default::Size(128)),
                ConfigKey::size_or("n_groups", Default::Size(8)),
                ConfigKey::size_or("conv_kernel", Default::Size(4)),
                ConfigKey::size_or("expand", Default::Size(2)),
                ConfigKey::flag("use_conv_bias", Default::Flag(true)),
                ConfigKey::any("chunk_size"),
                ConfigKey::any("norm_before_gate"),
                ConfigKey::any("rms_norm"),
                ConfigKey::any("residual_in_fp32"),
                ConfigKey::any("rescale_prenorm_residual"),
                ConfigKey::any("time_step_floor"),
                ConfigKey::any("time_step_limit"),
                ConfigKey::any("time_step_max"),
                ConfigKey::any("time_step_min"),
                ConfigKey::any("time_step_rank"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let inner = config.dimension(sizes::INNER);
        let (expand, groups) = (config.size("expand")?, config.size("n_groups")?);
        if inner != expand.saturating_mul(config.hidden) {
            let problem =
                format!("is {expand}, but {inner} of all heads are not so many times hidden_size");
            return Some(Contradiction { key: "expand", problem });
        }
        (groups == 0 || !inner.is_multiple_of(groups)).then(|| Contradiction {
            key: "n_groups",
            problem: format!("is {groups}, which does not divide the layers' width {inner}"),
        })
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                // Whoever uses the default gets as much.
                MetadataKey::computed("context_length", |_| Some((1u32 << 20).into())),
                MetadataKey::Hidden,
                MetadataKey::computed("feed_forward_length", |_| Some(0u32.into())),
                MetadataKey::computed("attention.head_count", |_| Some(0u32.into())),
                MetadataKey::Layers,
                MetadataKey::setting("ssm.conv_kernel", "conv_kernel"),
                MetadataKey::computed("ssm.inner_size", inner),
                MetadataKey::setting("ssm.state_size", "state_size"),
                MetadataKey::setting("ssm.time_step_rank", "num_heads"),
                MetadataKey::setting("ssm.group_count", "n_groups"),
                MetadataKey::computed("attention.layer_norm_rms_epsilon", |config| {
                    Some((config.layer_norm_epsilon.unwrap_or(1e-5) as f32).into())
                }),
                MetadataKey::FileType,
            ]
        }
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        let size = |key: &str| keys.size(key).unwrap_or(0);
        let inner = size("ssm.inner_size");
        let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
        set("time_step_rank", json!(size("ssm.time_step_rank")));
        set("head_dim", json!(inner / size("ssm.time_step_rank").max(1)));
        set("expand", json!(inner / size("embedding_length").max(1)));
        if let Some(epsilon) = keys.number("attention.layer_norm_rms_epsilon") {
            set("layer_norm_epsilon", crate::config::shortest(epsilon));
        }
        config.remove("max_position_embeddings");
    }
}
