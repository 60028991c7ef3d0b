//! Mixtral. GGUF knows it as Llama with experts (`LlamaModel` in
//! `conversion/llama.py`).

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;

use super::decoder::rules;
use super::llama::{self, Llama};
use super::{decoder, experts};
use crate::architecture::{Architecture, ComputedTensor, Model};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::rules::TensorRule;

/// Mixtral.
pub(super) struct Mixtral;

/// A router, and experts as wide as a network would be, whose matrices are tensors of their
/// own. So are the published checkpoints, and so transformers saves them to this day.
pub(super) const EXPERTS: [TensorRule; 4] = {
    let [gate, up, down] = experts::EACH_AS_NETWORK;
    [
        experts::ROUTER.named("model.layers.{layer}.block_sparse_moe.gate.weight"),
        gate.named("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight"),
        down.named("model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight"),
        up.named("model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight"),
    ]
};

/// What is no expert.
const OTHERS: &[TensorRule] = rules![
    &decoder::AROUND,
    &[
        decoder::ATTENTION_NORM,
        decoder::QUERY.paired(),
        decoder::KEY.paired(),
        decoder::VALUE,
        decoder::ATTENTION_OUTPUT,
        decoder::FEED_FORWARD_NORM,
    ],
];
static RULES: &[TensorRule] = rules![OTHERS, &EXPERTS];
/// The modules of transformers 5 as they are in memory (`MixtralExperts` in
/// `models/mixtral/modeling_mixtral.py`). The reference does not read it.
const FUSED_RULES: &[TensorRule] =
    rules![OTHERS, &experts::of_all_layers(experts::FUSED_AS_NETWORK)];

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
