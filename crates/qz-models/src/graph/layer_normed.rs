//! Decoders whose norms take the mean away. Many of them compute attention and network from
//! the same, and have networks without a gate.

use qz_kernels::backend::{Activation, Attention, RotaryPairs};

use super::decoder::SelfAttention;
use super::dense::{Dense, Network, Wiring};
use super::{Around, Keys, ModelGraph, NormKind};
use crate::error::Error;

/// Command R: attention beside the network, and a factor on logits; larger models norm heads.
pub(super) fn command_r(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = cohere(keys)?;
    let plain = dense.attention(keys, RotaryPairs::Adjacent)?;
    let attention = SelfAttention { norms_heads_apart: true, ..plain };
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], scaled(keys, &dense)?))
}

/// Command R7B: the same with windows on three of four layers, which alone turn.
pub(super) fn cohere2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const PERIOD: usize = 4;
    let dense = cohere(keys)?;
    let turning = dense.attention(keys, RotaryPairs::Adjacent)?;
    let window = keys.window()?;
    let attention = Attention { window, ..turning.attention };
    let windowed = SelfAttention { attention, ..turning };
    let full = SelfAttention { rotary: None, ..turning };
    let windows = keys.windowed_layers(dense.sizes.layers, PERIOD)?;
    let attention = |layer: usize| if windows[layer] { windowed } else { full };
    Ok(dense.model(attention, vec![dense.rotary(keys)?], scaled(keys, &dense)?))
}

fn cohere(keys: &Keys<'_>) -> Result<Dense, Error> {
    Ok(Dense { wiring: Wiring::Beside, ..Dense::with_norms(keys, NormKind::Layer)? })
}

fn scaled(keys: &Keys<'_>, dense: &Dense) -> Result<Around, Error> {
    Ok(Around { logit_scale: keys.factor("logit_scale")?, ..dense.around() })
}

/// StableLM: heads that turn in part; some compute attention beside the network, and norm heads.
pub(super) fn stablelm(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let is_parallel = keys.flag("use_parallel_residual")?.unwrap_or(false);
    let wiring = if is_parallel { Wiring::Beside } else { Wiring::Before };
    let dense = Dense { wiring, ..Dense::with_norms(keys, NormKind::Layer)? };
    let plain = dense.attention(keys, RotaryPairs::Halves)?;
    let attention = SelfAttention { norms_heads_apart: true, ..plain };
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// Nemotron 3 and 4: a network without a gate, heads that turn in part.
pub(super) fn nemotron(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let network = Network::Plain(Activation::ReluSquared);
    let dense = Dense { network, ..Dense::with_norms(keys, NormKind::Layer)? };
    let attention = dense.attention(keys, RotaryPairs::Halves)?;
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// Phi 1 and 2: attention beside the network, heads that turn in part.
pub(super) fn phi2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let network = Network::Plain(Activation::GeluTanh);
    let dense = Dense::with_norms(keys, NormKind::Layer)?;
    let dense = Dense { wiring: Wiring::Beside, network, ..dense };
    let attention = dense.attention(keys, RotaryPairs::Halves)?;
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// GPT-NeoX: attention and network each with a norm of the layer's input, or one behind the
/// other; queries, keys and values of one matrix.
pub(super) fn gpt_neox(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let network = Network::Plain(Activation::GeluErf);
    let is_parallel = keys.flag("use_parallel_residual")?.unwrap_or(true);
    let wiring = if is_parallel { Wiring::BesideApart } else { Wiring::Before };
    let dense = Dense { wiring, network, ..Dense::with_norms(keys, NormKind::Layer)? };
    let plain = dense.attention(keys, RotaryPairs::Halves)?;
    let attention = SelfAttention { is_fused: true, ..plain };
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// GPT-2, and StarCoder with one key and one value for all heads: positions have vectors,
/// nothing turns.
pub(super) fn gpt2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let network = Network::Plain(Activation::GeluTanh);
    let dense = Dense { network, ..Dense::with_norms(keys, NormKind::Layer)? };
    let attention = SelfAttention { is_fused: true, ..SelfAttention::plain(&dense.sizes) };
    let around = Around { adds_positions: true, ..dense.around() };
    Ok(dense.alike(&attention, Vec::new(), around))
}

/// StarCoder 2: a network without a gate. transformers' sliding window is computed; llama.cpp
/// leaves it out.
pub(super) fn starcoder2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let network = Network::Plain(Activation::GeluTanh);
    let dense = Dense { network, ..Dense::with_norms(keys, NormKind::Layer)? };
    let plain = dense.attention(keys, RotaryPairs::Halves)?;
    let window = keys.window()?;
    let attention = SelfAttention { attention: Attention { window, ..plain.attention }, ..plain };
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// Falcon: attention beside the network; larger models have a norm for each.
pub(super) fn falcon(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let network = Network::Plain(Activation::GeluErf);
    let wiring = Wiring::BesidePossiblyApart;
    let dense = Dense { wiring, network, ..Dense::with_norms(keys, NormKind::Layer)? };
    let plain = dense.attention(keys, RotaryPairs::Halves)?;
    let attention = SelfAttention { is_fused: true, ..plain };
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// OLMo 1: norms without weights.
pub(super) fn olmo(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = Dense::with_norms(keys, NormKind::Bare)?;
    let attention = dense.attention(keys, RotaryPairs::Adjacent)?;
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}
