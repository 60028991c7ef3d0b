//! Qwen 2 and 3 with experts: Qwen 2 has one beside them that every token is given to.

use qz_kernels::backend::{Activation, RotaryPairs, Router};

use super::decoder::{self, SelfAttention, Sizes};
use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// Qwen 2 with experts. Their weights are not divided by their sum; what the shared expert
/// gives is weighed by a sigmoid.
pub(super) fn qwen2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let shared = keys.required("expert_shared_feed_forward_length")?;
    model(keys, Some(shared))
}

/// Qwen 3 with experts.
pub(super) fn qwen3(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    model(keys, None)
}

fn model(keys: &Keys<'_>, shared: Option<usize>) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let rotated = sizes.rotated(keys)?;
    let Some((experts, used)) = decoder::experts(keys)? else {
        return Err(keys.fault("expert_count", "is missing"));
    };
    let width = keys.required("expert_feed_forward_length")?;
    let attention = SelfAttention {
        rotary: Some((0, sizes.rotation(rotated, RotaryPairs::Halves))),
        norms_heads: true,
        ..SelfAttention::plain(&sizes)
    };
    let scale = keys.factor("expert_weights_scale")?.unwrap_or(1.0);
    let router = Router { normalize: shared.is_none(), scale, ..Router::plain(experts, used) };
    let layer = |_| -> LayerGraph {
        let mut layer = LayerBuilder::new(sizes.hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let attended = attention.add_to(&mut layer, normed);
        layer.add(attended);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let common = shared.map(|width| {
            let fed = decoder::shared_expert(&mut layer, normed, width);
            let score = layer.product(normed, Role::SharedExpertRouter, 1);
            layer.weigh(fed, score);
            fed
        });
        let fed = layer.experts(normed, router, None, width, Activation::Silu);
        if let Some(common) = common {
            layer.add_to(fed, common);
        }
        layer.add(fed);
        layer.finish()
    };
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: (0..sizes.layers).map(layer).collect(),
        rotaries: vec![Rotary::read(keys, rotated)?],
        around: Around::plain(sizes.epsilon),
    })
}
