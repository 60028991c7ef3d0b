//! Decoders that are Llama's but for a few things: where norms stand, which layers turn or see
//! a window, factors, the network.

use qz_kernels::backend::{Activation, Attention, RotaryPairs, Xielu};

use super::decoder::SelfAttention;
use super::dense::{Dense, Network, Wiring};
use super::{Around, Keys, ModelGraph, Rotary, Temperature};
use crate::error::Error;

/// SmolLM 3: of each four layers the last does not turn.
pub(super) fn smollm3(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const PERIOD: usize = 4;
    let dense = Dense::read(keys)?;
    let turning = dense.attention(keys, RotaryPairs::Adjacent)?;
    let still = SelfAttention { rotary: None, ..turning };
    let attention = |layer: usize| if (layer + 1).is_multiple_of(PERIOD) { still } else { turning };
    Ok(dense.model(attention, vec![dense.rotary(keys)?], dense.around()))
}

/// Seed-OSS and EXAONE 3: Llama with pairs of another kind, and in the former biases.
pub(super) fn seed_oss(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = Dense::read(keys)?;
    let attention = dense.attention(keys, RotaryPairs::Halves)?;
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// ERNIE 4.5 and InternLM 2: Llama.
pub(super) fn ernie4_5(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = Dense::read(keys)?;
    let attention = dense.attention(keys, RotaryPairs::Adjacent)?;
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// Arcee: a network without a gate.
pub(super) fn arcee(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let network = Network::Plain(Activation::ReluSquared);
    let dense = Dense { network, ..Dense::read(keys)? };
    let attention = dense.attention(keys, RotaryPairs::Adjacent)?;
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// Apertus: norms of each head's queries and keys, and a network without a gate whose activation
/// has numbers of its own in each layer.
pub(super) fn apertus(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = Dense::read(keys)?;
    let (layers, plain) = (dense.sizes.layers, dense.attention(keys, RotaryPairs::Halves)?);
    let attention = SelfAttention { norms_heads: true, ..plain };
    let numbers = |key: &str| keys.numbers(key, layers);
    let (above, below) = (numbers("xielu.alpha_p")?, numbers("xielu.alpha_n")?);
    let (slopes, limits) = (numbers("xielu.beta")?, numbers("xielu.eps")?);
    let layer = |layer: usize| {
        let slope = slopes[layer];
        let network = Network::Plain(Activation::Xielu(Xielu {
            above: softplus(above[layer]),
            below: slope + softplus(below[layer]),
            slope,
            limit: limits[layer],
        }));
        Dense { network, ..dense }.layer(&attention)
    };
    let layers = (0..layers).map(layer).collect();
    let (rotaries, around) = (vec![dense.rotary(keys)?], dense.around());
    Ok(ModelGraph { hidden: dense.sizes.hidden, layers, rotaries, around })
}

fn softplus(x: f32) -> f32 {
    // Past 20 nothing is left of the logarithm (`ggml_compute_softplus_f32`).
    if x > 20.0 { x } else { libm::log1pf(libm::expf(x)) }
}

/// Granite: factors on embeddings, scores, sums and logits.
pub(super) fn granite(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let factors = GraniteFactors::read(keys)?;
    let dense = Dense { residual: factors.residual, ..Dense::read(keys)? };
    let attention = factors.attention(dense.attention(keys, RotaryPairs::Adjacent)?);
    let around = factors.around(dense.around());
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], around))
}

/// MiniCPM: factors on embeddings, sums and logits. Files without them are older than the keys;
/// what llama.cpp takes then is not what their models compute.
pub(super) fn minicpm(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let factor = |key: &str| keys.factor(key)?.ok_or_else(|| keys.fault(key, "is missing"));
    let (embeddings, logits) = (factor("embedding_scale")?, factor("logit_scale")?);
    let dense = Dense { residual: factor("residual_scale")?, ..Dense::read(keys)? };
    let attention = dense.attention(keys, RotaryPairs::Adjacent)?;
    let rotary = Rotary::read_long(keys, dense.sizes.rotated(keys)?)?;
    let around = Around {
        embedding_scale: Some(embeddings),
        logit_scale: Some(logits.recip()),
        ..dense.around()
    };
    Ok(dense.alike(&attention, vec![rotary], around))
}

/// Granite's factors.
pub(super) struct GraniteFactors {
    pub(super) residual: f32,
    scores: Option<f32>,
    embeddings: Option<f32>,
    logits: Option<f32>,
    turns: bool,
}

impl GraniteFactors {
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        Ok(Self {
            residual: keys.factor("residual_scale")?.unwrap_or(1.0),
            scores: keys.factor("attention.scale")?,
            embeddings: keys.factor("embedding_scale")?,
            logits: keys.factor("logit_scale")?.map(f32::recip),
            turns: keys.flag("rope.scaling.finetuned")?.unwrap_or(true),
        })
    }

    /// Attention with them.
    pub(super) fn attention(&self, plain: SelfAttention) -> SelfAttention {
        let scale = self.scores.unwrap_or(plain.attention.scale);
        SelfAttention {
            attention: Attention { scale, ..plain.attention },
            rotary: plain.rotary.filter(|_| self.turns),
            ..plain
        }
    }

    /// What is before and behind the layers with them.
    pub(super) fn around(&self, plain: Around) -> Around {
        Around { embedding_scale: self.embeddings, logit_scale: self.logits, ..plain }
    }
}

/// OLMo 2 and 3: norms behind attention and network only, and of all heads' queries and keys
/// together. OLMo 3 has windows on three of four layers, whose frequencies are not scaled.
pub(super) fn olmo2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const PERIOD: usize = 4;
    let dense = Dense { wiring: Wiring::Behind, ..Dense::read(keys)? };
    let full = SelfAttention { norms_rows: true, ..dense.attention(keys, RotaryPairs::Halves)? };
    let rotary = dense.rotary(keys)?;
    let Some(window) = keys.window()? else {
        return Ok(dense.alike(&full, vec![rotary], dense.around()));
    };
    let base = match keys.factor("rope.freq_base_swa")? {
        Some(base) => base,
        None => keys.factor("rope.freq_base")?.unwrap_or(10_000.0),
    };
    let plain = Rotary::plain(dense.sizes.rotated(keys)?, base);
    let windowed = SelfAttention {
        attention: Attention { window: Some(window), ..full.attention },
        rotary: full.rotary.map(|(_, rotation)| (1, rotation)),
        ..full
    };
    let windows = keys.windowed_layers(dense.sizes.layers, PERIOD)?;
    let attention = |layer: usize| if windows[layer] { windowed } else { full };
    Ok(dense.model(attention, vec![rotary, plain], dense.around()))
}

/// Mistral 3 and Ministral 3: queries that grow with their position.
pub(super) fn mistral3(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = Dense::read(keys)?;
    let plain = dense.attention(keys, RotaryPairs::Adjacent)?;
    let window = keys.window()?;
    let mut attention =
        SelfAttention { attention: Attention { window, ..plain.attention }, ..plain };
    let mut rotary = dense.rotary(keys)?;
    if let Some(growth) = keys.factor("rope.scaling.yarn_log_multiplier")? {
        let factor = keys.number("rope.scaling.factor")?.unwrap_or(1.0);
        let stretched =
            |by: f32| if factor <= 1.0 { 1.0 } else { 0.1 * by * libm::logf(factor) + 1.0 };
        rotary = rotary.with_magnitude(stretched(1.0) / stretched(growth));
    }
    let mut rotaries = vec![rotary.clone()];
    if let Some(scale) = keys.factor("attention.temperature_scale")? {
        if dense.sizes.rotated(keys)? != dense.sizes.head_size {
            let problem = "with heads that turn in part is not supported";
            return Err(keys.fault("attention.temperature_scale", problem));
        }
        let length = keys.required("rope.scaling.original_context_length")?;
        rotaries.push(rotary.with_temperature(Temperature { scale, length, offset: 0 }));
        attention.query_rotary = Some(1);
    }
    Ok(dense.alike(&attention, rotaries, dense.around()))
}

/// EXAONE 4: norms behind attention and network only, and of each head's queries and keys.
/// Where some layers see a window, only these turn.
pub(super) fn exaone4(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const PERIOD: usize = 4;
    let dense = Dense { wiring: Wiring::Behind, ..Dense::read(keys)? };
    let turning =
        SelfAttention { norms_heads: true, ..dense.attention(keys, RotaryPairs::Halves)? };
    let rotaries = vec![dense.rotary(keys)?];
    let Some(window) = keys.window()? else {
        return Ok(dense.alike(&turning, rotaries, dense.around()));
    };
    let attention = Attention { window: Some(window), ..turning.attention };
    let windowed = SelfAttention { attention, ..turning };
    let full = SelfAttention { rotary: None, ..turning };
    let windows = keys.windowed_layers(dense.sizes.layers, PERIOD)?;
    let attention = |layer: usize| if windows[layer] { windowed } else { full };
    Ok(dense.model(attention, rotaries, dense.around()))
}

/// GLM 4: norms around attention and network, gate and up of one matrix, heads that turn in
/// part.
pub(super) fn glm4(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let network = Network::GatedTogether(Activation::Silu);
    let dense = Dense { wiring: Wiring::Around, network, ..Dense::read(keys)? };
    let attention = dense.attention(keys, RotaryPairs::Adjacent)?;
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}

/// Hunyuan: norms of each head's queries and keys after they have turned.
pub(super) fn hunyuan(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let dense = Dense::read(keys)?;
    let attention =
        SelfAttention { norms_turned_heads: true, ..dense.attention(keys, RotaryPairs::Halves)? };
    Ok(dense.alike(&attention, vec![dense.rotary(keys)?], dense.around()))
}
