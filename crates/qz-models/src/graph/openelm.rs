//! OpenELM: layers with heads and networks of their own sizes.

use qz_kernels::backend::{Activation, RotaryPairs};

use super::decoder::{SelfAttention, Sizes};
use super::dense::{Dense, Network, Wiring};
use super::{Around, Keys, LayerGraph, ModelGraph, NormKind, Rotary};
use crate::error::Error;

/// OpenELM: queries, keys and values of one matrix, norms of each head's queries and keys.
pub(super) fn openelm(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const EPSILON: &str = "attention.layer_norm_rms_epsilon";
    const KEY_VALUE_HEADS: &str = "attention.head_count_kv";
    let layers = keys.layers()?;
    let hidden = keys.required("embedding_length")?;
    let head_size = keys.required("attention.key_length")?;
    if keys.size("attention.value_length")?.is_some_and(|size| size != head_size) {
        return Err(keys.fault("attention.value_length", "differs from the keys' length"));
    }
    let epsilon = keys.number(EPSILON)?.ok_or_else(|| keys.fault(EPSILON, "is missing"))?;
    let heads = keys.sizes("attention.head_count", layers)?;
    let key_value_heads = keys.sizes(KEY_VALUE_HEADS, layers)?;
    let widths = keys.sizes("feed_forward_length", layers)?;
    let fits = |(heads, own): (&usize, &usize)| *own > 0 && heads.is_multiple_of(*own);
    if !heads.iter().zip(&key_value_heads).all(fits) {
        return Err(keys.fault(KEY_VALUE_HEADS, "does not divide the heads"));
    }
    let of_layer = |layer: usize| Sizes {
        layers,
        hidden,
        intermediate: widths[layer],
        heads: heads[layer],
        key_value_heads: key_value_heads[layer],
        head_size,
        epsilon,
    };
    let rotated = of_layer(0).rotated(keys)?;
    let layer = |layer: usize| -> LayerGraph {
        let sizes = of_layer(layer);
        let attention = SelfAttention {
            rotary: Some((0, sizes.rotation(rotated, RotaryPairs::Halves))),
            norms_heads: true,
            is_fused: true,
            ..SelfAttention::plain(&sizes)
        };
        let (norms, network) = (NormKind::RootMeanSquare, Network::Gated(Activation::Silu));
        let dense = Dense { sizes, norms, wiring: Wiring::Before, network, residual: 1.0 };
        dense.layer(&attention)
    };
    Ok(ModelGraph {
        hidden,
        layers: (0..layers).map(layer).collect(),
        rotaries: vec![Rotary::read(keys, rotated)?],
        around: Around::plain(epsilon),
    })
}
