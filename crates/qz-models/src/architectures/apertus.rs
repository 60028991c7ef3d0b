//! Apertus (`ApertusModel` in `conversion/llama.py`): Llama with pairs of halves, norms of each
//! head's queries and keys, and a network without a gate. Its activation, xIELU, has learned
//! numbers in each layer: tensors of the checkpoint that GGUF files have lists of.

use qz_tensor::Metadata;
use qz_tokenize::VocabularyRules;

use super::{decoder, llama, pooling};
use crate::architecture::{Activation, Architecture, ComputedTensor, Contradiction, Model};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::layer_numbers::LayerNumber;
use crate::rules::{NamePattern, TensorRule};
use crate::settings::{ConfigKey, Default, MetadataKey};

/// Apertus.
pub(super) struct Apertus;

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM.named("model.layers.{layer}.attention_layernorm.weight"),
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::QUERY_NORM,
    decoder::KEY_NORM,
    decoder::ATTENTION_OUTPUT,
    decoder::QUERY_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::KEY_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::VALUE_BIAS.when(decoder::ATTENTION_BIAS),
    decoder::ATTENTION_OUTPUT_BIAS.when(decoder::ATTENTION_OUTPUT_BIAS_ALLOWED),
    decoder::FEED_FORWARD_NORM.named("model.layers.{layer}.feedforward_layernorm.weight"),
    decoder::UP,
    decoder::DOWN,
];

/// In the order in which the reference comes by them.
static NUMBERS: &[LayerNumber] = &[
    LayerNumber {
        tensor: NamePattern("model.layers.{layer}.mlp.act_fn.alpha_n"),
        shape: &[1],
        key: "xielu.alpha_n",
    },
    LayerNumber {
        tensor: NamePattern("model.layers.{layer}.mlp.act_fn.alpha_p"),
        shape: &[1],
        key: "xielu.alpha_p",
    },
    LayerNumber {
        tensor: NamePattern("model.layers.{layer}.mlp.act_fn.beta"),
        shape: &[],
        key: "xielu.beta",
    },
    LayerNumber {
        tensor: NamePattern("model.layers.{layer}.mlp.act_fn.eps"),
        shape: &[],
        key: "xielu.eps",
    },
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {
    model_type: "apertus",
    numbers: &[
        ("vocab_size", 131_072),
        ("hidden_size", 4096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("max_position_embeddings", 65_536),
    ],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: Some(1e-5),
    rope_theta: 12e6,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
};

/// Norms behind attention and network.
const NORMS_BEHIND: &str = "post_norm";

impl Architecture for Apertus {
    fn class_names(&self) -> &'static [&'static str] {
        &["ApertusForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "apertus"
    }

    fn defaults(&self) -> &'static ConfigDefaults {
        &DEFAULTS
    }

    fn tensor_rules(&self) -> &'static [TensorRule] {
        RULES
    }

    fn layer_numbers(&self) -> &'static [LayerNumber] {
        NUMBERS
    }

    fn activation(&self) -> Activation {
        Activation { key: "hidden_act", words: &["xielu"] }
    }

    fn config_keys(&self) -> &'static [ConfigKey] {
        const { &[ConfigKey::flag(NORMS_BEHIND, Default::Absent)] }
    }

    fn contradiction(&self, config: &ModelConfig) -> Option<Contradiction> {
        let problem = "is true: norms stand in front in this architecture".to_owned();
        let key = NORMS_BEHIND;
        (config.flag(key) == Some(true)).then_some(Contradiction { key, problem })
    }

    fn own_metadata(&self) -> &'static [MetadataKey] {
        const { &[llama::VOCABULARY_SIZE, llama::TURNED] }
    }

    fn computed_tensors(&self, config: &ModelConfig) -> Vec<ComputedTensor> {
        llama::factors(config)
    }

    fn computed_names(&self) -> &'static [&'static str] {
        llama::FACTORS
    }

    fn write_own_metadata(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        pooling::write_pooling_type(self.gguf_name(), model, metadata)
    }

    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Llama
    }

    fn adjust_vocabulary(&self, model: &Model<'_>, metadata: &mut Metadata) -> Result<(), Error> {
        llama::adjust_vocabulary(model, metadata);
        Ok(())
    }
}
