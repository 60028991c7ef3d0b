//! Kimi Linear (`KimiLinearModel` in `conversion/kimi_linear.py`): the delta rule with a decay for
//! each number of a key, and in some layers DeepSeek's latent attention, in which nothing turns.

use qz_tensor::{Array, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder::{layer_bias, layer_weight, rules};
use super::experts::{DENSE_KEY, SHARED_KEY, WIDTH_KEY};
use super::{decoder, experts, latent, llama, state_space};
use crate::architecture::{Architecture, Contradiction, Spelling};
use crate::config::ConfigDefaults;
use crate::hyperparameters::ModelConfig;
use crate::lists::joined;
use crate::rules::Dimension::{Hidden, Number, Product, Size};
use crate::rules::{Condition, Dimension, LayerIndex, Presence, Role, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey, gating_function};
use crate::tensor_map::ValueChange;

/// Kimi Linear.
pub(super) struct KimiLinear;

const KINDS: &str = "layer_types";
const DELTA: &str = "linear_attention";
const FULL: &str = "full_attention";
/// What published configurations have for the four keys below.
const DELTA_CONFIG: &str = "linear_attn_config";
const HEADS_KEY: &str = "linear_num_heads";
const HEAD_KEY: &str = "linear_head_dim";
const TAPS_KEY: &str = "linear_conv_kernel_dim";

const HEADS: Dimension = Size(HEADS_KEY);
const HEAD: Dimension = Size(HEAD_KEY);
const TAPS: Dimension = Size(TAPS_KEY);
/// Numbers of all heads.
const INNER: Dimension = Product(&[HEADS, HEAD]);

fn is_delta(config: &ModelConfig, layer: LayerIndex) -> bool {
    config.word_in(KINDS, layer) == Some(DELTA)
}

const CORRECTS: Condition = Condition { key: KINDS, holds: is_delta };
const ATTENDS: Condition =
    Condition { key: KINDS, holds: |config, layer| !is_delta(config, layer) };

/// A convolution of the delta rule's, as files have it.
const fn convolution(rule: TensorRule) -> TensorRule {
    rule.shaped(&[INNER, Number(1), TAPS]).reshaped(&[Number(1), INNER, Number(1), TAPS])
}

const CORRECTION: [TensorRule; 15] = state_space::only(
    [
        decoder::QUERY.shaped(&[INNER, Hidden]),
        decoder::KEY.shaped(&[INNER, Hidden]),
        decoder::VALUE.shaped(&[INNER, Hidden]),
        decoder::ATTENTION_OUTPUT.shaped(&[Hidden, INNER]),
        convolution(layer_weight!(
            Role::QueryConvolution,
            "self_attn.q_conv1d",
            "ssm_conv1d_q",
            &[]
        )),
        convolution(layer_weight!(Role::KeyConvolution, "self_attn.k_conv1d", "ssm_conv1d_k", &[])),
        convolution(layer_weight!(
            Role::ValueConvolution,
            "self_attn.v_conv1d",
            "ssm_conv1d_v",
            &[]
        )),
        layer_weight!(Role::StateSpaceNarrowStep, "self_attn.f_a_proj", "ssm_f_a", &[HEAD, Hidden]),
        layer_weight!(Role::StateSpaceStep, "self_attn.f_b_proj", "ssm_f_b", &[INNER, HEAD]),
        layer_weight!(Role::StateSpaceNarrowGate, "self_attn.g_a_proj", "ssm_g_a", &[HEAD, Hidden]),
        layer_weight!(Role::StateSpaceGate, "self_attn.g_b_proj", "ssm_g_b", &[INNER, HEAD]),
        layer_weight!(Role::StateSpaceStrength, "self_attn.b_proj", "ssm_beta", &[HEADS, Hidden]),
        TensorRule::weight(
            Role::StateSpaceDecay,
            "model.layers.{layer}.self_attn.A_log",
            "blk.{layer}.ssm_a",
            &[Number(1), Number(1), HEADS, Number(1)],
        )
        .changed(ValueChange::NegativeExponential),
        layer_bias!(Role::StateSpaceTimeStep, "self_attn.dt", "ssm_dt", &[INNER])
            .named("model.layers.{layer}.self_attn.dt_bias"),
        layer_weight!(Role::StateSpaceNorm, "self_attn.o_norm", "ssm_norm", &[HEAD]),
    ],
    CORRECTS,
);

const ATTENTION: [TensorRule; 6] = state_space::only(latent::WITHOUT_QUERY_RANK, ATTENDS);

/// Mixtral's names for DeepSeek's experts.
const MIXTURE: [TensorRule; 11] = {
    let mut rules = experts::behind_dense([
        experts::GATE.named("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight"),
        experts::UP.named("model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight"),
        experts::DOWN.named("model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight"),
    ]);
    let mut at = 0;
    while at < rules.len() {
        let name = match rules[at].role {
            Role::ExpertRouter => "model.layers.{layer}.block_sparse_moe.gate.weight",
            Role::SharedExpertGate => {
                "model.layers.{layer}.block_sparse_moe.shared_experts.gate_proj.weight"
            }
            Role::SharedExpertUp => {
                "model.layers.{layer}.block_sparse_moe.shared_experts.up_proj.weight"
            }
            Role::SharedExpertDown => {
                "model.layers.{layer}.block_sparse_moe.shared_experts.down_proj.weight"
            }
            _ => rules[at].hugging_face.0,
        };
        rules[at] = rules[at].named(name);
        at += 1;
    }
    joined(&[
        &rules,
        &[experts::BIAS
            .named("model.layers.{layer}.block_sparse_moe.gate.e_score_correction_bias")
            .when(Presence::Required)],
    ])
};

static RULES: &[TensorRule] = rules![
    &decoder::AROUND,
    &[decoder::ATTENTION_NORM],
    &CORRECTION,
    &ATTENTION,
    &[decoder::FEED_FORWARD_NORM],
    &MIXTURE,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "kimi_linear",
    numbers: &[
        ("vocab_size", 163_840),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 27),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 1_048_576),
        ("num_experts", 256),
        ("num_experts_per_tok", 8),
    ],
    rms_epsilon: Some(1e-5),
    ..latent::DEFAULTS
};

/// Heads of keys, which are one where there is attention.
fn key_value_heads(config: &ModelConfig) -> Option<Entry> {
    let heads = config.words(KINDS)?.iter().map(|kind| i32::from(kind != DELTA));
    Some(Entry::Array(Array::I32(heads.collect())))
}

/// Files do not say how many groups of experts there are.
const METADATA: &[MetadataKey] = &[
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
    MetadataKey::setting("expert_group_used_count", "topk_group"),
    MetadataKey::computed("expert_gating_func", gating_function),
    latent::KEY_LENGTH,
    MetadataKey::computed("attention.value_length", |config| {
        Some((config.head_size as u32).into())
    }),
    MetadataKey::FileType,
];
const OWN_METADATA: &[MetadataKey] = &[
    llama::VOCABULARY_SIZE,
    MetadataKey::setting("ssm.conv_kernel", TAPS_KEY),
    MetadataKey::setting("kda.head_dim", HEAD_KEY),
    latent::RANK_LENGTH,
    latent::TURNED_LENGTH,
    latent::HEAD_LENGTH,
    latent::VALUE_LENGTH,
    MetadataKey::setting("expert_feed_forward_length", WIDTH_KEY),
    MetadataKey::setting("expert_shared_count", SHARED_KEY),
    MetadataKey::setting("leading_dense_block_count", DENSE_KEY),
    MetadataKey::setting("expert_weights_scale", "routed_scaling_factor"),
];

/// Takes the sizes of the delta rule, and which layers have it, out of their object.
fn fill_delta(config: &mut Map<String, Value>) {
    let count = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(27);
    let Some(Value::Object(own)) = config.get(DELTA_CONFIG).cloned() else { return };
    let names =
        [("num_heads", HEADS_KEY), ("head_dim", HEAD_KEY), ("short_conv_kernel_size", TAPS_KEY)];
    for (name, key) in names {
        if let Some(value) = own.get(name) {
            config.insert(key.to_owned(), value.clone());
        }
    }
    let listed = |name: &str, layer: u64| {
        own.get(name).and_then(Value::as_array).is_some_and(|list| list.contains(&json!(layer)))
    };
    // Layers are counted from 1. One that neither list has stands as nothing, which is refused.
    let kind = |layer| match (listed("full_attn_layers", layer), listed("kda_layers", layer)) {
        (true, false) => json!(FULL),
        (false, true) => json!(DELTA),
        _ => json!(format!("layer {layer}, which is not in one of the lists of {DELTA_CONFIG}")),
    };
    if config.get(KINDS).is_none_or(Value::is_null) {
        config.insert(KINDS.to_owned(), (1..=count.min(1 << 16)).map(kind).collect());
    }
}

impl Architecture for KimiLinear {
    fn class_names(&self) -> &'static [&'static str] {
        &["KimiLinearForCausalLM", "KimiLinearModel"]
    }

    fn gguf_name(&self) -> &'static str {
        "kimi-linear"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn expert_key(&self) -> &'static str {
        "num_experts"
    }

    fn has_own_heads(&self) -> bool {
        true
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "model_max_length", common: "max_position_embeddings" },
            Spelling { own: "num_experts_per_token", common: "num_experts_per_tok" },
            Spelling { own: "num_shared_experts", common: SHARED_KEY },
            Spelling { own: "num_expert_group", common: "n_group" },
            Spelling { own: "moe_renormalize", common: "norm_topk_prob" },
            Spelling { own: "moe_router_activation_func", common: "scoring_func" },
        ]
    }

    fn fill_config(&self, config: &mut Map<String, Value>) {
        fill_delta(config);
        experts::fill_dense(config);
        if config.get("head_dim").is_none_or(Value::is_null)
            && let Some(turned) = config.get(latent::TURNED).cloned()
        {
            config.insert("head_dim".to_owned(), turned);
        }
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(27);
        if config.get(KINDS).is_none_or(Value::is_null) {
            // As transformers assumes.
            let kind = |layer| if layer > 0 && layer % 4 == 0 { FULL } else { DELTA };
            config.insert(KINDS.to_owned(), (0..layers.min(1 << 16)).map(kind).collect());
        }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &joined::<_, { 19 + 7 }>(&[
                &latent::config_keys(&latent::Assumed {
                    dense: 1,
                    shared: 1,
                    width: 1024,
                    query_rank: Default::Absent,
                    rank: 512,
                    still: 128,
                    value: 128,
                    groups: [Default::Absent; 2],
                    scale: 2.446,
                    normalizes: true,
                    gating: Default::Word("sigmoid"),
                }),
                &[
                    ConfigKey::words_per_layer(KINDS, &[DELTA, FULL]),
                    ConfigKey::any(DELTA_CONFIG),
                    ConfigKey::size_or(HEADS_KEY, Default::Size(32)),
                    ConfigKey::size_or(HEAD_KEY, Default::Size(128)),
                    ConfigKey::size_or(TAPS_KEY, Default::Size(4)),
                    ConfigKey::flag("mla_use_nope", Default::Flag(true)),
                    ConfigKey::any("use_grouped_topk"),
                ],
            ])
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
        if config.size(HEADS_KEY) != Some(config.heads) {
            return say(HEADS_KEY, "is not num_attention_heads, and files say one number");
        }
        if config.size("q_lora_rank").is_some() {
            return say("q_lora_rank", "is there, but graphs of this architecture have none");
        }
        if config.flag("mla_use_nope") == Some(false) {
            return say(
                "mla_use_nope",
                "is false, but in graphs of this architecture nothing turns",
            );
        }
        if config.flag("norm_topk_prob") == Some(false) {
            return say(
                "moe_renormalize",
                "is false; graphs of this architecture compute as with true",
            );
        }
        if config.word("scoring_func") == Some("softmax") {
            let problem = "is softmax; weights of this architecture are sigmoids";
            return say("moe_router_activation_func", problem);
        }
        // Files have no place for the number of groups.
        if config.size("n_group").is_some_and(|groups| groups > 1) {
            return say("num_expert_group", "is more than one, which files cannot say");
        }
        if config.size("topk_group").is_some_and(|groups| groups != 1) {
            return say("topk_group", "is not 1, and there is one group");
        }
        None
    }

    fn metadata(&self) -> &'static [MetadataKey] {
        METADATA
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        OWN_METADATA
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        latent::complete_config(keys, config);
        let heads = keys.sizes("attention.head_count_kv").unwrap_or_default();
        let layers = |wanted: fn(i32) -> bool| -> Vec<usize> {
            let numbered = heads.iter().enumerate().filter(|(_, heads)| wanted(**heads));
            numbered.map(|(layer, _)| layer + 1).collect()
        };
        let own = json!({
            "full_attn_layers": layers(|heads| heads > 0),
            "kda_layers": layers(|heads| heads == 0),
            "num_heads": keys.size("attention.head_count"),
            "head_dim": keys.size("kda.head_dim"),
            "short_conv_kernel_size": keys.size("ssm.conv_kernel"),
        });
        config.insert(DELTA_CONFIG.to_owned(), own);
        for key in [HEAD_KEY, TAPS_KEY, "rope_interleave", "qk_head_dim", "mlp_bias"] {
            config.shift_remove(key);
        }
        let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
        set("head_dim", json!(keys.size("attention.value_length")));
        set("norm_topk_prob", json!(true));
        set("scoring_func", json!("sigmoid"));
        set("n_group", json!(1));
        set("mla_use_nope", json!(true));
        set("use_grouped_topk", json!(true));
        set("moe_layer_freq", json!(1));
    }
}
