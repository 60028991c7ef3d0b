//! BERT: an encoder. Positions have learned vectors, tokens see all of their text, norms
//! follow sums, and the network has no gate. There are no logits: what comes of it are the
//! hidden states.

use qz_kernels::backend::{Activation, Attention};

use super::decoder::SelfAttention;
use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register};
use crate::error::Error;
use crate::rules::Role;

/// BERT. Its activation has the error function, as transformers'; llama.cpp's has the
/// hyperbolic tangent.
pub(super) fn bert(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let hidden = keys.required("embedding_length")?;
    let heads = keys.required("attention.head_count")?;
    if !hidden.is_multiple_of(heads) {
        return Err(keys.fault("attention.head_count", "does not divide embedding_length"));
    }
    let width = keys.required("feed_forward_length")?;
    let epsilon = keys
        .number("attention.layer_norm_epsilon")?
        .ok_or_else(|| keys.fault("attention.layer_norm_epsilon", "is missing"))?;
    let is_causal = keys.flag("attention.causal")?.unwrap_or(true);
    let attention = Attention { is_causal, ..Attention::plain(heads, heads, hidden / heads) };
    let attention = SelfAttention::of(attention, epsilon);
    let layer = |_| -> LayerGraph {
        let mut layer = LayerBuilder::new(hidden);
        let attended = attention.add_to(&mut layer, Register::HIDDEN);
        layer.add(attended);
        layer.layer_norm(Register::HIDDEN, Role::AttentionSumNorm, epsilon);
        let fed = layer.product(Register::HIDDEN, Role::FeedForwardUp, width);
        layer.activate_alone(Activation::GeluErf, fed);
        let fed = layer.product(fed, Role::FeedForwardDown, hidden);
        layer.add(fed);
        layer.layer_norm(Register::HIDDEN, Role::FeedForwardSumNorm, epsilon);
        layer.finish()
    };
    let around = Around { sum_epsilon: Some(epsilon), epsilon: None, ..Around::plain(epsilon) };
    let layers = (0..keys.layers()?).map(layer).collect();
    Ok(ModelGraph { hidden, layers, rotaries: Vec::new(), around })
}
