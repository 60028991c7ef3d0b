//! Units to bytes and back. Where the bits go is each codec's own definition.

pub(super) mod codebook;
pub(super) mod dense;
pub(super) mod float_scaled;
pub(super) mod integer;
pub(super) mod k_quants;
pub(super) mod plain;

use crate::block::{half_at, set_half_at};
use crate::number::{f16_from_f32, f32_from_f16};

/// Reads a parameter.
pub(super) fn parameter(bytes: &[u8], offset: usize) -> f32 {
    f32_from_f16(half_at(bytes, offset))
}

/// Writes a parameter; it is rounded to 16 bits already.
pub(super) fn set_parameter(bytes: &mut [u8], offset: usize, value: f32) {
    set_half_at(bytes, offset, f16_from_f32(value));
}

/// Four bits of each code: the first half in the low nibbles, the second above.
fn pack_halves(codes: &[u8], out: &mut [u8]) {
    let (low, high) = codes.split_at(codes.len() / 2);
    for (byte, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *byte = low & 15 | high << 4;
    }
}

/// Undoes [`pack_halves`].
fn unpack_halves(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(codes.len() / 2);
    for (byte, (low, high)) in bytes.iter().zip(low.iter_mut().zip(high)) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}
