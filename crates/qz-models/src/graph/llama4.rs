//! Llama 4: of each four layers three turn, and see a chunk of positions; the last sees all, and
//! its queries grow with their position. A token's weight multiplies what its expert is given.

use qz_kernels::backend::{Activation, Attention, Gating, RotaryPairs, Router};

use super::decoder::{self, SelfAttention, Sizes};
use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary, Temperature};
use crate::error::Error;
use crate::rules::Role;

/// Of so many layers the last does not turn.
const PERIOD: usize = 4;
/// What no file says: positions of a chunk, and how queries grow.
const CHUNK: usize = 8192;
const GROWTH: Temperature = Temperature { scale: 0.1, length: 8192, offset: 1 };
/// With so many experts heads are not normed.
const MANY: usize = 128;

pub(super) fn llama4(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let Some((experts, used)) = decoder::experts(keys)? else {
        return Err(keys.fault("expert_count", "is missing"));
    };
    let rotated = sizes.rotated(keys)?;
    if keys.size("attention.sliding_window")?.is_some() {
        return Err(keys.fault("attention.sliding_window", "means that all layers turn"));
    }
    if rotated != sizes.head_size {
        return Err(keys.fault("rope.dimension_count", "is not the size of a head"));
    }
    let width = keys.required("expert_feed_forward_length")?;
    let step = keys.required("interleave_moe_layer_step")?;
    let router =
        Router { gating: Gating::Sigmoid, normalize: false, ..Router::plain(experts, used) };
    let rotary = Rotary::read(keys, rotated)?;
    let rotation = sizes.rotation(rotated, RotaryPairs::Adjacent);
    let base = SelfAttention::plain(&sizes);
    let turning = SelfAttention {
        attention: Attention { chunk: Some(CHUNK), ..base.attention },
        rotary: Some((0, rotation)),
        divides_turned_heads: experts != MANY,
        ..base
    };
    // The second turns by nothing, the third does, and lets queries grow.
    let still = SelfAttention { rotary: Some((1, rotation)), query_rotary: Some(2), ..base };
    let layer = |number: usize| -> LayerGraph {
        let attention = if (number + 1).is_multiple_of(PERIOD) { still } else { turning };
        let mut layer = LayerBuilder::new(sizes.hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let attended = attention.add_to(&mut layer, normed);
        layer.add(attended);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        if !(number + 1).is_multiple_of(step) {
            let fed = decoder::gated(&mut layer, normed, sizes.intermediate, Activation::Silu);
            layer.add(fed);
            return layer.finish();
        }
        let shared = decoder::shared_expert(&mut layer, normed, width);
        let fed = layer.experts_of_weighed(normed, router, width, Activation::Silu);
        layer.add_to(fed, shared);
        layer.add(fed);
        layer.finish()
    };
    let still = Rotary::still(rotated);
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: (0..sizes.layers).map(layer).collect(),
        rotaries: vec![rotary, still.clone(), still.with_temperature(GROWTH)],
        around: Around::plain(sizes.epsilon),
    })
}
