//! Q5_1: 32 weights as 5-bit levels times a scale, plus a minimum.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..4 | minimum, binary16 |
//! | 4..8 | the levels' fifth bits |
//! | 8..24 | the levels' lower four bits |

use crate::block::first_non_finite_scale;
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::search::affine::AffineSearch;
use crate::short_block::{ELEMENTS, decode_affine, encode_affine};

/// ggml-quants.c, `quantize_row_q5_1_impl`.
const WITH_IMPORTANCE: AffineSearch =
    AffineSearch { top: 31, first: -0.9, step: 0.05, last: 36, absolute: false };

const BYTES: usize = 2 + 2 + 4 + ELEMENTS / 2;

codec! {
    Q5_1: DataType::Q5_1,
    importance: Optional,
    activations: Q8_1,
    integers: Levels,
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0, 2]),
}

/// The body of [`crate::Codec::decode`], with lanes of type `L`.
#[inline(always)]
pub fn decode<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
    decode_affine::<L, BYTES>(bytes, out);
}

/// The body of [`crate::Codec::encode`], with lanes of type `L`.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    encode_affine::<L, BYTES>(&WITH_IMPORTANCE, weights, columns, importance, out);
}
