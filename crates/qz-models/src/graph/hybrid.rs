//! Families whose layers have Mamba 2's state space or attention.

use qz_kernels::backend::{Activation, Attention, Gating, RotaryPairs, Rotation, Router, Scan};

use super::decoder::{self, SelfAttention, Sizes};
use super::mixture::Mixture;
use super::{
    Around, ExpertForm, ExpertKind, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary,
    mamba2,
};
use crate::error::Error;
use crate::rules::Role;

/// Granite 4: state spaces, or attention in which nothing turns, and behind either a network,
/// or experts and one that every token is given to.
pub(super) fn granite(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const HEADS: &str = "attention.head_count_kv";
    let hidden = keys.required("embedding_length")?;
    let layers = keys.layers()?;
    let epsilon = keys
        .number("attention.layer_norm_rms_epsilon")?
        .ok_or_else(|| keys.fault("attention.layer_norm_rms_epsilon", "is missing"))?;
    let heads = keys.required("attention.head_count")?;
    let of_layers = keys.sizes(HEADS, layers)?;
    if of_layers.iter().any(|own| *own > 0 && !heads.is_multiple_of(*own)) {
        return Err(keys.fault(HEADS, "does not divide the heads"));
    }
    let implied = hidden / heads;
    let size = keys.size("attention.key_length")?.unwrap_or(implied);
    let rotation =
        Rotation { head_size: size, first: 0, count: size, pairs: RotaryPairs::Adjacent };
    let turns = keys.flag("rope.scaling.finetuned")?.unwrap_or(true);
    if turns && !size.is_multiple_of(2) {
        return Err(keys.fault("attention.head_count", "does not make even heads"));
    }
    let scale = keys.factor("attention.scale")?;
    let residual = keys.factor("residual_scale")?.unwrap_or(1.0);
    let scan = mamba2::scan(keys)?;
    let width = keys.required("feed_forward_length")?;
    let mixture = match decoder::experts(keys)? {
        None => None,
        Some((experts, used)) => {
            let shared = keys.size("expert_shared_feed_forward_length")?.unwrap_or(0);
            Some((Router::plain(experts, used), shared))
        }
    };
    let layer = |own: &usize| -> LayerGraph {
        let mut layer = LayerBuilder::new(hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, epsilon);
        let mixed = match *own {
            0 => mamba2::scanned(&mut layer, normed, scan, epsilon),
            own => {
                let plain = Attention::plain(heads, own, size);
                let attention = Attention { scale: scale.unwrap_or(plain.scale), ..plain };
                let rotary = turns.then_some((0, rotation));
                let attention = SelfAttention { rotary, ..SelfAttention::of(attention, epsilon) };
                attention.add_to(&mut layer, normed)
            }
        };
        layer.add_times(mixed, residual);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, epsilon);
        let fed = match mixture {
            None => decoder::gated(&mut layer, normed, width, Activation::Silu),
            Some((router, shared)) => {
                let common =
                    (shared > 0).then(|| decoder::shared_expert(&mut layer, normed, shared));
                let fed = layer.experts(normed, router, None, width, Activation::Silu);
                if let Some(common) = common {
                    layer.add_to(fed, common);
                }
                fed
            }
        };
        layer.add_times(fed, residual);
        layer.finish()
    };
    let around = Around {
        embedding_scale: keys.factor("embedding_scale")?,
        logit_scale: keys.factor("logit_scale")?.map(f32::recip),
        ..Around::plain(epsilon)
    };
    let layers = of_layers.iter().map(layer).collect();
    let rotaries = if turns { vec![Rotary::read(keys, size)?] } else { Vec::new() };
    Ok(ModelGraph { hidden, layers, rotaries, around })
}

/// Falcon-H1: attention and a state space, which read the same.
pub(super) fn falcon_h1(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let rotated = sizes.rotated(keys)?;
    let scan = mamba2::scan(keys)?;
    let attention = SelfAttention {
        rotary: Some((0, sizes.rotation(rotated, RotaryPairs::Halves))),
        ..SelfAttention::plain(&sizes)
    };
    let layer = |_| -> LayerGraph {
        let mut layer = LayerBuilder::new(sizes.hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let mixed = mamba2::scanned(&mut layer, normed, scan, sizes.epsilon);
        let attended = attention.add_to(&mut layer, normed);
        layer.add(mixed);
        layer.add(attended);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let fed = decoder::gated(&mut layer, normed, sizes.intermediate, Activation::Silu);
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

/// What a layer of Nemotron-H does.
enum Part {
    Scan(Scan),
    Attend(SelfAttention),
    /// A network of so many numbers.
    Feed(usize),
    Mix(LatentMixture),
}

/// Experts without gates, which may multiply a narrow vector.
#[derive(Clone, Copy)]
struct LatentMixture {
    router: Router,
    width: usize,
    shared_width: usize,
    /// Numbers of the narrow vector.
    latent: Option<usize>,
}

/// Nemotron-H and Nemotron 3: each layer does one thing, and nothing turns.
pub(super) fn nemotron_h(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const HEADS: &str = "attention.head_count_kv";
    let hidden = keys.required("embedding_length")?;
    let layers = keys.computed_layers()?;
    let epsilon = match keys.number("attention.layer_norm_rms_epsilon")? {
        Some(epsilon) => epsilon,
        None => keys
            .number("attention.layer_norm_epsilon")?
            .ok_or_else(|| keys.fault("attention.layer_norm_epsilon", "is missing"))?,
    };
    let heads = keys.required("attention.head_count")?;
    let size = keys.required("attention.key_length")?;
    let (of_layers, widths) =
        (keys.sizes(HEADS, layers)?, keys.sizes("feed_forward_length", layers)?);
    if of_layers.iter().any(|own| *own > 0 && !heads.is_multiple_of(*own)) {
        return Err(keys.fault(HEADS, "does not divide the heads"));
    }
    let mixture = LatentMixture::read(keys)?;
    let part = |(own, width): (&usize, &usize)| -> Result<Part, Error> {
        Ok(match (*own, *width, mixture) {
            (0, 0, _) => Part::Scan(mamba2::scan(keys)?),
            (own, 0, _) => {
                let attention = Attention::plain(heads, own, size);
                Part::Attend(SelfAttention::of(attention, epsilon))
            }
            (_, _, Some(mixture)) => Part::Mix(mixture),
            (_, width, None) => Part::Feed(width),
        })
    };
    let parts = of_layers.iter().zip(&widths).map(part).collect::<Result<Vec<_>, Error>>()?;
    let layer = |part: &Part| -> LayerGraph {
        let mut layer = LayerBuilder::new(hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, epsilon);
        let rows = match part {
            Part::Scan(scan) => mamba2::scanned(&mut layer, normed, *scan, epsilon),
            Part::Attend(attention) => attention.add_to(&mut layer, normed),
            Part::Feed(width) => {
                plain(&mut layer, normed, [Role::FeedForwardUp, Role::FeedForwardDown], *width)
            }
            Part::Mix(mixture) => mixture.add_to(&mut layer, normed),
        };
        layer.add(rows);
        layer.finish()
    };
    Ok(ModelGraph {
        hidden,
        layers: parts.iter().map(layer).collect(),
        rotaries: Vec::new(),
        around: Around::plain(epsilon),
    })
}

/// Adds a network without a gate; the products of its last matrix.
fn plain(
    layer: &mut LayerBuilder,
    input: Register,
    [up, down]: [Role; 2],
    width: usize,
) -> Register {
    let rows = layer.product(input, up, width);
    layer.activate_alone(Activation::ReluSquared, rows);
    layer.product(rows, down, layer.hidden())
}

impl LatentMixture {
    fn read(keys: &Keys<'_>) -> Result<Option<Self>, Error> {
        let Some(mixture) = Mixture::read(keys, Gating::Sigmoid)? else { return Ok(None) };
        Ok(Some(Self {
            router: mixture.router,
            width: keys.required("expert_feed_forward_length")?,
            shared_width: keys.required("expert_shared_feed_forward_length")?,
            latent: keys.size("moe_latent_size")?.filter(|size| *size > 0),
        }))
    }

    fn add_to(&self, layer: &mut LayerBuilder, input: Register) -> Register {
        let shared = [Role::SharedExpertUp, Role::SharedExpertDown];
        let shared = plain(layer, input, shared, self.shared_width);
        let given = match self.latent {
            Some(width) => layer.product(input, Role::ExpertsInput, width),
            None => input,
        };
        let (routing, width) = (self.router, self.width);
        let bias = Some(layer.selection_bias(routing.experts));
        let (activation, form) = (Activation::ReluSquared, ExpertForm::Plain);
        let kind = ExpertKind { routing, bias, scale: None, width, activation, form };
        let mut fed = layer.experts_of(given, input, kind);
        if self.latent.is_some() {
            fed = layer.product(fed, Role::ExpertsOutput, layer.hidden());
        }
        layer.add_to(fed, shared);
        fed
    }
}
