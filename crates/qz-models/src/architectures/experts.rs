//! Tensors of a mixture of experts, as Qwen and DeepSeek call them.

use serde_json::{Map, Value, json};

use super::decoder::{self, layer_bias, layer_weight};
use crate::architecture::Contradiction;
use crate::hyperparameters::ModelConfig;
use crate::rules::Dimension::{Experts, GateAndUp, Hidden, Intermediate, Number, Product, Size};
use crate::rules::{Columns, Condition, Dimension, LayerIndex, Role, Rows, TensorRule, Transform};
use crate::settings::{GgufKeys, MetadataKey};

/// Width of one expert.
pub(super) const WIDTH_KEY: &str = "moe_intermediate_size";
const WIDTH: Dimension = Size(WIDTH_KEY);
const GATE_AND_UP: Dimension = Product(&[Number(2), WIDTH]);

/// How many layers in front have a network and no experts.
pub(super) const DENSE_KEY: &str = "first_k_dense_replace";
/// The kinds of all layers' networks.
const KINDS_KEY: &str = "mlp_layer_types";
/// Of so many layers, counted from the first of the model, the last has experts.
pub(super) const STEP_KEY: &str = "interleave_moe_layer_step";
/// How many experts of the layer's every token is given to.
pub(super) const SHARED_KEY: &str = "n_shared_experts";
/// Width of these together.
pub(super) const SHARED_WIDTH: Dimension = Product(&[Size(WIDTH_KEY), Size(SHARED_KEY)]);
/// Layers without experts.
pub(super) const DENSE: Condition =
    Condition { key: DENSE_KEY, holds: |config, layer| !is_mixed(config, layer) };
/// Layers with experts.
pub(super) const MIXED: Condition = Condition { key: DENSE_KEY, holds: is_mixed };

fn is_mixed(config: &ModelConfig, layer: LayerIndex) -> bool {
    let (number, step) = (u64::from(layer.0), config.size(STEP_KEY).unwrap_or(1).max(1));
    number >= config.size(DENSE_KEY).unwrap_or(0) && (number + 1).is_multiple_of(step)
}
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
const FUSED_SHAPE: &[Dimension] = &[Experts, GATE_AND_UP, Hidden];
pub(super) const FUSED_GATE: TensorRule = GATE
    .named(FUSED_NAME)
    .shaped(FUSED_SHAPE)
    .transformed(Transform::part(GATE_AND_UP, Number(0), WIDTH));
pub(super) const FUSED_UP: TensorRule = UP
    .named(FUSED_NAME)
    .shaped(FUSED_SHAPE)
    .transformed(Transform::part(GATE_AND_UP, WIDTH, WIDTH));
pub(super) const FUSED_DOWN: TensorRule = DOWN
    .named("model.layers.{layer}.mlp.experts.down_proj")
    .shaped(&[Experts, Hidden, WIDTH])
    .transformed(Transform::KEEP);

/// Experts whose matrices are tensors of their own.
pub(super) const EACH: [TensorRule; 3] = [GATE, UP, DOWN];
/// Experts as transformers 5 has them in memory.
pub(super) const FUSED: [TensorRule; 3] = [FUSED_GATE, FUSED_UP, FUSED_DOWN];
/// Both where experts are as wide as a network would be.
pub(super) const EACH_AS_NETWORK: [TensorRule; 3] = [
    GATE.shaped(&[Intermediate, Hidden]),
    UP.shaped(&[Intermediate, Hidden]),
    DOWN.shaped(&[Hidden, Intermediate]),
];
pub(super) const FUSED_AS_NETWORK: [TensorRule; 3] = [
    FUSED_GATE.shaped(&[Experts, GateAndUp, Hidden]).transformed(Transform::part(
        GateAndUp,
        Number(0),
        Intermediate,
    )),
    FUSED_UP.shaped(&[Experts, GateAndUp, Hidden]).transformed(Transform::part(
        GateAndUp,
        Intermediate,
        Intermediate,
    )),
    FUSED_DOWN.shaped(&[Experts, Hidden, Intermediate]),
];
/// Those in memory with inputs as rows: gate and up projection stand beside each other.
pub(super) const FUSED_BY_INPUT: [TensorRule; 3] = by_input([FUSED_GATE, FUSED_UP, FUSED_DOWN]);

/// Experts in one tensor, with inputs as rows.
pub(super) const fn by_input([gate, up, down]: [TensorRule; 3]) -> [TensorRule; 3] {
    const SHAPE: &[Dimension] = &[Experts, Hidden, GATE_AND_UP];
    [
        gate.shaped(SHAPE).transformed(columns(Number(0))),
        up.shaped(SHAPE).transformed(columns(WIDTH)),
        down.shaped(&[Experts, WIDTH, Hidden]).transformed(Transform::KEEP.transposed()),
    ]
}

/// An expert's columns of two, as rows.
const fn columns(first: Dimension) -> Transform {
    let columns = Columns::Run { first, columns: WIDTH };
    Transform { columns, ..Transform::KEEP }.transposed()
}

/// A router, and experts, of layers that all have some.
pub(super) const fn of_all_layers([gate, up, down]: [TensorRule; 3]) -> [TensorRule; 4] {
    [ROUTER, gate, up, down]
}

/// The network of layers in front, and of those behind them a router, experts, and one that
/// every token is given to: DeepSeek's but for [`BIAS`].
pub(super) const fn behind_dense([gate, up, down]: [TensorRule; 3]) -> [TensorRule; 10] {
    [
        decoder::GATE.only(DENSE),
        decoder::UP.only(DENSE),
        decoder::DOWN.only(DENSE),
        ROUTER.only(MIXED),
        gate.only(MIXED),
        up.only(MIXED),
        down.only(MIXED),
        SHARED_GATES.shaped(&[SHARED_WIDTH, Hidden]).only(HAS_SHARED),
        SHARED_UPS.shaped(&[SHARED_WIDTH, Hidden]).only(HAS_SHARED),
        SHARED_DOWNS.shaped(&[Hidden, SHARED_WIDTH]).only(HAS_SHARED),
    ]
}

/// The same whose experts have gate and up projection in one matrix in files, too.
pub(super) const fn behind_dense_fused() -> [TensorRule; 9] {
    const BOTH: TensorRule = layer_weight!(
        Role::FeedForwardGateUp,
        "mlp.experts.gate_up_proj",
        "ffn_gate_up_exps",
        FUSED_SHAPE
    )
    .named(FUSED_NAME);
    let [gate, up, down, router, _, _, experts_down, shared_gate, shared_up, shared_down] =
        behind_dense(FUSED);
    let both = BOTH.only(MIXED);
    [gate, up, down, router, both, experts_down, shared_gate, shared_up, shared_down]
}

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

/// The same of layers behind some without experts.
pub(super) const BIAS: TensorRule = SELECTION_BIAS.only(MIXED);

/// Width of the experts that every token is given to, together; none if there are none.
pub(super) const SHARED_LENGTH: MetadataKey =
    MetadataKey::computed("expert_shared_feed_forward_length", |config| {
        let count = config.size(SHARED_KEY).filter(|count| *count > 0)?;
        Some(((config.size(WIDTH_KEY)? * count) as u32).into())
    });

/// Counts the layers in front without experts where a configuration lists the kinds of layers.
pub(super) fn fill_dense(config: &mut Map<String, Value>) {
    if config.get(DENSE_KEY).is_some_and(|count| !count.is_null()) {
        return;
    }
    if let Some(Value::Array(kinds)) = config.get(KINDS_KEY) {
        let dense = kinds.iter().take_while(|kind| **kind == "dense").count();
        config.insert(DENSE_KEY.to_owned(), json!(dense));
    }
}

/// Names each layer's kind of network, as transformers 5 does.
pub(super) fn restore_kinds(keys: GgufKeys<'_>, config: &mut Map<String, Value>) {
    let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
    let dense = keys.size("leading_dense_block_count").unwrap_or(0);
    let kinds: Vec<&str> =
        (0..layers).map(|layer| if layer < dense { "dense" } else { "sparse" }).collect();
    config.insert(KINDS_KEY.to_owned(), json!(kinds));
}

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
