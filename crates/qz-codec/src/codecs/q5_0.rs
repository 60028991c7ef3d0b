//! Q5_0: 32 weights as 5-bit levels times one scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..6 | the levels' fifth bits |
//! | 6..22 | the levels' lower four bits |

use crate::block::{first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::number::{f16_from_f32, f32_from_f16};
use crate::pack::{pack_fifth_bits, pack_halves, unpack_fifth_bits, unpack_halves};
use crate::short_block::{ELEMENTS, Levels, encode_signed};

/// Levels are stored plus this.
const HALF: u8 = 16;

const HIGH: usize = 2;
const LOW: usize = HIGH + 4;
const BYTES: usize = LOW + ELEMENTS / 2;

codec! {
    Q5_0: DataType::Q5_0,
    importance: Optional,
    decode: decode,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
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
    encode_signed::<L, BYTES>(HALF, weights, columns, importance, out, store);
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = f32_from_f16(half_at(block, 0));
    let mut levels = [0; ELEMENTS];
    unpack_halves(&block[LOW..], &mut levels);
    unpack_fifth_bits(std::array::from_fn(|byte| block[HIGH + byte]), &mut levels);
    for (value, level) in out.iter_mut().zip(levels) {
        *value = (f32::from(level) - f32::from(HALF)) * scale;
    }
}

#[inline(always)]
fn store(scale: f32, levels: &Levels, block: &mut [u8; BYTES]) {
    set_half_at(block, 0, f16_from_f32(scale));
    block[HIGH..LOW].copy_from_slice(&pack_fifth_bits(levels));
    pack_halves(levels, &mut block[LOW..]);
}
