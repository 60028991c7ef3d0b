//! IQ4_NL: 32 weights as 4-bit numbers of levels in a table, times one scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..18 | numbers of levels |

use crate::block::{first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::lanes::{self, Lanes, Portable, transpose};
use crate::number::{f16_from_f32, f32_from_f16};
use crate::pack::{pack_halves, unpack_halves};
use crate::search::nonlinear::{self, LEVELS};
use crate::short_block::{Batch, ELEMENTS, for_each_batch, sum_of_squares};

const NUMBERS: usize = 2;
const BYTES: usize = NUMBERS + ELEMENTS / 2;

codec! {
    Iq4Nl: DataType::IQ4_NL,
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
    for_each_batch(weights, columns, importance, out, encode_batch::<L>);
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = f32_from_f16(half_at(block, 0));
    let mut numbers = [0; ELEMENTS];
    unpack_halves(&block[NUMBERS..], &mut numbers);
    for (value, number) in out.iter_mut().zip(numbers) {
        *value = scale * f32::from(LEVELS[usize::from(number)]);
    }
}

/// ggml-quants.c, `quantize_row_iq4_nl_impl` with a super-block of one block.
#[inline(always)]
fn encode_batch<L: Lanes>(batch: &Batch, blocks: &mut [[u8; BYTES]]) {
    let weights = batch.weights(|_, values| sum_of_squares(values) * (2.0 / ELEMENTS as f32));
    let rows = transpose::<L, ELEMENTS>(&batch.values);
    let scales = lanes::nonlinear::search(&rows, &transpose(&weights.each_ref())).store();
    for ((block, scale), values) in blocks.iter_mut().zip(scales).zip(batch.values) {
        set_half_at(block, 0, f16_from_f32(scale));
        // The scale before it was stored.
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        let numbers = values.map(|value| nonlinear::nearest(inverse * value));
        pack_halves(&numbers, &mut block[NUMBERS..]);
    }
}
