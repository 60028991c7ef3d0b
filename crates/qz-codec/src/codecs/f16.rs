//! F16: little-endian binary16.

use crate::codec::codec;
use crate::number::{f16_from_f32, f16_is_non_finite, f32_from_f16, first_number};

codec! {
    F16: DataType::F16,
    importance: Ignored,
    activations: F16,
    integers: Floats,
    decode: decode,
    encode: encode,
    first_non_finite_block: first_non_finite_block,
}

fn first_non_finite_block(bytes: &[u8]) -> Option<usize> {
    first_number(bytes, |bytes| f16_is_non_finite(u16::from_le_bytes(bytes)))
}

/// The body of [`crate::Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32_from_f16(u16::from_le_bytes(*bytes));
    }
}

/// The body of [`crate::Codec::encode`].
#[inline(always)]
pub fn encode(weights: &[f32], _columns: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    for (bytes, weight) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *bytes = f16_from_f32(*weight).to_le_bytes();
    }
}
