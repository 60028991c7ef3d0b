//! Q1_0: 128 weights as signs times one scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..18 | a bit for each weight, set where it is not negative, lowest first |

use crate::block::{first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::lanes::{LANES, Lanes, Mask, Portable, transpose};
use crate::number::f32_from_f16;
use crate::pack::unpack_single_bits;
use crate::short_block::halves;

/// Weights in a block.
const ELEMENTS: usize = 128;

const SIGNS: usize = 2;
const BYTES: usize = SIGNS + ELEMENTS / 8;

codec! {
    Q1_0: DataType::Q1_0,
    importance: Ignored,
    activations: Q8_0,
    integers: Units { unit: Half { at: 0, one: 1.0 }, length: 32 },
    decode: decode,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
}

/// The body of [`crate::Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode_block(block, out);
    }
}

/// The body of [`crate::Codec::encode`], with lanes of type `L`.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    _columns: usize,
    _importance: Option<&[f32]>,
    out: &mut [u8],
) {
    static ZEROS: [f32; ELEMENTS] = [0.0; ELEMENTS];
    let batches = weights.as_chunks().0.chunks(LANES).zip(out.as_chunks_mut().0.chunks_mut(LANES));
    for (weights, blocks) in batches {
        let mut values = [&ZEROS; LANES];
        for (values, weights) in values.iter_mut().zip(weights) {
            *values = weights;
        }
        encode_batch::<L>(&values, blocks);
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = f32_from_f16(half_at(block, 0));
    let mut levels = [0; ELEMENTS];
    unpack_single_bits(&block[SIGNS..], &mut levels);
    for (value, level) in out.iter_mut().zip(levels) {
        *value = if level != 0 { scale } else { -scale };
    }
}

/// ggml-quants.c, `quantize_row_q1_0_ref`. A block's sum of magnitudes keeps its order:
/// lanes are blocks.
#[inline(always)]
fn encode_batch<L: Lanes>(values: &[&[f32; ELEMENTS]; LANES], blocks: &mut [[u8; BYTES]]) {
    let mut sums = L::zero();
    for row in transpose::<L, ELEMENTS>(values) {
        sums = sums + row.abs();
    }
    let scales = halves(sums / L::splat(ELEMENTS as f32));
    for ((block, values), scale) in blocks.iter_mut().zip(values).zip(scales) {
        set_half_at(block, 0, scale);
        let signs = block[SIGNS..].as_chunks_mut().0.iter_mut();
        for (signs, values) in signs.zip(values.as_chunks().0) {
            *signs = sign_bits::<L>(values).to_le_bytes();
        }
    }
}

/// A bit for each value that is not negative.
#[inline(always)]
fn sign_bits<L: Lanes>(values: &[f32; LANES]) -> u16 {
    let negative = L::load(values).less(L::zero());
    L::top_bits(&negative.select(L::zero(), L::splat(128.0)).to_bytes())
}
