//! Tensors of a mixture of experts, as Qwen and DeepSeek call them.

use super::decoder::{layer_bias, layer_weight};
use crate::architecture::Contradiction;
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Experts, Hidden, Number, Product, Size};
use crate::rules::{Condition, Dimension, Role, Rows, TensorRule, Transform};

/// Width of one expert.
pub(super) const WIDTH_KEY: &str = "moe_intermediate_size";
const WIDTH: Dimension = Size(WIDTH_KEY);
const GATE_AND_UP: Dimension = Product(&[Number(2), WIDTH]);

/// How many layers in front have a network and no experts.
pub(super) const DENSE_KEY: &str = "first_k_dense_replace";
/// How many experts of the layer's every token is given to.
pub(super) const SHARED_KEY: &str = "n_shared_experts";
/// Width of these together.
pub(super) const SHARED_WIDTH: Dimension = Product(&[Size(WIDTH_KEY), Size(SHARED_KEY)]);
/// Layers in front, which have no experts.
pub(super) const DENSE: Condition = Condition {
    key: DENSE_KEY,
    holds: |config, layer| u64::from(layer.0) < config.size(DENSE_KEY).unwrap_or(0),
};
/// The layers behind them.
pub(super) const MIXED: Condition = Condition {
    key: DENSE_KEY,
    holds: |config, layer| u64::from(layer.0) >= config.size(DENSE_KEY).unwrap_or(0),
};
/// Those of them that have experts for every token.
pub(super) const HAS_SHARED: Condition = Condition {
    key: SHARED_KEY,
    holds: |config, layer| {
        (MIXED.holds)(config, layer) && config.size(SHARED_KEY).is_some_and(|count| count > 0)
    },
};

const STACKED: Transform = Transform::rows(Rows::StackExperts);

pub(super) const ROUTER: TensorRule =
    layer_weight!(Role::ExpertRouter, "mlp.gate", "ffn_gate_inp", &[Experts, Hidden]);
pub(super) const GATE: TensorRule = layer_weight!(
    Role::FeedForwardGate,
    "mlp.experts.{expert}.gate_proj",
    "ffn_gate_exps",
    &[WIDTH, Hidden]
)
.transformed(STACKED);
pub(super) const UP: TensorRule = layer_weight!(
    Role::FeedForwardUp,
    "mlp.experts.{expert}.up_proj",
    "ffn_up_exps",
    &[WIDTH, Hidden]
)
.transformed(STACKED);
pub(super) const DOWN: TensorRule = layer_weight!(
    Role::FeedForwardDown,
    "mlp.experts.{expert}.down_proj",
    "ffn_down_exps",
    &[Hidden, WIDTH]
)
.transformed(STACKED);

// All experts in one tensor, each with the rows of its gate before those of its up
// projection: transformers 5's modules as they are in memory.
const FUSED_NAME: &str = "model.layers.{layer}.mlp.experts.gate_up_proj";
const FUSED: &[Dimension] = &[Experts, GATE_AND_UP, Hidden];
pub(super) const FUSED_GATE: TensorRule = GATE
    .named(FUSED_NAME)
    .shaped(FUSED)
    .transformed(Transform::part(GATE_AND_UP, Number(0), WIDTH));
pub(super) const FUSED_UP: TensorRule =
    UP.named(FUSED_NAME).shaped(FUSED).transformed(Transform::part(GATE_AND_UP, WIDTH, WIDTH));
pub(super) const FUSED_DOWN: TensorRule = DOWN
    .named("model.layers.{layer}.mlp.experts.down_proj")
    .shaped(&[Experts, Hidden, WIDTH])
    .transformed(Transform::KEEP);

/// An expert that every token is given to, as Qwen calls it. Families with such an expert
/// say how wide it is.
pub(super) const SHARED_GATE: TensorRule =
    layer_weight!(Role::SharedExpertGate, "mlp.shared_expert.gate_proj", "ffn_gate_shexp", &[]);
pub(super) const SHARED_UP: TensorRule =
    layer_weight!(Role::SharedExpertUp, "mlp.shared_expert.up_proj", "ffn_up_shexp", &[]);
pub(super) const SHARED_DOWN: TensorRule =
    layer_weight!(Role::SharedExpertDown, "mlp.shared_expert.down_proj", "ffn_down_shexp", &[]);
/// The same of several such experts in one, as DeepSeek calls them.
pub(super) const SHARED_GATES: TensorRule =
    layer_weight!(Role::SharedExpertGate, "mlp.shared_experts.gate_proj", "ffn_gate_shexp", &[]);
pub(super) const SHARED_UPS: TensorRule =
    layer_weight!(Role::SharedExpertUp, "mlp.shared_experts.up_proj", "ffn_up_shexp", &[]);
pub(super) const SHARED_DOWNS: TensorRule =
    layer_weight!(Role::SharedExpertDown, "mlp.shared_experts.down_proj", "ffn_down_shexp", &[]);
/// What the shared expert is weighed by.
pub(super) const SHARED_ROUTER: TensorRule = layer_weight!(
    Role::SharedExpertRouter,
    "mlp.shared_expert_gate",
    "ffn_gate_inp_shexp",
    &[Number(1), Hidden]
);

/// What is added to an expert's score when experts are chosen.
pub(super) const SELECTION_BIAS: TensorRule = layer_bias!(
    Role::ExpertSelectionBias,
    "mlp.gate.e_score_correction",
    "exp_probs_b",
    &[Experts]
)
.named("model.layers.{layer}.mlp.gate.e_score_correction_bias");

/// Groups that experts do not fill, or that have fewer than a token is given to.
pub(super) fn wrong_groups(config: &ModelConfig) -> Option<Contradiction> {
    let say = |key, problem| Some(Contradiction { key, problem });
    let (Some(groups), Some(experts)) = (config.size("n_group"), config.experts) else {
        return None;
    };
    if groups == 0 || !experts.is_multiple_of(groups) {
        return say("n_group", format!("is {groups}, which does not divide {experts} experts"));
    }
    let used = config.size("topk_group").unwrap_or(groups);
    if used == 0 || used > groups {
        return say("topk_group", format!("is {used} of {groups} groups"));
    }
    let chosen = config.experts_used.unwrap_or(0);
    let within = used * (experts / groups);
    (chosen > within).then(|| Contradiction {
        key: "num_experts_per_tok",
        problem: format!("is {chosen}, but {used} groups have {within} experts"),
    })
}
