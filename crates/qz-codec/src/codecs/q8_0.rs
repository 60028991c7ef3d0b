//! Q8_0: 32 weights as signed bytes times one scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..34 | levels |

use qz_tensor::DataType;

use crate::block::first_non_finite_scale;
use crate::codec::{Codec, CodecSpec, ImportanceUse};
use crate::number::{f16_from_f32, f32_from_f16, truncate_to_i8};

const ELEMENTS: usize = 32;
const BYTES: usize = 2 + ELEMENTS;

pub(crate) struct Q8_0;

static SPEC: CodecSpec =
    CodecSpec { data_type: DataType::Q8_0, importance: ImportanceUse::Ignored };

impl Codec for Q8_0 {
    fn spec(&self) -> &CodecSpec {
        &SPEC
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        decode(bytes, out);
    }

    fn encode(&self, weights: &[f32], columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
        encode(weights, columns, importance, out);
    }

    fn first_non_finite_block(&self, bytes: &[u8]) -> Option<usize> {
        first_non_finite_scale::<BYTES>(bytes, &[0])
    }
}

/// The body of [`Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode_block(block, out);
    }
}

/// The body of [`Codec::encode`].
#[inline(always)]
pub fn encode(weights: &[f32], _columns: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    for (weights, block) in weights.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode_block(weights, block);
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = f32_from_f16(u16::from_le_bytes([block[0], block[1]]));
    for (value, level) in out.iter_mut().zip(&block[2..]) {
        *value = f32::from(*level as i8) * scale;
    }
}

/// ggml-quants.c, `quantize_row_q8_0_ref`.
#[inline(always)]
fn encode_block(weights: &[f32; ELEMENTS], block: &mut [u8; BYTES]) {
    // The comparison's side decides what a NaN does: a later number replaces it.
    let largest = weights.iter().fold(0.0f32, |largest, weight| {
        let magnitude = weight.abs();
        if largest > magnitude { largest } else { magnitude }
    });
    let scale = largest / 127.0;
    // A subnormal scale has an infinite inverse.
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    block[..2].copy_from_slice(&f16_from_f32(scale).to_le_bytes());
    for (level, weight) in block[2..].iter_mut().zip(weights) {
        // Halves away from zero, unlike everywhere else.
        *level = truncate_to_i8((weight * inverse).round()) as u8;
    }
}
