//! Llama 4 (`Llama4Model` in `conversion/llama.py`): experts with inputs as rows, one that every
//! token is given to, networks in some layers; three of four layers turn and see a chunk of
//! positions. Checkpoints pair neighbours, as the graph does.

use serde_json::{Map, Value, json};

use super::decoder::rules;
use super::experts::STEP_KEY;
use super::{decoder, experts, gemma3, llama};
use crate::architecture::{Architecture, ComputedTensor, Contradiction, Rename, Spelling};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Hidden, Size};
use crate::rules::{Dimension, TensorRule};
use crate::settings::{ConfigKey, Default, GgufKeys, MetadataKey};

/// Llama 4.
pub(super) struct Llama4;

const WIDTH: Dimension = Size(experts::WIDTH_KEY);
const NORMS_KEY: &str = "use_qk_norm";
/// Of so many layers the last does not turn, and sees all positions.
const PERIOD: usize = 4;
/// With so many experts heads are not normed.
const MANY: u64 = 128;

const MODULE_GATE_AND_UP: &str = "model.layers.{layer}.feed_forward.experts.gate_up_proj";
const EXPERTS: [TensorRule; 3] = {
    let [gate, up, down] = experts::FUSED_BY_INPUT;
    [
        gate.named(MODULE_GATE_AND_UP).only(experts::MIXED),
        up.named(MODULE_GATE_AND_UP).only(experts::MIXED),
        down.named("model.layers.{layer}.feed_forward.experts.down_proj").only(experts::MIXED),
    ]
};
static RULES: &[TensorRule] = rules![
    &decoder::AROUND,
    &decoder::ATTENTION,
    &EXPERTS,
    &[
        decoder::FEED_FORWARD_NORM,
        decoder::GATE
            .named("model.layers.{layer}.feed_forward.gate_proj.weight")
            .only(experts::DENSE),
        decoder::UP.named("model.layers.{layer}.feed_forward.up_proj.weight").only(experts::DENSE),
        decoder::DOWN
            .named("model.layers.{layer}.feed_forward.down_proj.weight")
            .only(experts::DENSE),
        experts::ROUTER
            .named("model.layers.{layer}.feed_forward.router.weight")
            .only(experts::MIXED),
        experts::SHARED_GATE
            .named("model.layers.{layer}.feed_forward.shared_expert.gate_proj.weight")
            .shaped(&[WIDTH, Hidden])
            .only(experts::MIXED),
        experts::SHARED_UP
            .named("model.layers.{layer}.feed_forward.shared_expert.up_proj.weight")
            .shaped(&[WIDTH, Hidden])
            .only(experts::MIXED),
        experts::SHARED_DOWN
            .named("model.layers.{layer}.feed_forward.shared_expert.down_proj.weight")
            .shaped(&[Hidden, WIDTH])
            .only(experts::MIXED),
    ],
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "llama4_text",
    numbers: &[
        ("vocab_size", 202_048),
        ("hidden_size", 5120),
        (experts::WIDTH_KEY, 8192),
        ("intermediate_size", 16_384),
        ("num_hidden_layers", 48),
        ("num_attention_heads", 40),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 131_072),
        ("num_local_experts", 16),
        ("num_experts_per_tok", 1),
    ],
    head_size: DefaultHeadSize::Fixed(128),
    rms_epsilon: Some(1e-5),
    rope_theta: 10_000.0,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// Whether a list says of each layer what the graph has built in.
fn follows(list: &Value, is_so: impl Fn(&Value, bool) -> bool) -> bool {
    let Some(list) = list.as_array() else { return list.is_null() };
    let mut layers = list.iter().enumerate();
    layers.all(|(layer, value)| is_so(value, !(layer + 1).is_multiple_of(PERIOD)))
}

impl Architecture for Llama4 {
    fn class_names(&self) -> &'static [&'static str] {
        &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"]
    }

    fn gguf_name(&self) -> &'static str {
        "llama4"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn outer_model_types(&self) -> &'static [&'static str] {
        &["llama4"]
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn mixes_experts(&self) -> bool {
        true
    }

    fn spellings(&self) -> &'static [Spelling] {
        &[
            Spelling { own: "intermediate_size", common: experts::WIDTH_KEY },
            Spelling { own: "intermediate_size_mlp", common: "intermediate_size" },
        ]
    }

    /// Lists that say what the graph has built in are taken away; others are refused.
    fn fill_config(&self, config: &mut Map<String, Value>) {
        let turns = |value: &Value, turns: bool| *value == json!(u8::from(turns));
        let kind = |value: &Value, turns: bool| {
            *value == if turns { "chunked_attention" } else { "full_attention" }
        };
        if config.get("no_rope_layers").is_some_and(|list| follows(list, turns)) {
            config.shift_remove("no_rope_layers");
        }
        if config.get("layer_types").is_some_and(|list| follows(list, kind)) {
            config.shift_remove("layer_types");
        }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const {
            &[
                ConfigKey::size_or(experts::WIDTH_KEY, Default::Size(8192)),
                ConfigKey::size_or(STEP_KEY, Default::Size(1)),
                ConfigKey::flag(NORMS_KEY, Default::Flag(true)),
                ConfigKey::exactly("attention_chunk_size", 8192.0),
                ConfigKey::exactly("floor_scale", 8192.0),
                ConfigKey::exactly("attn_scale", 0.1),
                ConfigKey::exactly("no_rope_layer_interval", PERIOD as f64),
                ConfigKey::any("attn_temperature_tuning"),
                ConfigKey::any("moe_layers"),
                ConfigKey::any("for_llm_compressor"),
                ConfigKey::any("vision_config"),
                ConfigKey::any("boi_token_index"),
                ConfigKey::any("eoi_token_index"),
            ]
        }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let norms = config.flag(NORMS_KEY)?;
        (norms != (config.experts != Some(MANY))).then(|| Contradiction {
            key: NORMS_KEY,
            problem: format!("is {norms}, but graphs norm heads unless there are {MANY} experts"),
        })
    }

    fn renames(&self) -> &'static [Rename] {
        gemma3::TEXT_PART
    }

    fn towers(&self) -> &'static [&'static str] {
        &[
            "vision_model.",
            "model.vision_model.",
            "multi_modal_projector.",
            "model.multi_modal_projector.",
        ]
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const {
            &[
                llama::VOCABULARY_SIZE,
                llama::TURNED,
                MetadataKey::setting("interleave_moe_layer_step", STEP_KEY),
                MetadataKey::setting("expert_feed_forward_length", experts::WIDTH_KEY),
            ]
        }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }

    fn complete_config(&self, keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
        config.insert(NORMS_KEY.to_owned(), json!(keys.size("expert_count") != Some(MANY)));
        config.insert("attn_temperature_tuning".to_owned(), json!(true));
        // What graphs have and no file says.
        config.insert("attention_chunk_size".to_owned(), json!(8192));
        config.insert("attn_scale".to_owned(), json!(0.1));
        config.insert("floor_scale".to_owned(), json!(8192));
        config.insert("no_rope_layer_interval".to_owned(), json!(PERIOD));
        let layers = keys.size("block_count").unwrap_or(0).min(1 << 16);
        let turns = |layer: u64| u64::from(!(layer + 1).is_multiple_of(PERIOD as u64));
        let turns: Vec<u64> = (0..layers).map(turns).collect();
        config.insert("no_rope_layers".to_owned(), json!(turns));
        let step = keys.size("interleave_moe_layer_step").unwrap_or(1).max(1);
        let mixed: Vec<u64> =
            (0..layers).filter(|layer| (layer + 1).is_multiple_of(step)).collect();
        config.insert("moe_layers".to_owned(), json!(mixed));
    }
}
