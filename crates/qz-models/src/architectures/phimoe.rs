//! Phi 3.5 with experts (`PhiMoeModel` in `conversion/phi.py`): Phi 3's rotary embedding, norms
//! that take the mean away, biases, and two experts for each token.
//!
//! The reference writes Phi 3's growth of cosines and sines. transformers multiplies with what the
//! configuration says of texts within the context of training and past it: one number in all
//! published models, which is written here.

use qz_tensor::Value as Entry;
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value};

use super::decoder::rules;
use super::{decoder, experts, mixtral, phi3};
use crate::architecture::{Architecture, ComputedTensor, Contradiction};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow, shortest};
use crate::hyperparameters::ModelConfig;
use crate::rope::{LONG_FACTORS_NAME, SHORT_FACTORS_NAME};
use crate::rules::Dimension::Vocabulary;
use crate::rules::{Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Phi 3.5 with experts.
pub(super) struct PhiMoe;

/// What cosines and sines are multiplied with, among the rotary parameters.
const SHORT: &str = "short_mscale";
const LONG: &str = "long_mscale";
const WINDOW: &str = "sliding_window";
const OUTPUT_BIAS: &str = "lm_head_bias";

/// What is no expert.
const OTHERS: &[TensorRule] = rules![
    &decoder::AROUND,
    &[
        decoder::OUTPUT_NORM_BIAS,
        TensorRule::bias(Role::Output, "lm_head.bias", "output.bias", &[Vocabulary])
            .when(Presence::WhenTrue(OUTPUT_BIAS)),
        decoder::ATTENTION_NORM_BIAS,
        decoder::ATTENTION_OUTPUT_BIAS.when(decoder::ATTENTION_OUTPUT_BIAS_ALLOWED),
        decoder::FEED_FORWARD_NORM,
        decoder::FEED_FORWARD_NORM_BIAS,
    ],
    &decoder::ATTENTION,
    &decoder::attention_biases(decoder::ATTENTION_BIAS),
];
static RULES: &[TensorRule] = rules![OTHERS, &mixtral::EXPERTS];
/// The modules of transformers 5 as they are in memory. The reference does not read it.
const FUSED_RULES: &[TensorRule] = rules![
    OTHERS,
    &[experts::ROUTER.named("model.layers.{layer}.mlp.router.weight")],
    &experts::FUSED_AS_NETWORK,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "phimoe",
    numbers: &[
        ("vocab_size", 32_064),
        ("hidden_size", 4096),
        ("intermediate_size", 6400),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 131_072),
        ("num_local_experts", 16),
        ("num_experts_per_tok", 2),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: 1e6,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// What cosines and sines are multiplied with.
fn growth(config: &ModelConfig) -> Option<Entry> {
    match config.number(SHORT) {
        Some(growth) => Some((growth as f32).into()),
        None => phi3::growth(config),
    }
}

impl Architecture for PhiMoe {
    fn class_names(&self) -> &'static [&'static str] {
        &["PhiMoEForCausalLM", "PhimoeForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "phimoe"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
        &[FUSED_RULES]
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn has_long_rope(&self) -> bool {
        true
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(phi3::ORIGINAL_CONTEXT, Default::Size(4096)),
                ConfigKey::count_or(WINDOW, Default::Absent),
                ConfigKey::flag(OUTPUT_BIAS, Default::Absent),
                ConfigKey::number(SHORT, Default::Absent),
                ConfigKey::number(LONG, Default::Absent),
                // How near to the best an expert has to be to count.
                ConfigKey::exactly("router_jitter_noise", 0.01),
                ConfigKey::any("input_jitter_noise"),
            ]
        }
    }

    /// What rotary parameters say of factors, and of the context of training.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        for key in [SHORT, LONG, phi3::ORIGINAL_CONTEXT] {
            let ropes = ["rope_parameters", "rope_scaling"].into_iter();
            let mut stated = ropes.filter_map(|rope| config.get(rope)?.get(key));
            let stated = stated.find(|value| !value.is_null()).cloned();
            if let Some(value) = stated {
                config.entry(key).or_insert(value);
            }
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
        if config.experts_used != Some(2) {
            return say("num_experts_per_tok", "is not 2, as which its router is known");
        }
        if config.number(SHORT) != config.number(LONG) {
            return say(LONG, "is not short_mscale; files have one number for both");
        }
        phi3::wrong_count(config)
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        phi3::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        &[LONG_FACTORS_NAME, SHORT_FACTORS_NAME]
    }

    fn first_metadata(&self) -> &'static [MetadataKey] {
        const { &[MetadataKey::computed("rope.scaling.attn_factor", growth)] }
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        phi3::METADATA
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        &[MetadataKey::ExpertsUsed, MetadataKey::Experts]
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        phi3::restore_window(keys, config);
        let growth = keys.number("rope.scaling.attn_factor").unwrap_or(1.0);
        for rope in ["rope_parameters", "rope_scaling"] {
            if let Some(Value::Object(rope)) = config.get_mut(rope)
                && rope.get("rope_type").is_some_and(|kind| kind == "longrope")
            {
                rope.extend([SHORT, LONG].map(|key| (key.to_owned(), shortest(growth))));
            }
        }
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Phi
    }
}
