//! BF16: the upper half of a binary32, little-endian.

use qz_tensor::DataType;

use crate::codec::{Codec, CodecSpec, ImportanceUse};
use crate::number::{bf16_from_f32, f32_from_bf16};

pub(crate) struct Bf16;

static SPEC: CodecSpec =
    CodecSpec { data_type: DataType::BF16, importance: ImportanceUse::Ignored };

impl Codec for Bf16 {
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
        let is_non_finite = |bytes| !f32_from_bf16(u16::from_le_bytes(bytes)).is_finite();
        bytes.as_chunks().0.iter().position(|bytes| is_non_finite(*bytes))
    }
}

/// The body of [`Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32_from_bf16(u16::from_le_bytes(*bytes));
    }
}

/// The body of [`Codec::encode`].
#[inline(always)]
pub fn encode(weights: &[f32], _columns: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    for (bytes, weight) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *bytes = bf16_from_f32(*weight).to_le_bytes();
    }
}
