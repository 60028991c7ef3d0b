//! LFM 2, with and without experts: most layers have a short convolution between two gates in
//! the place of attention.

use qz_kernels::backend::{Activation, Attention, Gating, RotaryPairs, Rotation};

use super::decoder::{self, SelfAttention};
use super::mixture::{self, Mixture};
use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// LFM 2.
pub(super) fn lfm2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const KEY_VALUE_HEADS: &str = "attention.head_count_kv";
    let hidden = keys.required("embedding_length")?;
    let heads = keys.required("attention.head_count")?;
    let epsilon = keys
        .number("attention.layer_norm_rms_epsilon")?
        .ok_or_else(|| keys.fault("attention.layer_norm_rms_epsilon", "is missing"))?;
    let taps = keys.required("shortconv.l_cache")?;
    let layers = keys.computed_layers()?;
    let of_layers = keys.sizes(KEY_VALUE_HEADS, layers)?;
    if of_layers.iter().any(|own| *own > 0 && !heads.is_multiple_of(*own)) {
        return Err(keys.fault(KEY_VALUE_HEADS, "does not divide the heads"));
    }
    if !hidden.is_multiple_of(2 * heads) {
        return Err(keys.fault("attention.head_count", "does not make even heads"));
    }
    let size = hidden / heads;
    // Without the key weights are divided by their sum.
    let mixture = Mixture::read(keys, Gating::Sigmoid)?.map(Mixture::normalized);
    let dense = match &mixture {
        None => layers,
        Some(_) => mixture::dense_layers(keys, true)?,
    };
    let width = if dense > 0 { keys.required("feed_forward_length")? } else { 0 };
    let pairs = RotaryPairs::Halves;
    let rotation = Rotation { head_size: size, first: 0, count: size, pairs };
    let layer = |number: usize| -> LayerGraph {
        let mut layer = LayerBuilder::new(hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, epsilon);
        let mixed = match of_layers[number] {
            0 => convolved(&mut layer, normed, taps),
            own => {
                let attention = SelfAttention {
                    rotary: Some((0, rotation)),
                    norms_heads: true,
                    ..SelfAttention::of(Attention::plain(heads, own, size), epsilon)
                };
                attention.add_to(&mut layer, normed)
            }
        };
        layer.add(mixed);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, epsilon);
        let fed = match mixture.as_ref().filter(|_| number >= dense) {
            None => decoder::gated(&mut layer, normed, width, Activation::Silu),
            Some(mixture) => mixture.add_to(&mut layer, normed),
        };
        layer.add(fed);
        layer.finish()
    };
    Ok(ModelGraph {
        hidden,
        layers: (0..layers).map(layer).collect(),
        rotaries: vec![Rotary::read(keys, size)?],
        around: Around::plain(epsilon),
    })
}

/// Adds a short convolution to a layer: of one product's three parts the first lets the third
/// in, and the second lets the sums out.
fn convolved(layer: &mut LayerBuilder, input: Register, taps: usize) -> Register {
    let hidden = layer.hidden();
    let all = layer.product(input, Role::ShortConvolutionInput, 3 * hidden);
    let part =
        |layer: &mut LayerBuilder, at: usize| layer.columns(all, at * hidden..(at + 1) * hidden);
    let (before, behind, rows) = (part(layer, 0), part(layer, 1), part(layer, 2));
    layer.activate(Activation::Identity, before, rows);
    let sums = layer.convolve(before, Role::ShortConvolution, taps, false);
    layer.activate(Activation::Identity, behind, sums);
    layer.product(behind, Role::ShortConvolutionOutput, hidden)
}
