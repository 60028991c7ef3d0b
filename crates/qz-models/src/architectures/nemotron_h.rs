//! Nemotron-H and Nemotron 3 (`NemotronHModel` in `conversion/nemotron.py`): each layer has a
//! state space, attention, a network or experts, and nothing else.

use qz_tensor::{Array, Value as Entry};
use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::state_space::{self, only};
use super::{decoder, experts};
use crate::architecture::{Activation, Architecture, Contradiction, Rename};
use crate::config::{ConfigDefaults, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{
    Experts, Hidden, Intermediate, KeyValues, Number, Queries, Size, Vocabulary,
};
use crate::rules::{Condition, Dimension, Presence, Role, TensorRule, Transform};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};
use crate::tensor_map::ValueChange;

/// Nemotron-H: networks without experts.
pub(super) struct NemotronH;
/// Nemotron 3: experts instead of networks.
pub(super) struct NemotronHMoe;

const KINDS: &str = "layers_block_type";
/// The same with a letter for each layer.
const PATTERN: &str = "hybrid_override_pattern";
const MAMBA: &str = "mamba";
const ATTENTION: &str = "attention";
const NETWORK: &str = "mlp";
const MIXTURE: &str = "moe";
/// The letters, and the names that transformers 5 has for the kinds.
const LETTERS: &[(char, &str)] = &[('M', MAMBA), ('*', ATTENTION), ('-', NETWORK), ('E', MIXTURE)];
const OTHER_NAMES: &[(&str, &str)] = &[("linear_attention", MAMBA), ("full_attention", ATTENTION)];

const SHARED_WIDTH_KEY: &str = "moe_shared_expert_intermediate_size";
const LATENT: &str = "moe_latent_size";
/// What follows of it: numbers that experts multiply.
const EXPERT_INPUT: &str = "moe_input_size";

state_space::sizes!(
    "mamba_num_heads",
    "mamba_head_dim",
    "n_groups",
    "ssm_state_size",
    "conv_kernel"
);

macro_rules! of_kind {
    ($kind:expr) => {
        Condition { key: KINDS, holds: |config, layer| config.word_in(KINDS, layer) == Some($kind) }
    };
}

const SCANS: Condition = of_kind!(MAMBA);
const ATTENDS: Condition = of_kind!(ATTENTION);
const HAS_NETWORK: Condition = of_kind!(NETWORK);
const MIXES: Condition = of_kind!(MIXTURE);
const IS_NARROW: Condition = Condition {
    key: LATENT,
    holds: |config, layer| {
        (MIXES.holds)(config, layer) && config.size(LATENT).is_some_and(|size| size > 0)
    },
};

macro_rules! of_layer {
    ($role:expr, $hugging_face:literal, $gguf:literal, $shape:expr) => {
        TensorRule::weight(
            $role,
            concat!("backbone.layers.{layer}.", $hugging_face, ".weight"),
            concat!("blk.{layer}.", $gguf, ".weight"),
            $shape,
        )
    };
}

const COMMON: [TensorRule; 8] = [
    TensorRule::weight(
        Role::TokenEmbedding,
        "backbone.embeddings.weight",
        "token_embd.weight",
        &[Vocabulary, Hidden],
    ),
    TensorRule::weight(Role::OutputNorm, "backbone.norm_f.weight", "output_norm.weight", &[Hidden]),
    decoder::OUTPUT,
    of_layer!(Role::AttentionNorm, "norm", "attn_norm", &[Hidden]),
    // Nothing turns, and the reference pairs rows as if it did: products are the same.
    of_layer!(Role::AttentionQuery, "mixer.q_proj", "attn_q", &[Queries, Hidden])
        .paired()
        .only(ATTENDS),
    of_layer!(Role::AttentionKey, "mixer.k_proj", "attn_k", &[KeyValues, Hidden])
        .paired()
        .only(ATTENDS),
    of_layer!(Role::AttentionValue, "mixer.v_proj", "attn_v", &[KeyValues, Hidden]).only(ATTENDS),
    of_layer!(Role::AttentionOutput, "mixer.o_proj", "attn_output", &[Hidden, Queries])
        .only(ATTENDS),
];
const MIXER: [TensorRule; 8] =
    only(state_space::mixer!("backbone.layers.{layer}.mixer.", "use_conv_bias"), SCANS);

static RULES: &[TensorRule] = rules![
    &COMMON,
    &MIXER,
    &[
        of_layer!(Role::FeedForwardUp, "mixer.up_proj", "ffn_up", &[Intermediate, Hidden])
            .only(HAS_NETWORK),
        of_layer!(Role::FeedForwardDown, "mixer.down_proj", "ffn_down", &[Hidden, Intermediate])
            .only(HAS_NETWORK),
    ],
];

const WIDTH: Dimension = Size(experts::WIDTH_KEY);
const INPUT: Dimension = Size(EXPERT_INPUT);
const SHARED_WIDTH: Dimension = Size(SHARED_WIDTH_KEY);

const AROUND_EXPERTS: [TensorRule; 6] = only(
    [
        experts::ROUTER.named("backbone.layers.{layer}.mixer.gate.weight"),
        experts::SELECTION_BIAS.named("backbone.layers.{layer}.mixer.gate.e_score_correction_bias"),
        experts::SHARED_UPS
            .named("backbone.layers.{layer}.mixer.shared_experts.up_proj.weight")
            .shaped(&[SHARED_WIDTH, Hidden]),
        experts::SHARED_DOWNS
            .named("backbone.layers.{layer}.mixer.shared_experts.down_proj.weight")
            .shaped(&[Hidden, SHARED_WIDTH]),
        of_layer!(Role::ExpertsInput, "mixer.fc1_latent_proj", "ffn_latent_down", &[INPUT, Hidden]),
        of_layer!(Role::ExpertsOutput, "mixer.fc2_latent_proj", "ffn_latent_up", &[Hidden, INPUT]),
    ],
    MIXES,
);
const AROUND: [TensorRule; 6] = {
    let mut rules = AROUND_EXPERTS;
    rules[4] = rules[4].only(IS_NARROW);
    rules[5] = rules[5].only(IS_NARROW);
    rules
};
const UP: TensorRule = experts::UP
    .named("backbone.layers.{layer}.mixer.experts.{expert}.up_proj.weight")
    .shaped(&[WIDTH, INPUT])
    .only(MIXES);
const DOWN: TensorRule = experts::DOWN
    .named("backbone.layers.{layer}.mixer.experts.{expert}.down_proj.weight")
    .shaped(&[INPUT, WIDTH])
    .only(MIXES);

static MIXED_RULES: &[TensorRule] = rules![&COMMON, &MIXER, &AROUND, &[UP, DOWN]];
/// transformers 5's modules as they are in memory.
const FUSED_RULES: &[TensorRule] = rules![
    &COMMON,
    &MIXER,
    &AROUND,
    &[
        UP.named("backbone.layers.{layer}.mixer.experts.up_proj")
            .shaped(&[Experts, WIDTH, INPUT])
            .transformed(Transform::KEEP),
        DOWN.named("backbone.layers.{layer}.mixer.experts.down_proj")
            .shaped(&[Experts, INPUT, WIDTH])
            .transformed(Transform::KEEP),
    ],
];

const COMMON_NUMBERS: &[(&str, u64)] = &[
    ("vocab_size", 131_072),
    ("hidden_size", 4096),
    ("intermediate_size", 21_504),
    ("num_attention_heads", 32),
    ("num_key_value_heads", 8),
    ("max_position_embeddings", 4096),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "nemotron_h",
    numbers: COMMON_NUMBERS,
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: None,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// The kinds of layers by one name each, from a list or letters.
fn fill_kinds(config: &mut Map<String, Value>) {
    let named = |word: &str| -> Value {
        let other = OTHER_NAMES.iter().find(|(own, _)| *own == word);
        json!(other.map_or(word, |(_, common)| *common))
    };
    let of_letter = |letter: char| -> Value {
        let known = LETTERS.iter().find(|(own, _)| *own == letter);
        // What is not known is told of as it is.
        known.map_or_else(|| json!(letter), |(_, kind)| json!(kind))
    };
    let listed = [KINDS, "layer_types"].into_iter().find_map(|key| config.get(key)?.as_array());
    let letters = config.get(PATTERN).and_then(Value::as_str);
    let kinds: Vec<Value> = match (letters, listed) {
        (Some(letters), _) => letters.chars().map(of_letter).collect(),
        (None, Some(kinds)) => {
            kinds.iter().map(|kind| kind.as_str().map_or_else(|| kind.clone(), named)).collect()
        }
        (None, None) => return,
    };
    config.insert("num_hidden_layers".to_owned(), json!(kinds.len()));
    config.insert(KINDS.to_owned(), json!(kinds));
}

fn fill_config(config: &mut Map<String, Value>) {
    fill_kinds(config);
    let common = [
        ("mamba_n_groups", "n_groups"),
        ("mamba_d_conv", "conv_kernel"),
        ("mamba_conv_bias", "use_conv_bias"),
        ("attention_head_dim", "head_dim"),
    ];
    for (own, common) in common {
        if let Some(value) = config.shift_remove(own) {
            config.entry(common).or_insert(value);
        }
    }
    let narrow = config.get(LATENT).filter(|size| !size.is_null());
    let input = narrow.or(config.get("hidden_size")).cloned();
    config.extend(input.map(|size| (EXPERT_INPUT.to_owned(), size)));
}

fn has_kind(config: &Map<String, Value>, kind: &str) -> bool {
    let mut filled = config.clone();
    fill_kinds(&mut filled);
    let kinds = filled.get(KINDS).and_then(Value::as_array);
    kinds.is_some_and(|kinds| kinds.iter().any(|own| own == kind))
}

fn contradiction(config: &ModelConfig) -> Option<Contradiction> {
    let say = |key, problem: &str| Some(Contradiction { key, problem: problem.to_owned() });
    let Some(kinds) = config.words(KINDS) else { return say(KINDS, "is missing") };
    let has = |kind: &str| kinds.iter().any(|own| own == kind);
    if has(NETWORK) && has(MIXTURE) {
        return say(KINDS, "has networks and experts, of which files can say one only");
    }
    for key in ["use_bias", "mamba_proj_bias", "mlp_bias"] {
        if config.switch(key) == Some(true) {
            return say(key, "is true, and these biases are not supported");
        }
    }
    let (inner, groups) = (config.dimension(sizes::INNER), config.dimension(sizes::GROUPS));
    if groups == 0 || !inner.is_multiple_of(groups) {
        return say("n_groups", "does not divide the width of the state space");
    }
    experts::wrong_groups(config)
}

fn has_state_space(config: &ModelConfig) -> bool {
    config.words(KINDS).unwrap_or_default().iter().any(|kind| kind == MAMBA)
}

/// For each layer what it has of something that one kind has.
fn by_kind(config: &ModelConfig, kind: &str, size: u64) -> Option<Entry> {
    let kinds = config.words(KINDS)?.iter();
    let sizes = kinds.map(|own| if own == kind { size as i32 } else { 0 });
    Some(Entry::Array(Array::I32(sizes.collect())))
}

const BEGIN: [MetadataKey; 6] = [
    MetadataKey::Layers,
    // With a state space whoever uses the default gets as much.
    MetadataKey::computed("context_length", |config| match has_state_space(config) {
        true => Some((1u32 << 20).into()),
        false => config.context.map(|context| (context as u32).into()),
    }),
    MetadataKey::Hidden,
    MetadataKey::computed("feed_forward_length", |config| {
        match config.words(KINDS)?.iter().any(|kind| kind == MIXTURE) {
            true => by_kind(config, MIXTURE, config.dimension(WIDTH)),
            false => by_kind(config, NETWORK, config.intermediate),
        }
    }),
    MetadataKey::Heads,
    MetadataKey::computed("attention.head_count_kv", |config| {
        by_kind(config, ATTENTION, config.key_value_heads)
    }),
];
const MIDDLE: [MetadataKey; 15] = [
    MetadataKey::setting("rope.freq_base", "rope_theta"),
    MetadataKey::computed("attention.layer_norm_rms_epsilon", |config| {
        let stated = config.rms_epsilon.or(config.number("norm_eps"));
        stated.map(|epsilon| (epsilon as f32).into())
    }),
    MetadataKey::LayerNormEpsilon,
    MetadataKey::Experts,
    MetadataKey::ExpertsUsed,
    MetadataKey::setting("expert_group_count", "n_group"),
    MetadataKey::setting("expert_group_used_count", "topk_group"),
    MetadataKey::FileType,
    MetadataKey::computed("vocab_size", |config| Some((config.vocabulary as u32).into())),
    // Nothing turns.
    MetadataKey::computed("rope.dimension_count", |config| {
        Some(((config.hidden / config.heads.max(1)) as u32).into())
    }),
    MetadataKey::setting("ssm.conv_kernel", "conv_kernel"),
    MetadataKey::setting("ssm.state_size", "ssm_state_size"),
    MetadataKey::setting("ssm.group_count", "n_groups"),
    MetadataKey::computed("ssm.inner_size", |config| {
        Some((config.dimension(sizes::INNER) as u32).into())
    }),
    MetadataKey::setting("ssm.time_step_rank", "mamba_num_heads"),
];
const END: [MetadataKey; 2] = [
    MetadataKey::computed("rope.scaling.finetuned", |config| {
        Some((!has_state_space(config)).into())
    }),
    MetadataKey::HeadSize,
];
const OF_EXPERTS: [MetadataKey; 6] = [
    MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
    MetadataKey::setting("expert_shared_feed_forward_length", SHARED_WIDTH_KEY),
    MetadataKey::setting("expert_shared_count", experts::SHARED_KEY),
    MetadataKey::setting("expert_weights_norm", "norm_topk_prob"),
    MetadataKey::setting("expert_weights_scale", "routed_scaling_factor"),
    MetadataKey::setting("moe_latent_size", LATENT),
];

const METADATA: &[MetadataKey] =
    &crate::lists::joined::<_, { BEGIN.len() + MIDDLE.len() }>(&[&BEGIN, &MIDDLE]);
const OWN_WITH_EXPERTS: &[MetadataKey] =
    &crate::lists::joined::<_, { END.len() + OF_EXPERTS.len() }>(&[&END, &OF_EXPERTS]);

macro_rules! config_keys {
    ($($more:expr),* $(,)?) => {
        const {
            &[
                ConfigKey::words_per_layer(KINDS, &[MAMBA, ATTENTION, NETWORK, MIXTURE]),
                ConfigKey::any(PATTERN),
                ConfigKey::any("layer_types"),
                ConfigKey::size_or("mamba_num_heads", Default::Size(128)),
                ConfigKey::size_or("mamba_head_dim", Default::Size(64)),
                ConfigKey::size_or("n_groups", Default::Size(8)),
                ConfigKey::size_or("ssm_state_size", Default::Size(128)),
                ConfigKey::size_or("conv_kernel", Default::Size(4)),
                ConfigKey::flag("use_conv_bias", Default::Flag(true)),
                ConfigKey::flag("use_bias", Default::Flag(false)),
                ConfigKey::flag("mamba_proj_bias", Default::Flag(false)),
                ConfigKey::word("mamba_hidden_act", &["silu"], Default::Absent),
                ConfigKey::number("norm_eps", Default::Absent),
                // It changes nothing: nothing turns.
                ConfigKey::number("rope_theta", Default::Absent),
                ConfigKey::any("partial_rotary_factor"),
                ConfigKey::any("expand"),
                ConfigKey::any("chunk_size"),
                ConfigKey::any("mamba_ssm_cache_dtype"),
                ConfigKey::any("use_mamba_kernels"),
                ConfigKey::any("num_logits_to_keep"),
                ConfigKey::any("residual_in_fp32"),
                ConfigKey::any("rescale_prenorm_residual"),
                ConfigKey::any("time_step_floor"),
                ConfigKey::any("time_step_limit"),
                ConfigKey::any("time_step_max"),
                ConfigKey::any("time_step_min"),
                ConfigKey::any("mtp_layers_block_type"),
                ConfigKey::any("mtp_hybrid_override_pattern"),
                ConfigKey::any("moe_shared_expert_overlap"),
                $($more,)*
            ]
        }
    };
}

fn complete_config(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let networks = keys.sizes("feed_forward_length").unwrap_or_default();
    let heads = keys.sizes("attention.head_count_kv").unwrap_or_default();
    let is_mixture = keys.size("expert_count").unwrap_or(0) > 0;
    let letter = |(heads, width): (&i32, &i32)| match (*heads, *width) {
        (0, 0) => 'M',
        (_, 0) => '*',
        _ if is_mixture => 'E',
        _ => '-',
    };
    let letters: String = heads.iter().zip(networks).map(letter).collect();
    let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
    if !letters.contains('M') {
        // No tensor tells.
        set("use_conv_bias", json!(true));
    }
    set(PATTERN, json!(letters));
    let hidden = keys.size("embedding_length").unwrap_or(0).max(1);
    set("expand", json!(keys.size("ssm.inner_size").unwrap_or(0) / hidden));
    set("mamba_hidden_act", json!("silu"));
    set("num_nextn_predict_layers", json!(0));
    let (inner, heads) = (keys.size("ssm.inner_size"), keys.size("ssm.time_step_rank"));
    if let Some((inner, heads)) = inner.zip(heads).filter(|(_, heads)| *heads > 0) {
        set("mamba_head_dim", json!(inner / heads));
    }
    let epsilon = keys.number("attention.layer_norm_epsilon");
    let epsilon = epsilon.or(keys.number("attention.layer_norm_rms_epsilon"));
    if let Some(epsilon) = epsilon {
        set("layer_norm_epsilon", crate::config::shortest(epsilon));
    }
    set("mlp_hidden_act", json!("relu2"));
    for key in ["layer_norm_eps", "scoring_func"] {
        config.shift_remove(key);
    }
}

/// What both have in common.
macro_rules! common {
    ($name:literal, $rules:ident) => {
        fn class_names(&self) -> &'static [&'static str] {
            &["NemotronHForCausalLM"]
        }

        fn gguf_name(&self) -> &'static str {
            $name
        }

        fn defaults(&self) -> &'static ConfigDefaults {
            &DEFAULTS
        }

        fn tensor_rules(&self) -> &'static [TensorRule] {
            $rules
        }

        fn renames(&self) -> &'static [Rename] {
            &[
                Rename::Prefix("model.", "backbone."),
                Rename::Suffix("gate.e_score_correction.bias", "gate.e_score_correction_bias"),
            ]
        }

        fn activation(&self) -> Activation {
            Activation { key: "mlp_hidden_act", words: &["relu2"] }
        }

        fn has_rope(&self) -> bool {
            false
        }

        fn fill_config(&self, config: &mut Map<String, Value>) {
            fill_config(config);
        }

        fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
            contradiction(config)
        }

        fn metadata(&self) -> &'static [MetadataKey] {
            METADATA
        }

        fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
            complete_config(keys, config);
        }
    };
}

impl Architecture for NemotronH {
    common!("nemotron_h", RULES);

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        !has_kind(config, MIXTURE)
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        // What configurations that transformers 5 writes say of experts that there are not.
        config_keys!(
            ConfigKey::any("n_routed_experts"),
            ConfigKey::any("num_experts_per_tok"),
            ConfigKey::any(experts::WIDTH_KEY),
            ConfigKey::any(SHARED_WIDTH_KEY),
            ConfigKey::any(experts::SHARED_KEY),
            ConfigKey::any(LATENT),
            ConfigKey::any(EXPERT_INPUT),
            ConfigKey::any("norm_topk_prob"),
            ConfigKey::any("routed_scaling_factor"),
            ConfigKey::any("topk_group"),
            ConfigKey::any("n_group"),
        )
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &END }
    }
}

impl Architecture for NemotronHMoe {
    common!("nemotron_h_moe", MIXED_RULES);

    fn is_of(&self, config: &Map<String, Value>) -> bool {
        has_kind(config, MIXTURE)
    }

    fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
        &[FUSED_RULES]
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn has_dense_network(&self) -> bool {
        false
    }

    fn expert_key(&self) -> &'static str {
        "n_routed_experts"
    }

    /// The layer that predicts further tokens.
    fn towers(&self) -> &'static [&'static str] {
        &["mtp."]
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        config_keys!(
            ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(7688)),
            ConfigKey::size_or(SHARED_WIDTH_KEY, Default::Size(7688)),
            ConfigKey::size_or(experts::SHARED_KEY, Default::Size(1)),
            ConfigKey::size_or(LATENT, Default::Absent),
            ConfigKey::size(EXPERT_INPUT),
            ConfigKey::flag("norm_topk_prob", Default::Flag(true)),
            ConfigKey::number("routed_scaling_factor", Default::Number(1.0)),
            ConfigKey::size_or("n_group", Default::Size(1)),
            ConfigKey::size_or("topk_group", Default::Size(1)),
            ConfigKey::any("num_nextn_predict_layers"),
        )
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        OWN_WITH_EXPERTS
    }
}
