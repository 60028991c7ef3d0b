//! Mixtral. GGUF knows it as Llama with experts (`LlamaModel` in
//! `conversion/llama.py`).

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;

use super::decoder;
use super::llama::{self, Llama};
use crate::architecture::{Architecture, ComputedTensor, Model};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Experts, GateAndUp, Hidden, Intermediate, Number};
use crate::rules::{Role, Rows, TensorRule, Transform};

/// Mixtral.
pub(super) struct Mixtral;

const GATE: &str = "blk.{layer}.ffn_gate_exps.weight";
const UP: &str = "blk.{layer}.ffn_up_exps.weight";
const DOWN: &str = "blk.{layer}.ffn_down_exps.weight";

const STACKED: Transform = Transform::rows(Rows::StackExperts);

/// The router: a weight for each expert.
const fn router(hugging_face: &'static str) -> TensorRule {
    let gguf = "blk.{layer}.ffn_gate_inp.weight";
    TensorRule::weight(Role::ExpertRouter, hugging_face, gguf, &[Experts, Hidden])
}

/// Every expert's matrices are tensors of their own. So are the published
/// checkpoints, and so transformers saves them to this day.
static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::QUERY.paired(),
    decoder::KEY.paired(),
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::FEED_FORWARD_NORM,
    router("model.layers.{layer}.block_sparse_moe.gate.weight"),
    TensorRule::weight(
        Role::FeedForwardGate,
        "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
        GATE,
        &[Intermediate, Hidden],
    )
    .transformed(STACKED),
    TensorRule::weight(
        Role::FeedForwardDown,
        "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
        DOWN,
        &[Hidden, Intermediate],
    )
    .transformed(STACKED),
    TensorRule::weight(
        Role::FeedForwardUp,
        "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
        UP,
        &[Intermediate, Hidden],
    )
    .transformed(STACKED),
];

const GATE_AND_UP: &str = "model.layers.{layer}.mlp.experts.gate_up_proj";

/// The modules of transformers 5 as they are in memory (`MixtralExperts` in
/// `models/mixtral/modeling_mixtral.py`): all experts in one tensor, each with
/// the rows of its gate before those of its up projection. The reference does not
/// read it.
const FUSED_RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::QUERY.paired(),
    decoder::KEY.paired(),
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::FEED_FORWARD_NORM,
    router("model.layers.{layer}.mlp.gate.weight"),
    TensorRule::weight(Role::FeedForwardGate, GATE_AND_UP, GATE, &[Experts, GateAndUp, Hidden])
        .transformed(Transform::part(GateAndUp, Number(0), Intermediate)),
    TensorRule::weight(Role::FeedForwardUp, GATE_AND_UP, UP, &[Experts, GateAndUp, Hidden])
        .transformed(Transform::part(GateAndUp, Intermediate, Intermediate)),
    TensorRule::weight(
        Role::FeedForwardDown,
        "model.layers.{layer}.mlp.experts.down_proj",
        DOWN,
        &[Experts, Hidden, Intermediate],
    ),
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "mixtral",
    numbers: &[
        ("vocab_size", 32_000),
        ("hidden_size", 4096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 131_072),
        ("num_local_experts", 8),
        ("num_experts_per_tok", 2),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: 1e6,
    sliding_rope_theta: None,
    window: DefaultWindow::None,
};

impl Architecture for Mixtral {
    fn class_names(&self) -> &'static [&'static str] {
        &["MixtralForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        Llama.gguf_name()
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        llama::has_experts(metadata)
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

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        Llama.computed_tensors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        Llama.computed_names()
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        Llama.write_own_metadata(model, metadata)
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        Llama.vocabulary_rules()
    }

    fn adjust_vocabulary(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        Llama.adjust_vocabulary(model, metadata)
    }
}
