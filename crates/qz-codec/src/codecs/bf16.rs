//! BF16: the upper half of a binary32, little-endian.

use crate::codec::codec;
use crate::number::{bf16_from_f32, f32_from_bf16, first_number};

codec! {
    Bf16: DataType::BF16,
    importance: Ignored,
    activations: BF16,
    integers: Floats,
    decode: decode,
    encode: encode,
    first_non_finite_block: first_non_finite_block,
}

fn first_non_finite_block(bytes: &[u8]) -> Option<usize> {
    // All bits of the exponent are set.
    first_number(bytes, |bytes| u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80)
}

/// The body of [`crate::Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32_from_bf16(u16::from_le_bytes(*bytes));
    }
}

/// The body of [`crate::Codec::encode`].
#[inline(always)]
pub fn encode(weights: &[f32], _columns: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    for (bytes, weight) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *bytes = bf16_from_f32(*weight).to_le_bytes();
    }
}
