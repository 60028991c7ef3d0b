//! F32: little-endian binary32, copied.

use crate::codec::codec;
use crate::number::first_number;

codec! {
    F32: DataType::F32,
    importance: Ignored,
    activations: F32,
    integers: Floats,
    decode: decode,
    encode: encode,
    first_non_finite_block: first_non_finite_block,
}

fn first_non_finite_block(bytes: &[u8]) -> Option<usize> {
    first_number(bytes, |bytes| !f32::from_le_bytes(bytes).is_finite())
}

/// The body of [`crate::Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

/// The body of [`crate::Codec::encode`].
#[inline(always)]
pub fn encode(weights: &[f32], _columns: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    for (bytes, weight) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *bytes = weight.to_le_bytes();
    }
}
