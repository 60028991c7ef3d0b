//! Layers with Mamba 2's state space, as families call their tensors and sizes.

use crate::rules::{Condition, TensorRule};

/// The sizes of such a layer, by the keys of `config.json`.
macro_rules! sizes {
    ($heads:expr, $head:expr, $groups:expr, $state:expr, $taps:expr) => {
        /// Sizes of a layer with a state space.
        mod sizes {
            #[allow(unused_imports, reason = "names of keys")]
            use super::*;
            use crate::rules::Dimension::{self, Number, Product, Quotient, Size, Sum};

            pub(super) const HEADS: Dimension = Size($heads);
            pub(super) const GROUPS: Dimension = Size($groups);
            pub(super) const TAPS: Dimension = Size($taps);
            /// Width inside the layer.
            pub(super) const INNER: Dimension = Product(&[HEADS, Size($head)]);
            /// Numbers of one group.
            pub(super) const OF_GROUP: Dimension = Quotient(&INNER, &GROUPS);
            /// Numbers that the states of all groups are written with, or read with.
            pub(super) const STATE: Dimension = Product(&[GROUPS, Size($state)]);
            const STATES: Dimension = Product(&[Number(2), STATE]);
            pub(super) const CONVOLVED: Dimension = Sum(&[INNER, STATES]);
            pub(super) const ALL: Dimension = Sum(&[INNER, CONVOLVED, HEADS]);
        }
    };
}

/// The rules of a layer of these sizes, whose tensors' names begin like this; `$bias` is the
/// key that says whether the convolution has one.
macro_rules! mixer {
    ($begin:literal, $bias:literal) => {
        [
            TensorRule::weight(
                Role::StateSpaceInput,
                concat!($begin, "in_proj.weight"),
                "blk.{layer}.ssm_in.weight",
                &[sizes::ALL, Hidden],
            ),
            TensorRule::weight(
                Role::StateSpaceConvolution,
                concat!($begin, "conv1d.weight"),
                "blk.{layer}.ssm_conv1d.weight",
                &[sizes::CONVOLVED, Number(1), sizes::TAPS],
            )
            .reshaped(&[sizes::CONVOLVED, sizes::TAPS]),
            TensorRule::bias(
                Role::StateSpaceConvolution,
                concat!($begin, "conv1d.bias"),
                "blk.{layer}.ssm_conv1d.bias",
                &[sizes::CONVOLVED],
            )
            .when(Presence::WhenTrue($bias)),
            TensorRule::bias(
                Role::StateSpaceTimeStep,
                concat!($begin, "dt_bias"),
                "blk.{layer}.ssm_dt.bias",
                &[sizes::HEADS],
            ),
            TensorRule::weight(
                Role::StateSpaceDecay,
                concat!($begin, "A_log"),
                "blk.{layer}.ssm_a",
                &[sizes::HEADS],
            )
            .changed(ValueChange::NegativeExponential)
            .reshaped(&[sizes::HEADS, Number(1)]),
            TensorRule::weight(
                Role::StateSpaceSkip,
                concat!($begin, "D"),
                "blk.{layer}.ssm_d",
                &[sizes::HEADS],
            )
            .reshaped(&[sizes::HEADS, Number(1)]),
            TensorRule::weight(
                Role::StateSpaceNorm,
                concat!($begin, "norm.weight"),
                "blk.{layer}.ssm_norm.weight",
                &[sizes::INNER],
            )
            .reshaped(&[sizes::GROUPS, sizes::OF_GROUP]),
            TensorRule::weight(
                Role::StateSpaceOutput,
                concat!($begin, "out_proj.weight"),
                "blk.{layer}.ssm_out.weight",
                &[Hidden, sizes::INNER],
            ),
        ]
    };
}

pub(super) use {mixer, sizes};

/// The same rules for layers of which something holds.
pub(super) const fn only<const COUNT: usize>(
    mut rules: [TensorRule; COUNT],
    condition: Condition,
) -> [TensorRule; COUNT] {
    let mut at = 0;
    while at < COUNT {
        rules[at] = rules[at].only(condition);
        at += 1;
    }
    rules
}
