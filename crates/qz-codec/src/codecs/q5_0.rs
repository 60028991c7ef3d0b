//! Q5_0: 32 weights as 5-bit levels times one scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..6 | the levels' fifth bits |
//! | 6..22 | the levels' lower four bits |

use crate::block::first_non_finite_scale;
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::short_block::{ELEMENTS, decode_signed, encode_signed};

/// Levels are stored plus this.
const HALF: u8 = 16;

const BYTES: usize = 2 + 4 + ELEMENTS / 2;

codec! {
    Q5_0: DataType::Q5_0,
    importance: Optional,
    activations: Q8_0,
    integers: Levels,
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
}

/// The body of [`crate::Codec::decode`], with lanes of type `L`.
#[inline(always)]
pub fn decode<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
    decode_signed::<L, BYTES>(HALF, bytes, out);
}

/// The body of [`crate::Codec::encode`], with lanes of type `L`.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    encode_signed::<L, BYTES>(HALF, weights, columns, importance, out);
}
