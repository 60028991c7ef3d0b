//! gpt-oss: sinks beside each head's scores, a window on every other layer, experts with
//! biases and a gate that is clamped.

use qz_kernels::backend::{Activation, Attention, Gating, RotaryPairs, Router};

use super::decoder::{self, SelfAttention, Sizes};
use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// gpt-oss.
pub(super) fn gpt_oss(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let rotated = sizes.rotated(keys)?;
    let Some((experts, used)) = decoder::experts(keys)? else {
        return Err(keys.fault("expert_count", "is missing"));
    };
    let width = keys.size("expert_feed_forward_length")?.unwrap_or(sizes.intermediate);
    let window = keys.window()?;
    let plain = SelfAttention {
        rotary: Some((0, sizes.rotation(rotated, RotaryPairs::Halves))),
        has_sinks: true,
        ..SelfAttention::plain(&sizes)
    };
    let router = Router {
        gating: Gating::SoftmaxOfChosen,
        normalize: false,
        ..Router::plain(experts, used)
    };
    let layer = |is_windowed: bool| -> LayerGraph {
        let window = window.filter(|_| is_windowed);
        let attention =
            SelfAttention { attention: Attention { window, ..plain.attention }, ..plain };
        let mut layer = LayerBuilder::new(sizes.hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let attended = attention.add_to(&mut layer, normed);
        layer.add(attended);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let fed = layer.experts(normed, router, None, width, Activation::ClampedSilu);
        layer.add(fed);
        layer.finish()
    };
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: keys.windowed_layers(sizes.layers, 2)?.into_iter().map(layer).collect(),
        rotaries: vec![Rotary::read(keys, rotated)?],
        around: Around::plain(sizes.epsilon),
    })
}
