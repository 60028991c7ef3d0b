//! MiniCPM 3: MiniCPM with attention to keys and values that are made of a narrow vector of each
//! token. A head's keys are those, and behind them numbers that turn and that all heads share.

use qz_kernels::backend::{Activation, Attention, RotaryPairs, Rotation};

use super::decoder::{self, Sizes};
use super::{Around, HeadColumns, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// Factors that no file has (`minicpm3.cpp` in llama.cpp): on embeddings; over the root of the
/// layers' number on sums; the width over that of the hidden states on logits.
const EMBEDDINGS: f32 = 12.0;
const SUMS: f32 = 1.4;
const WIDTH: f32 = 256.0;

/// A model's sizes.
struct Latent {
    sizes: Sizes,
    query_rank: usize,
    rank: usize,
    /// Elements of a head that do not turn, and those that do.
    still: usize,
    turning: usize,
    value_size: usize,
}

/// MiniCPM 3.
pub(super) fn minicpm3(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let latent = Latent::read(keys)?;
    let sizes = latent.sizes;
    let residual = SUMS / (sizes.layers as f32).sqrt();
    let layer = |_| -> LayerGraph {
        let mut layer = LayerBuilder::new(sizes.hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let attended = latent.attention(&mut layer, normed);
        layer.add_times(attended, residual);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let fed = decoder::gated(&mut layer, normed, sizes.intermediate, Activation::Silu);
        layer.add_times(fed, residual);
        layer.finish()
    };
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: (0..sizes.layers).map(layer).collect(),
        rotaries: vec![Rotary::with_long_factors(keys, latent.turning)?],
        around: Around {
            embedding_scale: Some(EMBEDDINGS),
            logit_scale: Some(WIDTH / sizes.hidden as f32),
            ..Around::plain(sizes.epsilon)
        },
    })
}

impl Latent {
    fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        let sizes = Sizes::of_keys(keys)?;
        let turning = keys.required("rope.dimension_count")?;
        if sizes.head_size <= turning || !turning.is_multiple_of(2) {
            let problem = "is odd, or not less than attention.key_length";
            return Err(keys.fault("rope.dimension_count", problem));
        }
        let value_size = match keys.size("attention.value_length")? {
            Some(size) => size,
            None => sizes.hidden / sizes.heads,
        };
        Ok(Self {
            sizes,
            query_rank: keys.required("attention.q_lora_rank")?,
            rank: keys.required("attention.kv_lora_rank")?,
            still: sizes.head_size - turning,
            turning,
            value_size,
        })
    }

    /// Adds it to a layer; the products of the output matrix.
    fn attention(&self, layer: &mut LayerBuilder, input: Register) -> Register {
        let Self { sizes: Sizes { heads, epsilon, .. }, rank, still, turning, value_size, .. } =
            *self;
        let key_size = still + turning;
        let narrow = [(Role::LatentQuery, self.query_rank), (Role::LatentKeyValue, rank + turning)];
        let rows = layer.linear(input, &narrow);
        let queries = layer.norm(rows[0], Role::LatentQueryNorm, epsilon);
        let queries = layer.product(queries, Role::LatentQueryUp, heads * key_size);
        let latent = layer.columns(rows[1], 0..rank);
        let turned = layer.columns(rows[1], rank..rank + turning);
        let latent = layer.norm(latent, Role::LatentKeyValueNorm, epsilon);
        let own = still + value_size;
        let made = layer.product(latent, Role::LatentKeyValueUp, heads * own);
        let pairs = RotaryPairs::Halves;
        let rotation = Rotation { head_size: turning, first: 0, count: turning, pairs };
        layer.rotate(turned, 0, rotation);
        layer.rotate(queries, 0, Rotation { head_size: key_size, first: still, ..rotation });
        let columns = |rows, size, columns| HeadColumns { rows, size, columns };
        let keys = vec![columns(made, own, 0..still), columns(turned, turning, 0..turning)];
        let keys = layer.join(heads, keys);
        let values = layer.join(heads, vec![columns(made, own, still..own)]);
        let plain = Attention::plain(heads, heads, key_size);
        let attention = Attention { value_size, ..plain };
        let attended = layer.attend([queries, keys, values], attention, None);
        layer.product(attended, Role::AttentionOutput, layer.hidden())
    }
}
