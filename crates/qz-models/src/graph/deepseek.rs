//! DeepSeek 2 and 3, and what is built like them: attention to a narrow vector of each
//! token instead of its keys and values, an expert that every token is given to, and first
//! layers without experts.
//!
//! Attention is computed as llama.cpp stores it ("absorbed"): the matrix that makes a
//! head's keys of the narrow vector turns its queries instead, and the one that makes its
//! values turns what it has attended to. So the narrow vector is the one key, and the one
//! value, of all heads.

use qz_kernels::backend::{Activation, Attention, Gating, RotaryPairs, Rotation};

use super::decoder::{self, Sizes};
use super::further::Further;
use super::mixture::{self, Mixture};
use super::{Around, HeadColumns, Keys, LayerBuilder, ModelGraph, NormKind, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// A model's sizes.
pub(super) struct Latent {
    pub(super) sizes: Sizes,
    /// Width of the narrow vector that queries are made of, if there is one.
    query_rank: Option<usize>,
    /// Width of the narrow vector that keys and values are made of.
    rank: usize,
    /// Elements of a head's queries that do not turn, and those that do.
    still: usize,
    turning: usize,
    /// Elements of a head's values.
    value_size: usize,
    /// What scores are multiplied with.
    scale: f32,
    /// False for a family in which those that turn elsewhere stand still, too.
    turns: bool,
}

/// DeepSeek 2 and 3.
pub(super) fn deepseek2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let latent = Latent::read(keys)?;
    // Files of GLM 4.7 Flash do not say what its router makes.
    let is_glm = keys.pre_tokenizer() == Some("glm4");
    let mixture = Mixture::read(keys, if is_glm { Gating::Sigmoid } else { Gating::Softmax })?;
    model(keys, &latent, mixture)
}

/// Mistral 4, whose experts have gate and up projection in one matrix.
pub(super) fn mistral4(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let mixture = Mixture::read(keys, Gating::Softmax)?.map(Mixture::fused);
    model(keys, &Latent::read(keys)?, mixture)
}

fn model(keys: &Keys<'_>, latent: &Latent, mixture: Option<Mixture>) -> Result<ModelGraph, Error> {
    let sizes = latent.sizes;
    let dense = mixture::dense_layers(keys, mixture.is_some())?;
    let block = |number: usize, layer: &mut LayerBuilder| {
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let attended = latent.attention(layer, normed);
        layer.add(attended);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let fed = match mixture.as_ref().filter(|_| number >= dense) {
            None => decoder::gated(layer, normed, sizes.intermediate, Activation::Silu),
            Some(mixture) => mixture.add_to(layer, normed),
        };
        layer.add(fed);
    };
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: Further::plain(sizes.epsilon).behind(keys, sizes.hidden, block)?,
        rotaries: vec![latent.rotary(keys)?],
        around: Around::plain(sizes.epsilon),
    })
}

impl Latent {
    fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        Self::with_sizes(keys, Sizes::of_keys(keys)?, true)
    }

    /// The same of a family in which nothing turns, and not all layers have heads of keys.
    pub(super) fn read_still(keys: &Keys<'_>) -> Result<Self, Error> {
        let sizes = Sizes::with_heads(keys, NormKind::RootMeanSquare, None)?;
        Self::with_sizes(keys, sizes, false)
    }

    fn with_sizes(keys: &Keys<'_>, sizes: Sizes, turns: bool) -> Result<Self, Error> {
        let rank = keys.required("attention.kv_lora_rank")?;
        let query_rank = keys.size("attention.q_lora_rank")?.filter(|rank| *rank > 0);
        let turning = keys.required("rope.dimension_count")?;
        let (key_size, value_size) = (
            keys.required("attention.key_length_mla")?,
            keys.required("attention.value_length_mla")?,
        );
        if key_size <= turning || !turning.is_multiple_of(2) {
            let problem = "is odd, or not less than attention.key_length_mla";
            return Err(keys.fault("rope.dimension_count", problem));
        }
        let mut scale = 1.0 / (key_size as f32).sqrt();
        if let Some(stretch) = stretch(keys)? {
            scale *= stretch * stretch;
        }
        let still = key_size - turning;
        Ok(Self { sizes, query_rank, rank, still, turning, value_size, scale, turns })
    }

    fn rotary(&self, keys: &Keys<'_>) -> Result<Rotary, Error> {
        let rotary = Rotary::read(keys, self.turning)?;
        // What would stretch cosines and sines is in the scale of scores.
        Ok(match stretch(keys)? {
            Some(_) => rotary.with_magnitude(1.0),
            None => rotary,
        })
    }

    /// Adds it to a layer; the products of the output matrix.
    pub(super) fn attention(&self, layer: &mut LayerBuilder, input: Register) -> Register {
        let Self { sizes: Sizes { heads, epsilon, .. }, rank, still, turning, .. } = *self;
        let key_size = still + turning;
        let latent = (Role::LatentKeyValue, rank + turning);
        let (queries, latent) = match self.query_rank {
            None => {
                let rows = layer.linear(input, &[(Role::AttentionQuery, heads * key_size), latent]);
                (rows[0], rows[1])
            }
            Some(query_rank) => {
                let rows = layer.linear(input, &[(Role::LatentQuery, query_rank), latent]);
                let narrow = layer.norm(rows[0], Role::LatentQueryNorm, epsilon);
                (layer.product(narrow, Role::LatentQueryUp, heads * key_size), rows[1])
            }
        };
        let narrow = layer.columns(latent, 0..rank);
        let narrow = layer.norm(narrow, Role::LatentKeyValueNorm, epsilon);
        let turned = layer.columns(latent, rank..rank + turning);
        if self.turns {
            let pairs = RotaryPairs::Adjacent;
            let rotation = Rotation { head_size: turning, first: 0, count: turning, pairs };
            layer.rotate(turned, 0, rotation);
            let of_queries = Rotation { head_size: key_size, first: still, ..rotation };
            layer.rotate(queries, 0, of_queries);
        }
        let columns = |rows, size, columns| HeadColumns { rows, size, columns };
        let own = columns(queries, key_size, 0..still);
        let absorbed = layer.heads(heads, own, (Role::LatentKeyUp, rank));
        let queries = layer.join(
            heads,
            vec![columns(absorbed, rank, 0..rank), columns(queries, key_size, still..key_size)],
        );
        let keys = vec![columns(narrow, rank, 0..rank), columns(turned, turning, 0..turning)];
        let keys = layer.join(1, keys);
        let attention = Attention {
            key_size: rank + turning,
            value_size: rank,
            scale: self.scale,
            ..Attention::plain(heads, 1, rank)
        };
        let attended = layer.attend([queries, keys, narrow], attention, None);
        let own = columns(attended, rank, 0..rank);
        let values = layer.heads(heads, own, (Role::LatentValueUp, self.value_size));
        layer.product(values, Role::AttentionOutput, layer.hidden())
    }
}

/// What YaRN makes of queries and keys, where the file says so.
fn stretch(keys: &Keys<'_>) -> Result<Option<f32>, Error> {
    let factor = keys.factor("rope.scaling.factor")?.unwrap_or(1.0);
    let own = keys.factor("rope.scaling.yarn_log_multiplier")?;
    Ok(own.map(|own| if factor <= 1.0 { 1.0 } else { own * libm::logf(factor) + 1.0 }))
}
