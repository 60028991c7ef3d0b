//! Groups of integers, in a layout of our own: the containers that hold such groups
//! spread them over several tensors, and take them from here. The codes, lowest bit
//! first and without gaps; the scale, binary16; the zero point, one byte.

use super::super::Unit;
use super::super::level_grid::Packing;
use super::{parameter, set_parameter};

pub(in super::super) struct Integers {
    pub bits: usize,
}

impl Integers {
    /// Bytes that the codes take.
    pub(in super::super) fn code_bytes(bits: usize, columns: usize) -> usize {
        (bits * columns).div_ceil(8)
    }
}

impl Packing for Integers {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        let end = Self::code_bytes(self.bits, codes.len());
        out[..end].fill(0);
        for (position, code) in codes.iter().enumerate() {
            let first = position * self.bits;
            let shifted = (u16::from(*code) & ((1 << self.bits) - 1)) << (first % 8);
            out[first / 8] |= shifted as u8;
            if first % 8 + self.bits > 8 {
                out[first / 8 + 1] |= (shifted >> 8) as u8;
            }
        }
        set_parameter(out, end, unit.parameters[0]);
        out[end + 2] = unit.offsets[0] as u8;
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        let end = Self::code_bytes(self.bits, codes.len());
        for (position, code) in codes.iter_mut().enumerate() {
            let first = position * self.bits;
            let next = if first % 8 + self.bits > 8 { bytes[first / 8 + 1] } else { 0 };
            let window = u16::from_le_bytes([bytes[first / 8], next]);
            *code = (window >> (first % 8)) as u8 & (u8::MAX >> (8 - self.bits));
        }
        let mut unit = Unit { parameters: [parameter(bytes, end), 0.0], ..Unit::default() };
        unit.offsets[0] = i16::from(bytes[end + 2]);
        unit
    }
}
