//! IQ4_NL: 32 weights as 4-bit numbers of levels in a table, times one scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..18 | numbers of levels |

use crate::block::{first_non_finite_scale, half_at, set_half_at, sums_of_squares};
use crate::codec::codec;
use crate::lanes::{self, LANES, Lanes, Mask, Portable, transpose};
use crate::pack::{decode_numbers, pack_halves};
use crate::search::nonlinear::LEVELS;
use crate::short_block::{Batch, Blocks, ELEMENTS, halves};

const NUMBERS: usize = 2;
const BYTES: usize = NUMBERS + ELEMENTS / 2;

codec! {
    Iq4Nl: DataType::IQ4_NL,
    importance: Optional,
    activations: Q8_0,
    integers: Units { unit: Half { at: 0, one: 1.0 }, length: 32 },
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
}

/// The body of [`crate::Codec::decode`], with look-ups of `L`.
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
    let input = Blocks::new(weights, columns, importance);
    for (number, blocks) in out.as_chunks_mut().0.chunks_mut(LANES).enumerate() {
        encode_batch::<L>(&input.batch(number * LANES), blocks);
    }
}

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = L::splat_half(half_at(block, 0));
    decode_numbers(scale, &LEVELS, &block[NUMBERS..], out);
}

/// ggml-quants.c, `quantize_row_iq4_nl_impl` with a super-block of one block.
#[inline(always)]
fn encode_batch<L: Lanes>(batch: &Batch, blocks: &mut [[u8; BYTES]]) {
    let mut sigma2 = sums_of_squares(&batch.values);
    for sigma2 in &mut sigma2 {
        *sigma2 *= 2.0 / ELEMENTS as f32;
    }
    let weights = batch.weights(&sigma2);
    let rows = transpose::<L, ELEMENTS>(&batch.values);
    let scales = lanes::nonlinear::search(&rows, &transpose(&weights.each_ref()));
    // The scale before it was stored.
    let inverse = scales.unequal(L::zero()).select(L::splat(1.0) / scales, L::zero());
    let (inverse, scales) = (inverse.store(), halves(scales));
    for (lane, block) in blocks.iter_mut().enumerate() {
        set_half_at(block, 0, scales[lane]);
        let mut numbers = [0; ELEMENTS];
        let values = batch.values[lane].as_chunks().0;
        for (numbers, values) in numbers.as_chunks_mut().0.iter_mut().zip(values) {
            *numbers = lanes::nonlinear::numbers(L::splat(inverse[lane]) * L::load(values));
        }
        pack_halves(&numbers, &mut block[NUMBERS..]);
    }
}
