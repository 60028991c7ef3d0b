//! Groups of integers: the codes, lowest bit first and without gaps; the scale, binary16;
//! the zero point, one byte.

use super::super::Unit;
use super::super::level_grid::Packing;
use super::dense::{code_bytes, pack_codes, unpack_codes};
use super::{parameter, set_parameter};

pub(in super::super) struct Integers {
    pub bits: usize,
}

impl Integers {
    /// Bytes of a unit.
    pub(in super::super) fn unit_bytes(&self, columns: usize) -> usize {
        code_bytes(self.bits, columns) + 3
    }
}

impl Packing for Integers {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        let end = code_bytes(self.bits, codes.len());
        pack_codes(codes, self.bits, out);
        set_parameter(out, end, unit.parameters[0]);
        out[end + 2] = unit.offsets[0] as u8;
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        let end = code_bytes(self.bits, codes.len());
        unpack_codes(bytes, self.bits, codes);
        let mut unit = Unit { parameters: [parameter(bytes, end), 0.0], ..Unit::default() };
        unit.offsets[0] = i16::from(bytes[end + 2]);
        unit
    }
}
