//! Q4_1: 32 weights as 4-bit levels times a scale, plus a minimum.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..4 | minimum, binary16 |
//! | 4..20 | levels |

use crate::block::{first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::number::{f16_from_f32, f32_from_f16};
use crate::pack::{pack_halves, unpack_halves};
use crate::search::affine::{Affine, AffineSearch};
use crate::short_block::{ELEMENTS, Levels, encode_affine};

/// ggml-quants.c, `quantize_row_q4_1_impl`.
const WITH_IMPORTANCE: AffineSearch =
    AffineSearch { top: 15, first: -0.9, step: 0.05, last: 36, absolute: false };

const MINIMUM: usize = 2;
const LEVELS: usize = 4;
const BYTES: usize = LEVELS + ELEMENTS / 2;

codec! {
    Q4_1: DataType::Q4_1,
    importance: Optional,
    decode: decode,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0, MINIMUM]),
}

/// The body of [`Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode_block(block, out);
    }
}

/// The body of [`Codec::encode`], with lanes of type `L`.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    encode_affine::<L, BYTES>(&WITH_IMPORTANCE, weights, columns, importance, out, store);
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = f32_from_f16(half_at(block, 0));
    let minimum = f32_from_f16(half_at(block, MINIMUM));
    let mut levels = [0; ELEMENTS];
    unpack_halves(&block[LEVELS..], &mut levels);
    for (value, level) in out.iter_mut().zip(levels) {
        *value = f32::from(level) * scale + minimum;
    }
}

#[inline(always)]
fn store(affine: Affine, levels: &Levels, block: &mut [u8; BYTES]) {
    set_half_at(block, 0, f16_from_f32(affine.scale));
    set_half_at(block, MINIMUM, f16_from_f32(-affine.minimum));
    pack_halves(levels, &mut block[LEVELS..]);
}
