//! Types with one scale for each block (ggml-common.h).

use super::super::Unit;
use super::super::level_grid::Packing;
use crate::block::{half_at, set_half_at};
use crate::number::{f16_from_f32, f32_from_f16};

/// A scale, then signed bytes. Codes are the levels plus 128.
pub(in super::super) struct Q8Zero;

impl Packing for Q8Zero {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        set_half_at(out, 0, f16_from_f32(unit.parameters[0]));
        for (byte, code) in out[2..].iter_mut().zip(codes) {
            *byte = code ^ 0x80;
        }
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        for (code, byte) in codes.iter_mut().zip(&bytes[2..]) {
            *code = byte ^ 0x80;
        }
        Unit { parameters: [f32_from_f16(half_at(bytes, 0)), 0.0], ..Unit::default() }
    }
}
