//! T5's encoder: attention without a scale, whose scores get learned numbers by distance; norms in
//! front. Networks have a gate: files do not say whether they have one, and those without, of the
//! first T5, are refused for the matrix that they lack.

use qz_kernels::backend::{Activation, Attention, Distances};

use super::decoder::{SelfAttention, Sizes};
use super::dense::{Dense, Network, Wiring};
use super::{Around, Keys, ModelGraph, NormKind};
use crate::error::Error;

/// T5's encoder, with a gate: Flan-T5's, and those of version 1.1.
pub(super) fn t5_encoder(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let count = keys.required("attention.relative_buckets_count")?;
    if !count.is_multiple_of(4) {
        let problem = "is no multiple of 4";
        return Err(keys.fault("attention.relative_buckets_count", problem));
    }
    let norms = NormKind::RootMeanSquare;
    let sizes = Sizes::read_with(keys, norms)?;
    let attention = Attention {
        scale: 1.0,
        is_causal: false,
        distances: Distances::Ranges { count },
        ..sizes.attention()
    };
    let attention = SelfAttention::of(attention, sizes.epsilon);
    let network = Network::Gated(Activation::GeluTanh);
    let dense = Dense { sizes, norms, wiring: Wiring::Before, network, residual: 1.0 };
    let around = Around { predicts: false, ..dense.around() };
    Ok(dense.alike(&attention, Vec::new(), around))
}
