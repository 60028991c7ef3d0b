//! BERT and its successors: encoders, whose tokens see all of their text. There are no logits:
//! what comes of them are the hidden states. Their GELU has the error function, as transformers';
//! llama.cpp's has the hyperbolic tangent.

use qz_kernels::backend::{Activation, Attention, Distances, RotaryPairs, Router};

use super::decoder::{self, SelfAttention};
use super::dense::{Dense, Network, Wiring};
use super::{Around, Keys, ModelGraph, NormKind, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// BERT and RoBERTa: positions have learned vectors, norms follow sums, and the network has no
/// gate.
pub(super) fn bert(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = normed_sums(keys, Network::Plain(Activation::GeluErf))?;
    let attention = seeing(keys, SelfAttention::plain(&dense.sizes))?;
    let around = Around { adds_positions: true, ..behind_sums(&dense) };
    Ok(dense.alike(&attention, Vec::new(), around))
}

/// Nomic's: BERT whose queries and keys turn, with a gate.
pub(super) fn nomic_bert(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = normed_sums(keys, Network::Gated(Activation::Silu))?;
    let turning = dense.attention(keys, RotaryPairs::Halves)?;
    let attention = seeing(keys, SelfAttention { is_fused: true, ..turning })?;
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], behind_sums(&dense)))
}

/// Nomic's with experts in every few layers, which weigh as they are; no gates.
pub(super) fn nomic_bert_moe(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const ACTIVATION: Activation = Activation::GeluErf;
    let dense = normed_sums(keys, Network::Plain(ACTIVATION))?;
    let (experts, used) =
        decoder::experts(keys)?.ok_or_else(|| keys.fault("expert_count", "is missing"))?;
    let router = Router { normalize: false, ..Router::plain(experts, used) };
    let mixed = Dense { network: Network::PlainExperts(router, ACTIVATION), ..dense };
    let period = keys.required("moe_every_n_layers")?;
    let turning = dense.attention(keys, RotaryPairs::Halves)?;
    let attention = seeing(keys, SelfAttention { is_fused: true, ..turning })?;
    let layer = |layer: usize| match layer % period {
        1 => mixed.layer(&attention),
        _ => dense.layer(&attention),
    };
    Ok(ModelGraph {
        hidden: dense.sizes.hidden,
        layers: (0..dense.sizes.layers).map(layer).collect(),
        rotaries: vec![dense.rotary(keys)?],
        around: Around { norm: dense.norms, ..behind_sums(&dense) },
    })
}

/// Jina's of the second generation: BERT whose scores fall with the distance instead of learned
/// positions, and with a gate. Models for code norm queries and keys, which is not computed.
pub(super) fn jina_bert_2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    // Files do not say it.
    const LEAST: f32 = 8.0;
    let dense = normed_sums(keys, Network::GatedTogether(Activation::GeluErf))?;
    let plain = seeing(keys, SelfAttention::plain(&dense.sizes))?;
    let distances = Distances::Slopes { least: LEAST };
    let attention = SelfAttention {
        attention: Attention { distances, ..plain.attention },
        without: &[Role::AttentionQueryNorm, Role::AttentionKeyNorm, Role::AttentionOwnNorm],
        ..plain
    };
    Ok(dense.alike(&attention, Vec::new(), behind_sums(&dense)))
}

/// Jina's of the third generation: BERT whose queries and keys turn.
pub(super) fn jina_bert_3(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = normed_sums(keys, Network::Plain(Activation::GeluErf))?;
    let turning = dense.attention(keys, RotaryPairs::Halves)?;
    let attention = seeing(keys, SelfAttention { is_fused: true, ..turning })?;
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], behind_sums(&dense)))
}

/// ModernBERT: norms stand in front, but for the first layer's attention, which the norm of the
/// embeddings precedes. Of each few layers the first sees all positions, the others see a
/// window, and turn by another base.
pub(super) fn modern_bert(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const PERIOD: usize = 3;
    let activation = match keys.text("hidden_activation").unwrap_or("gelu") {
        "gelu" => Activation::GeluErf,
        "silu" => Activation::Silu,
        _ => return Err(keys.fault("hidden_activation", "is neither gelu nor silu")),
    };
    let network = Network::GatedTogether(activation);
    let dense = Dense { network, ..Dense::with_norms(keys, NormKind::Layer)? };
    let turning = dense.attention(keys, RotaryPairs::Halves)?;
    let full = seeing(keys, SelfAttention { is_fused: true, ..turning })?;
    let rotary = dense.rotary(keys)?;
    let base = match keys.factor("rope.freq_base_swa")? {
        Some(base) => base,
        None => keys.factor("rope.freq_base")?.unwrap_or(10_000.0),
    };
    let windowed = SelfAttention {
        attention: Attention { window: keys.window()?, ..full.attention },
        rotary: full.rotary.map(|(_, rotation)| (1, rotation)),
        ..full
    };
    let windows = keys.windowed_after_first(dense.sizes.layers, PERIOD)?;
    let first = Dense { wiring: Wiring::BeforeNetwork, ..dense };
    let layers = windows.iter().enumerate().map(|(layer, is_windowed)| {
        let attention = if *is_windowed { windowed } else { full };
        if layer == 0 { first.layer(&attention) } else { dense.layer(&attention) }
    });
    Ok(ModelGraph {
        hidden: dense.sizes.hidden,
        layers: layers.collect(),
        rotaries: vec![rotary, Rotary::plain(dense.sizes.rotated(keys)?, base)],
        around: Around {
            norm: dense.norms,
            first_epsilon: Some(dense.sizes.epsilon),
            predicts: false,
            ..dense.around()
        },
    })
}

/// EuroBERT: Llama with pairs of another kind, whose tokens see both sides.
pub(super) fn eurobert(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = Dense::read(keys)?;
    let attention = seeing(keys, dense.attention(keys, RotaryPairs::Halves)?)?;
    let around = Around { predicts: false, ..dense.around() };
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], around))
}

/// Layers whose norms are of sums.
fn normed_sums(keys: &Keys<'_>, network: Network) -> Result<Dense, Error> {
    let dense = Dense::with_norms(keys, NormKind::Layer)?;
    Ok(Dense { wiring: Wiring::OfSums, network, ..dense })
}

/// Before such layers there is a norm, too, and behind them none.
fn behind_sums(dense: &Dense) -> Around {
    Around {
        adds_kind: true,
        first_epsilon: Some(dense.sizes.epsilon),
        epsilon: None,
        predicts: false,
        ..dense.around()
    }
}

/// Attention to what the file says tokens see.
fn seeing(keys: &Keys<'_>, own: SelfAttention) -> Result<SelfAttention, Error> {
    let is_causal = keys.flag("attention.causal")?.unwrap_or(true);
    Ok(SelfAttention { attention: Attention { is_causal, ..own.attention }, ..own })
}
