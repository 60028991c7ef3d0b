//! Gemma 1 to 3: embeddings times the square root of their width, GELU; from Gemma 2 on
//! norms behind attention and network, and windows on most layers.

use qz_kernels::backend::{Activation, Attention, RotaryPairs};

use super::decoder::{SelfAttention, Sizes, gated};
use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// The window of Gemma 2 where its file states none (`gemma2.cpp` in llama.cpp).
const WINDOW: usize = 4096;
/// The base of the rotary embedding of Gemma 3's windows, likewise.
const WINDOW_BASE: f32 = 10_000.0;

/// Gemma 1.
pub(super) fn gemma(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let plain = attention(keys, &sizes)?;
    let layers = (0..sizes.layers).map(|_| layer(&sizes, &plain, false)).collect();
    model(keys, &sizes, layers, Vec::new())
}

/// Gemma 2: caps on scores and logits, a window on every other layer.
pub(super) fn gemma2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let plain = attention(keys, &sizes)?;
    let window = keys.window()?.or(Some(WINDOW));
    let full = Attention {
        scale: query_scale(&sizes, 46),
        soft_cap: keys.factor("attn_logit_softcapping")?,
        ..plain.attention
    };
    let layers = keys.windowed_layers(sizes.layers, 2)?.into_iter().map(|is_windowed| {
        let window = window.filter(|_| is_windowed);
        let own = SelfAttention { attention: Attention { window, ..full }, ..plain };
        layer(&sizes, &own, true)
    });
    model(keys, &sizes, layers.collect(), Vec::new())
}

/// Gemma 3: norms of queries and keys, a window on five of six layers, whose rotary
/// embedding has another base and no scaling.
pub(super) fn gemma3(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let plain = SelfAttention { norms_heads: true, ..attention(keys, &sizes)? };
    let full = Attention { scale: query_scale(&sizes, 62), ..plain.attention };
    let Some(window) = keys.window()? else {
        let own = SelfAttention { attention: full, ..plain };
        let layers = (0..sizes.layers).map(|_| layer(&sizes, &own, true)).collect();
        return model(keys, &sizes, layers, Vec::new());
    };
    let rotated = sizes.rotated(keys)?;
    let base = keys.factor("rope.freq_base_swa")?.unwrap_or(WINDOW_BASE);
    let rotation = sizes.rotation(rotated, RotaryPairs::Halves);
    let layers = keys.windowed_layers(sizes.layers, 6)?.into_iter().map(|is_windowed| {
        let own = match is_windowed {
            true => SelfAttention {
                attention: Attention { window: Some(window), ..full },
                rotary: Some((1, rotation)),
                ..plain
            },
            false => SelfAttention { attention: full, ..plain },
        };
        layer(&sizes, &own, true)
    });
    model(keys, &sizes, layers.collect(), vec![Rotary::plain(rotated, base)])
}

/// EmbeddingGemma: Gemma 3 whose tokens see both sides, with half of a window on either, and
/// that predicts nothing. Its file does not say so (`gemma-embedding.cpp`).
pub(super) fn gemma_embedding(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    keys.flag("attention.causal")?;
    let sizes = Sizes::read(keys)?;
    let plain = SelfAttention { norms_heads: true, ..attention(keys, &sizes)? };
    let full = Attention { is_causal: false, ..plain.attention };
    let window = Attention { window: Some(keys.required("attention.sliding_window")?), ..full };
    let rotated = sizes.rotated(keys)?;
    let base = keys.factor("rope.freq_base_swa")?.unwrap_or(WINDOW_BASE);
    let turned = Some((1, sizes.rotation(rotated, RotaryPairs::Halves)));
    let layers = keys.windowed_layers(sizes.layers, 6)?.into_iter().map(|is_windowed| {
        let own = match is_windowed {
            true => SelfAttention { attention: window, rotary: turned, ..plain },
            false => SelfAttention { attention: full, ..plain },
        };
        layer(&sizes, &own, true)
    });
    let graph = model(keys, &sizes, layers.collect(), vec![Rotary::plain(rotated, base)])?;
    Ok(ModelGraph { around: Around { predicts: false, ..graph.around }, ..graph })
}

fn attention(keys: &Keys<'_>, sizes: &Sizes) -> Result<SelfAttention, Error> {
    let rotation = sizes.rotation(sizes.rotated(keys)?, RotaryPairs::Halves);
    Ok(SelfAttention { rotary: Some((0, rotation)), ..SelfAttention::plain(sizes) })
}

/// What scores are multiplied with. No key says so: the model of so many layers, which is
/// the largest, goes by the width of its hidden states (`gemma2.cpp`, `gemma3.cpp`).
fn query_scale(sizes: &Sizes, layers_of_largest: usize) -> f32 {
    let size = match sizes.layers == layers_of_largest {
        true => sizes.hidden / sizes.heads,
        false => sizes.head_size,
    };
    1.0 / (size as f32).sqrt()
}

fn layer(sizes: &Sizes, attention: &SelfAttention, is_sandwich: bool) -> LayerGraph {
    let mut layer = LayerBuilder::new(sizes.hidden);
    let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
    let mut attended = attention.add_to(&mut layer, normed);
    if is_sandwich {
        attended = layer.norm(attended, Role::PostAttentionNorm, sizes.epsilon);
    }
    layer.add(attended);
    let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
    let mut fed = gated(&mut layer, normed, sizes.intermediate, Activation::GeluTanh);
    if is_sandwich {
        fed = layer.norm(fed, Role::PostFeedForwardNorm, sizes.epsilon);
    }
    layer.add(fed);
    layer.finish()
}

/// The layers with what is around them; `windows` are rotary embeddings beside the common
/// one.
fn model(
    keys: &Keys<'_>,
    sizes: &Sizes,
    layers: Vec<LayerGraph>,
    windows: Vec<Rotary>,
) -> Result<ModelGraph, Error> {
    let mut rotaries = vec![Rotary::read(keys, sizes.rotated(keys)?)?];
    rotaries.extend(windows);
    let around = Around {
        embedding_scale: Some((sizes.hidden as f32).sqrt()),
        logit_cap: keys.factor("final_logit_softcapping")?,
        ..Around::plain(sizes.epsilon)
    };
    Ok(ModelGraph { hidden: sizes.hidden, layers, rotaries, around })
}
