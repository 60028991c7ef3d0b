//! MiMo V2 Flash: layers with a window, which have sinks and more heads of keys, and layers that
//! see all; values shorter than keys, and a factor of what attention gives.

use qz_kernels::backend::{Activation, Attention, Gating, RotaryPairs};

use super::decoder::{self, SelfAttention, Sizes};
use super::further::{Further, Handed};
use super::mixture::Mixture;
use super::{Around, Keys, LayerBuilder, ModelGraph, NormKind, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// MiMo V2 Flash.
pub(super) fn mimo2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const HEADS: &str = "attention.head_count_kv";
    const KINDS: &str = "attention.sliding_window_pattern";
    const BASE: &str = "rope.freq_base_swa";
    let layers = keys.layers()?;
    let computed = keys.computed_layers()?;
    let sizes = Sizes::with_heads(keys, NormKind::RootMeanSquare, None)?;
    let of_layers = keys.sizes(HEADS, layers)?;
    if of_layers.iter().any(|own| *own == 0 || !sizes.heads.is_multiple_of(*own)) {
        return Err(keys.fault(HEADS, "does not divide the heads"));
    }
    let windowed = keys.flags(KINDS, layers)?.ok_or_else(|| keys.fault(KINDS, "is missing"))?;
    // transformers' window, after the published code: so many positions, and the token itself.
    let window = keys.required("attention.sliding_window")? + 1;
    let value_size = keys.required("attention.value_length")?;
    let rotated = sizes.rotated(keys)?;
    let full = Rotary::read(keys, rotated)?;
    let sliding = keys.factor(BASE)?.map_or(full.clone(), |base| Rotary::plain(rotated, base));
    let rotation = sizes.rotation(rotated, RotaryPairs::Halves);
    let times = keys.factor("attention.value_scale")?.unwrap_or(1.0);
    let mixture = Mixture::read(keys, Gating::Sigmoid)?.map(Mixture::normalized);
    let mixture = mixture.ok_or_else(|| keys.fault("expert_count", "is missing"))?;
    let block = |number: usize, layer: &mut LayerBuilder| {
        let (is_windowed, is_further) = (windowed[number], number >= computed);
        let attention = Attention {
            value_size,
            window: is_windowed.then_some(window),
            ..Attention::plain(sizes.heads, of_layers[number], sizes.head_size)
        };
        let attention = SelfAttention {
            rotary: Some((usize::from(is_windowed), rotation)),
            has_sinks: is_windowed && !is_further,
            may_have_sinks: is_further,
            ..SelfAttention::of(attention, sizes.epsilon)
        };
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let attended = attention.add_to(layer, normed);
        // Of values, as transformers has it, the same.
        layer.add_times(attended, times);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let fed = match number == 0 || is_further {
            true => decoder::gated(layer, normed, sizes.intermediate, Activation::Silu),
            false => mixture.add_to(layer, normed),
        };
        layer.add(fed);
    };
    // As llama.cpp's graph has it, and SGLang's worker for several such layers.
    let further = Further { handed: Handed::Plain, ..Further::plain(sizes.epsilon) };
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: further.behind(keys, sizes.hidden, block)?,
        rotaries: vec![full, sliding],
        around: Around::plain(sizes.epsilon),
    })
}
