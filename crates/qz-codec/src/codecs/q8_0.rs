//! Q8_0: 32 weights as signed bytes times one scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..34 | levels |

use crate::block::{first_non_finite_scale, half_at};
use crate::codec::codec;
use crate::four_bit_float::largest_magnitude;
use crate::lanes::{LANES, Lanes, Mask, Portable};
use crate::short_block::{Batch, Blocks, ELEMENTS, halves};

pub(crate) const BYTES: usize = 2 + ELEMENTS;

codec! {
    Q8_0: DataType::Q8_0,
    importance: Ignored,
    activations: Q8_0,
    integers: Units { unit: Half { at: 0, one: 1.0 }, length: 32 },
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
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
    let levels = block[2..].as_chunks::<LANES>().0.iter();
    for (levels, out) in levels.zip(out.as_chunks_mut().0) {
        *out = (L::from_signed_bytes(&levels.map(|level| level as i8)) * scale).store();
    }
}

/// ggml-quants.c, `quantize_row_q8_0_ref`.
#[inline(always)]
pub(crate) fn encode_batch<L: Lanes>(batch: &Batch, blocks: &mut [[u8; BYTES]]) {
    let mut largest = [0.0; LANES];
    for (largest, values) in largest.iter_mut().zip(batch.values) {
        *largest = largest_magnitude(values);
    }
    let scales = L::load(&largest) / L::splat(127.0);
    let inverse = scales.unequal(L::zero()).select(L::splat(1.0) / scales, L::zero());
    let (halves, inverse) = (halves(scales), inverse.store());
    for (lane, block) in blocks.iter_mut().enumerate() {
        let inverse = L::splat(inverse[lane]);
        let [low, high, levels @ ..] = block;
        [*low, *high] = halves[lane].to_le_bytes();
        let values = batch.values[lane].as_chunks().0;
        for (levels, values) in levels.as_chunks_mut::<LANES>().0.iter_mut().zip(values) {
            *levels = round_half_away(L::load(values) * inverse);
        }
    }
}

/// The nearest integers, halves away from zero unlike everywhere else; only their lowest
/// bytes. What is added is the number below one half: with one half, the sum of the
/// number below it and that would be rounded up to 1.
#[inline(always)]
fn round_half_away<L: Lanes>(values: L) -> [u8; LANES] {
    let below_half = L::splat(0.5f32.next_down());
    let step = values.less(L::zero()).select(-below_half, below_half);
    (values + step).to_truncated_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::truncate_to_i8;

    #[test]
    fn rounds_as_c_does() {
        let check = |value: f32| {
            let [rounded, ..] = round_half_away(Portable::splat(value));
            assert_eq!(rounded as i8, truncate_to_i8(value.round()), "{value}");
        };
        // Every half and its neighbours, and what lies between.
        for eighths in -1019..=1019i16 {
            let value = f32::from(eighths) / 8.0;
            [value, value.next_up(), value.next_down()].into_iter().for_each(check);
        }
        [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 8_388_607.5, 1e9, -1e10]
            .into_iter()
            .for_each(check);
    }
}
