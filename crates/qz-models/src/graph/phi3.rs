//! Phi 3 and 4: queries, keys and values from one matrix, gate and up from another, a part
//! of each head that does not turn, and frequencies that depend on the text's length.

use qz_kernels::backend::{Activation, Attention, RotaryPairs};

use super::decoder::{SelfAttention, Sizes};
use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// Phi 3 and 4. transformers' sliding window is computed; llama.cpp leaves it out.
pub(super) fn phi3(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let rotated = sizes.rotated(keys)?;
    let plain = SelfAttention::plain(&sizes);
    let attention = SelfAttention {
        attention: Attention { window: keys.window()?, ..plain.attention },
        rotary: Some((0, sizes.rotation(rotated, RotaryPairs::Halves))),
        is_fused: true,
        ..plain
    };
    let layer = |_| -> LayerGraph {
        let mut layer = LayerBuilder::new(sizes.hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let attended = attention.add_to(&mut layer, normed);
        layer.add(attended);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let width = sizes.intermediate;
        let both = layer.product(normed, Role::FeedForwardGateUp, 2 * width);
        let (gate, up) = (layer.columns(both, 0..width), layer.columns(both, width..2 * width));
        layer.activate(Activation::Silu, gate, up);
        let fed = layer.product(gate, Role::FeedForwardDown, sizes.hidden);
        layer.add(fed);
        layer.finish()
    };
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: (0..sizes.layers).map(layer).collect(),
        rotaries: vec![Rotary::read(keys, rotated)?.by_length(keys)?],
        around: Around::plain(sizes.epsilon),
    })
}
