//! What a model computes, as data: for each layer a list of steps over registers, with
//! the sizes that this layer has. A family makes it from its GGUF metadata
//! ([`GRAPHS`]); [`crate::forward`] runs it.
//!
//! | where | what |
//! |---|---|
//! | `mod.rs` | steps, groups of matrices, a layer's graph |
//! | `model.rs` | a model's graph |
//! | `builder.rs` | a layer, step by step, and what follows from its steps |
//! | `folds.rs` | factors that can move between a layer's tensors |
//! | `keys.rs` | a model's own metadata keys |
//! | `rotary.rs` | the angles of rotary position embedding, scaled or not |
//! | `further.rs` | layers that only predict further tokens |
//! | `decoder.rs` | blocks that decoders share, and the decoder that most are |
//! | `dense.rs` | decoders without experts, by what is unlike Llama |
//! | `relatives.rs`, `layer_normed.rs`, `encoders.rs` | families of these |
//! | the others | a family each |
//!
//! What belongs here: everything that decides what is computed. What does not: weights,
//! buffers, and when something is computed (`forward`).
//!
//! The graphs are llama.cpp's (`src/models/*.cpp`), with transformers' sliding window.

mod builder;
mod decoder;
mod deepseek;
mod dense;
mod encoders;
mod folds;
mod further;
mod gemma;
mod gemma3n;
mod gemma4;
mod gpt_oss;
mod hybrid;
mod keys;
mod kimi_linear;
mod layer_normed;
mod lfm2;
mod llama4;
mod mamba;
mod mamba2;
mod mimo2;
mod minicpm3;
mod mixture;
mod model;
mod openelm;
mod phi3;
mod qwen_delta;
mod qwen_moe;
mod relatives;
mod rotary;
mod t5;
mod vector;

use std::ops::Range;

use qz_kernels::backend::{Activation, Attention, Recurrence, Rotation, Router, Rowwise, Scan};

pub(crate) use builder::{ExpertForm, ExpertKind, LayerBuilder};
pub use folds::{Fold, FoldColumns, FoldSource};
pub use keys::Keys;
pub(crate) use model::Around;
pub use model::ModelGraph;
pub(crate) use rotary::{Rotary, Temperature};
pub(crate) use vector::{Factor, Otherwise, Vector};

use crate::error::Error;
use crate::rules::Role;

/// Makes a model's graph of its metadata.
pub type GraphOf = fn(&Keys<'_>) -> Result<ModelGraph, Error>;

/// What is known of models by `general.architecture`; of others nothing is computed.
pub static GRAPHS: &[(&str, GraphOf)] = &[
    ("llama", decoder::llama),
    ("llama4", llama4::llama4),
    ("qwen2", decoder::qwen),
    ("qwen3", decoder::qwen),
    ("qwen2moe", qwen_moe::qwen2),
    ("qwen3moe", qwen_moe::qwen3),
    ("qwen35", qwen_delta::qwen35),
    ("qwen35moe", qwen_delta::qwen35moe),
    ("qwen3next", qwen_delta::qwen3next),
    ("dots1", mixture::dots1),
    ("glm4moe", mixture::dots1),
    ("ernie4_5-moe", mixture::ernie),
    ("granitemoe", mixture::granite),
    ("hunyuan-moe", mixture::hunyuan),
    ("qwen3vlmoe", qwen_moe::qwen3),
    ("exaone-moe", mixture::exaone),
    ("cohere2moe", mixture::cohere2),
    ("bailingmoe", mixture::bailing),
    ("bailingmoe2", mixture::bailing2),
    ("olmoe", mixture::olmoe),
    ("phimoe", mixture::phimoe),
    ("minimax-m2", mixture::minimax_m2),
    ("lfm2", lfm2::lfm2),
    ("lfm2moe", lfm2::lfm2),
    ("mamba", mamba::mamba),
    ("gemma", gemma::gemma),
    ("gemma2", gemma::gemma2),
    ("gemma3", gemma::gemma3),
    ("gemma4", gemma4::gemma4),
    ("gemma3n", gemma3n::gemma3n),
    ("phi3", phi3::phi3),
    ("gpt-oss", gpt_oss::gpt_oss),
    ("deepseek2", deepseek::deepseek2),
    ("mistral4", deepseek::mistral4),
    ("kimi-linear", kimi_linear::kimi_linear),
    ("mimo2", mimo2::mimo2),
    ("mamba2", mamba2::mamba2),
    ("bert", encoders::bert),
    ("nomic-bert", encoders::nomic_bert),
    ("nomic-bert-moe", encoders::nomic_bert_moe),
    ("jina-bert-v2", encoders::jina_bert_2),
    ("jina-bert-v3", encoders::jina_bert_3),
    ("t5encoder", t5::t5_encoder),
    ("modern-bert", encoders::modern_bert),
    ("eurobert", encoders::eurobert),
    ("gemma-embedding", gemma::gemma_embedding),
    ("smollm3", relatives::smollm3),
    ("seed_oss", relatives::seed_oss),
    ("exaone", relatives::seed_oss),
    ("internlm2", relatives::ernie4_5),
    ("minicpm", relatives::minicpm),
    ("minicpm3", minicpm3::minicpm3),
    ("arcee", relatives::arcee),
    ("apertus", relatives::apertus),
    ("openelm", openelm::openelm),
    ("granite", relatives::granite),
    ("granitehybrid", hybrid::granite),
    ("falcon-h1", hybrid::falcon_h1),
    ("olmo2", relatives::olmo2),
    ("mistral3", relatives::mistral3),
    ("ernie4_5", relatives::ernie4_5),
    ("exaone4", relatives::exaone4),
    ("glm4", relatives::glm4),
    ("hunyuan-dense", relatives::hunyuan),
    ("qwen2vl", decoder::qwen),
    ("qwen3vl", decoder::qwen),
    ("command-r", layer_normed::command_r),
    ("cohere2", layer_normed::cohere2),
    ("stablelm", layer_normed::stablelm),
    ("nemotron", layer_normed::nemotron),
    ("nemotron_h", hybrid::nemotron_h),
    ("nemotron_h_moe", hybrid::nemotron_h),
    ("phi2", layer_normed::phi2),
    ("gptneox", layer_normed::gpt_neox),
    ("gpt2", layer_normed::gpt2),
    ("starcoder", layer_normed::gpt2),
    ("starcoder2", layer_normed::starcoder2),
    ("falcon", layer_normed::falcon),
    ("olmo", layer_normed::olmo),
];

/// Numbers of each token while a layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Register(pub(crate) usize);

impl Register {
    /// The hidden states, which go from layer to layer.
    pub(crate) const HIDDEN: Self = Self(0);
}

/// A group of a layer, counted from 0 in the order in which a layer computes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupIndex(pub usize);

/// A matrix of a layer: of each expert where each has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatrixIndex {
    /// Its group.
    pub group: GroupIndex,
    /// Which of the group's.
    pub member: usize,
}

/// A place inside of a layer where inputs of products are known, and depend on the
/// weights of the stages before it only; counted from 0 in the order of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stage(pub usize);

/// A vector of a layer: a norm's weights, sinks, biases that belong to no product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VectorIndex(pub(crate) usize);

/// A matrix of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it does.
    pub role: Role,
    /// Its rows, of one expert's where each has its own.
    pub rows: usize,
}

/// Matrices of a layer that multiply the same inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearGroup {
    /// The matrices.
    pub members: Vec<Member>,
    /// Their columns: numbers of a row of inputs.
    pub columns: usize,
    /// Experts, or heads, that have matrices of their own. An expert is given some of the
    /// tokens, a head all of them.
    pub experts: Option<usize>,
    /// When the inputs are known.
    pub stage: Stage,
    /// The matrices choose among experts: they are small, and nobody rounds them.
    pub is_router: bool,
    /// The group whose inputs are those of all experts together, each once.
    pub inputs_of_all: Option<GroupIndex>,
    /// The products are added to the hidden states as they are; those of experts, which are
    /// weighed, together.
    pub is_added: bool,
}

/// One thing that a layer computes for all tokens of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Rows as long as the weights, divided by their root mean square and multiplied with
    /// the weights; of so many parts of a row each by its own. Where the weights are not
    /// there, nothing.
    Norm { from: Register, to: Register, weights: VectorIndex, groups: usize, epsilon: f32 },
    /// Parts of rows, each of so many numbers, divided by their root mean square.
    BareNorm { rows: Register, size: usize, epsilon: f32 },
    /// Rows less their mean, divided by their standard deviation, times the weights, with a
    /// bias if the model has it; of so many parts of a row each by its own. Without weights only
    /// the division.
    LayerNorm {
        from: Register,
        to: Register,
        weights: Option<VectorIndex>,
        bias: VectorIndex,
        groups: usize,
        epsilon: f32,
        /// Where the weights are not there, `to` stays as it is.
        is_optional: bool,
    },
    /// The products of a group, with their biases.
    Linear { group: GroupIndex, from: Register, to: Vec<Register> },
    /// Some numbers of each row.
    Columns { from: Register, columns: Range<usize>, to: Register },
    /// Head by head the numbers of all parts, one behind the other; those of a part with one head
    /// are every head's.
    Join { parts: Vec<HeadColumns>, to: Register },
    /// The products of a group that has a matrix of its own for each head.
    Heads { group: GroupIndex, from: HeadColumns, to: Register },
    /// Multiplies each row with the sigmoid of its score.
    Weigh { rows: Register, scores: Register },
    /// Turns pairs of each head's numbers by the angles of a rotary embedding.
    Rotate { rows: Register, rotary: usize, rotation: Rotation },
    /// Attention to what was before.
    Attend(Attend),
    /// What a state space makes of all that was before.
    Scan(ScanStep),
    /// What a recurrence makes of all that was before.
    Recur(RecurStep),
    /// What becomes of each row by itself; a vector comes last among the inputs.
    Rowwise { operation: Rowwise, from: Vec<Register>, vector: Option<VectorIndex>, to: Register },
    /// The gate, times up if there is one, in the gate's place.
    Activate { activation: Activation, gate: Register, up: Option<Register> },
    /// Experts, each with a gate, up and down.
    Experts(Experts),
    /// Adds to a register so many times what another one holds.
    Add { to: Register, from: Register, times: f32 },
    /// Multiplies all numbers of a register.
    Scale { rows: Register, by: Factor },
    /// Leaves rows for later layers.
    Leave { rows: Register, slot: Slot },
    /// What an earlier layer has left.
    Recall { slot: Slot, to: Register },
    /// What the model has for each token in this layer, made of embeddings alone.
    OfToken { to: Register, epsilon: f32 },
    /// The embedding of the token so many positions further on.
    Ahead { to: Register, tokens: usize },
}

/// A place for rows that one layer leaves, and later ones use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot(pub(crate) usize);

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// The root mean square.
    RootMeanSquare,
    /// The standard deviation, after the mean is taken away; with a bias if the model has it.
    Layer,
    /// The same, and it has no weights.
    Bare,
}

/// Some numbers of each head of a register.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeadColumns {
    pub(crate) rows: Register,
    /// Numbers of a head.
    pub(crate) size: usize,
    pub(crate) columns: Range<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attend {
    pub(crate) queries: Register,
    pub(crate) keys: Register,
    pub(crate) values: Register,
    pub(crate) to: Register,
    pub(crate) attention: Attention,
    pub(crate) sinks: Option<VectorIndex>,
    /// Numbers of distances.
    pub(crate) learned: Option<VectorIndex>,
    /// Where keys come from, for messages.
    pub(crate) source: MatrixIndex,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScanStep {
    pub(crate) from: Register,
    pub(crate) to: Register,
    pub(crate) scan: Scan,
    pub(crate) convolution: VectorIndex,
    pub(crate) convolution_bias: VectorIndex,
    pub(crate) time_step: VectorIndex,
    pub(crate) decay: VectorIndex,
    pub(crate) skip: VectorIndex,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RecurStep {
    pub(crate) shape: Recurrence,
    pub(crate) from: Vec<Register>,
    pub(crate) to: Register,
    /// Those that the model has.
    pub(crate) weights: Vec<VectorIndex>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Experts {
    pub(crate) from: Register,
    /// What the router multiplies.
    pub(crate) scored: Register,
    pub(crate) to: Register,
    pub(crate) routing: Router,
    /// What is added when experts are chosen.
    pub(crate) bias: Option<VectorIndex>,
    /// What each expert's weight is multiplied with.
    pub(crate) scale: Option<VectorIndex>,
    pub(crate) router: GroupIndex,
    pub(crate) gate_up: GroupIndex,
    pub(crate) down: GroupIndex,
    pub(crate) activation: Activation,
    /// A token's weight multiplies what its experts are given, not what they make of it.
    pub(crate) weighs_inputs: bool,
}

impl Step {
    /// What it reads, and what it writes; a register that it changes is both.
    fn registers(&self) -> (Vec<Register>, Vec<Register>) {
        match self {
            Self::LayerNorm { from, to, is_optional: true, .. } => (vec![*from, *to], vec![*to]),
            Self::Norm { from, to, .. }
            | Self::LayerNorm { from, to, .. }
            | Self::Columns { from, to, .. } => (vec![*from], vec![*to]),
            Self::Linear { from, to, .. } => (vec![*from], to.clone()),
            Self::Join { parts, to } => (parts.iter().map(|part| part.rows).collect(), vec![*to]),
            Self::Heads { from, to, .. } => (vec![from.rows], vec![*to]),
            Self::Weigh { rows, scores } => (vec![*rows, *scores], vec![*rows]),
            Self::Rotate { rows, .. } | Self::BareNorm { rows, .. } => (vec![*rows], vec![*rows]),
            Self::Attend(own) => (vec![own.queries, own.keys, own.values], vec![own.to]),
            Self::Scan(own) => (vec![own.from], vec![own.to]),
            Self::Recur(own) => (own.from.clone(), vec![own.to]),
            Self::Activate { gate, up, .. } => {
                ([*gate].into_iter().chain(*up).collect(), vec![*gate])
            }
            Self::Experts(own) => (vec![own.from, own.scored], vec![own.to]),
            Self::Rowwise { from, to, .. } => (from.clone(), vec![*to]),
            Self::Scale { rows, .. } => (vec![*rows], vec![*rows]),
            Self::Leave { rows, .. } => (vec![*rows], Vec::new()),
            Self::Recall { to, .. } | Self::OfToken { to, .. } | Self::Ahead { to, .. } => {
                (Vec::new(), vec![*to])
            }
            Self::Add { to, from, .. } => (vec![*to, *from], vec![*to]),
        }
    }

    /// True if it multiplies with matrices.
    fn is_product(&self) -> bool {
        matches!(self, Self::Linear { .. } | Self::Heads { .. } | Self::Experts(_))
    }

    /// True if tokens see each other: the dearest part of a layer, whose result is always
    /// kept.
    fn is_mixer(&self) -> bool {
        matches!(self, Self::Attend(_) | Self::Scan(_) | Self::Recur(_))
    }
}

/// Where a layer can be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// The step that multiplies.
    pub(crate) step: usize,
    /// The last step before it at which there is nothing but the hidden states.
    pub(crate) base: usize,
    /// What is worth keeping there beside the hidden states.
    pub(crate) kept: Vec<Register>,
    /// Tokens have seen each other since `base`.
    pub(crate) is_dear: bool,
}

/// What a layer computes.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerGraph {
    groups: Vec<LinearGroup>,
    vectors: Vec<Vector>,
    /// Numbers of a row of each register.
    widths: Vec<usize>,
    steps: Vec<Step>,
    /// For each step what nobody needs after it.
    dying: Vec<Vec<Register>>,
    /// Roles of which the layer has no tensor: with it, it would compute something else.
    without: Vec<Role>,
    /// Steps before which there is nothing but the hidden states; the end is one of them.
    bases: Vec<usize>,
    /// Of each stage.
    stops: Vec<Stop>,
}

impl LayerGraph {
    /// The groups, in the order in which they are computed.
    pub fn groups(&self) -> &[LinearGroup] {
        &self.groups
    }

    /// The groups with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (GroupIndex, &LinearGroup)> {
        self.groups.iter().enumerate().map(|(number, group)| (GroupIndex(number), group))
    }

    /// A group.
    pub fn group(&self, index: GroupIndex) -> &LinearGroup {
        &self.groups[index.0]
    }

    /// Heads of the keys and values that it caches, if it attends to any.
    pub fn cached_heads(&self) -> Option<usize> {
        self.steps.iter().find_map(|step| match step {
            Step::Attend(own) => Some(own.attention.key_value_heads),
            _ => None,
        })
    }

    /// The stages, in order.
    pub fn stages(&self) -> impl Iterator<Item = Stage> + use<> {
        (0..self.stops.len()).map(Stage)
    }

    /// The matrices of a group.
    pub fn matrices(&self, group: GroupIndex) -> impl Iterator<Item = MatrixIndex> + use<> {
        (0..self.groups[group.0].members.len()).map(move |member| MatrixIndex { group, member })
    }

    /// All matrices that can be rounded, in the order in which they are computed.
    pub fn rounded(&self) -> impl Iterator<Item = MatrixIndex> {
        let groups = self.numbered().filter(|(_, group)| !group.is_router);
        groups.flat_map(|(index, _)| self.matrices(index))
    }

    /// A matrix.
    pub fn member(&self, matrix: MatrixIndex) -> Member {
        self.groups[matrix.group.0].members[matrix.member]
    }

    /// True if tokens attend to a few positions before them only.
    pub fn sees_window(&self) -> bool {
        let is_windowed =
            |step: &Step| matches!(step, Step::Attend(own) if own.attention.window.is_some());
        self.steps.iter().any(is_windowed)
    }

    /// True for a layer that only predicts further tokens.
    pub fn is_further(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Ahead { .. }))
    }

    /// Roles of which the layer must have no tensor.
    pub(crate) fn without(&self) -> &[Role] {
        &self.without
    }

    pub(crate) fn vectors(&self) -> &[Vector] {
        &self.vectors
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(crate) fn registers(&self) -> usize {
        self.widths.len()
    }

    pub(crate) fn width(&self, register: Register) -> usize {
        self.widths[register.0]
    }

    pub(crate) fn stop(&self, stage: Stage) -> &Stop {
        &self.stops[stage.0]
    }

    pub(crate) fn stops(&self) -> &[Stop] {
        &self.stops
    }

    /// What nobody needs after a step.
    pub(crate) fn dying(&self, step: usize) -> &[Register] {
        &self.dying[step]
    }

    /// What the step reads at whose end the products of a group are there.
    pub(crate) fn inputs(&self, group: GroupIndex) -> Register {
        let from = self.steps.iter().find_map(|step| match step {
            Step::Linear { group: own, from, .. } if *own == group => Some(*from),
            Step::Experts(own) if own.down == group => Some(own.from),
            _ => None,
        });
        from.expect("a group whose products a step gives")
    }

    /// The last step up to `step` before which there is nothing but the hidden states.
    pub(crate) fn base(&self, step: usize) -> usize {
        last_up_to(&self.bases, step)
    }

    /// Numbers of a row of everything that is multiplied, what norms make counted once.
    pub(crate) fn token_width(&self) -> usize {
        let is_normed = |register: Register| {
            let made = |step: &Step| match step {
                Step::Norm { to, .. } | Step::LayerNorm { to, .. } => *to == register,
                _ => false,
            };
            self.steps.iter().any(made)
        };
        let width = |step: &Step| match step {
            Step::Linear { from, group, .. } if !is_normed(*from) => self.groups[group.0].columns,
            Step::Heads { from, .. } => self.widths[from.rows.0],
            Step::Experts(own) => self.groups[own.down.0].columns,
            _ => 0,
        };
        self.widths[Register::HIDDEN.0] + self.steps.iter().map(width).sum::<usize>()
    }
}

/// The last of ascending numbers that is not past `most`; 0 if all are.
fn last_up_to(numbers: &[usize], most: usize) -> usize {
    numbers.iter().rev().copied().find(|number| *number <= most).unwrap_or(0)
}
