//! Q8_1: Q8_0 with the sum of the weights. llama.cpp makes activations of it, to
//! multiply them with types that have a minimum.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..4 | the sum of the levels times the scale, binary16 |
//! | 4..36 | levels |

use super::q8_0;
use crate::block::{first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::four_bit_float::largest_magnitude;
use crate::lanes::{LANES, Lanes, Portable};
use crate::number::f16_from_f32;
use crate::short_block::{Batch, Blocks, ELEMENTS};

const SUM: usize = 2;
const LEVELS: usize = 4;
const BYTES: usize = LEVELS + ELEMENTS;

codec! {
    Q8_1: DataType::Q8_1,
    importance: Ignored,
    activations: Q8_0,
    integers: Units { unit: Half { at: 0, one: 1.0 }, length: 32 },
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0, SUM]),
}

/// The body of [`crate::Codec::decode`], with lanes of type `L`.
#[inline(always)]
pub fn decode<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode_block::<L>(block, out);
    }
}

/// The body of [`crate::Codec::encode`], with lanes of type `L`.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let _ = importance;
    let input = Blocks::new(weights, columns, None);
    for (number, blocks) in out.as_chunks_mut().0.chunks_mut(LANES).enumerate() {
        encode_batch::<L>(&input.batch(number * LANES), blocks);
    }
}

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = L::splat_half(half_at(block, 0));
    let levels = block[LEVELS..].as_chunks::<LANES>().0.iter();
    for (levels, out) in levels.zip(out.as_chunks_mut().0) {
        *out = (L::from_signed_bytes(&levels.map(|level| level as i8)) * scale).store();
    }
}

/// ggml-quants.c, `quantize_row_q8_1_ref`. Scales and levels are those of Q8_0.
#[inline(always)]
fn encode_batch<L: Lanes>(batch: &Batch, blocks: &mut [[u8; BYTES]]) {
    let mut plain = [[0; q8_0::BYTES]; LANES];
    q8_0::encode_batch::<L>(batch, &mut plain);
    for ((block, plain), values) in blocks.iter_mut().zip(&plain).zip(batch.values) {
        let (half, levels) = plain.split_at(2);
        let sum: i32 = levels.iter().map(|level| i32::from(*level as i8)).sum();
        let scale = largest_magnitude(values) / 127.0;
        block[..SUM].copy_from_slice(half);
        set_half_at(block, SUM, f16_from_f32(sum as f32 * scale));
        block[LEVELS..].copy_from_slice(levels);
    }
}
