//! Bytes for the groups' scales, then four bits for each weight (ggml-common.h,
//! `block_mxfp4` and `block_nvfp4`).

use super::super::Unit;
use super::super::level_grid::Packing;
use super::{pack_halves, unpack_halves};

pub(in super::super) struct FloatScales {
    pub groups: usize,
}

impl Packing for FloatScales {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        let (scales, packed) = out.split_at_mut(self.groups);
        for (byte, scale) in scales.iter_mut().zip(unit.scales) {
            *byte = scale as u8;
        }
        let columns = codes.len() / self.groups;
        for (codes, out) in codes.chunks(columns).zip(packed.chunks_mut(columns / 2)) {
            pack_halves(codes, out);
        }
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        let (scales, packed) = bytes.split_at(self.groups);
        let columns = codes.len() / self.groups;
        for (codes, bytes) in codes.chunks_mut(columns).zip(packed.chunks(columns / 2)) {
            unpack_halves(bytes, codes);
        }
        let mut unit = Unit::default();
        for (scale, byte) in unit.scales.iter_mut().zip(scales) {
            *scale = i16::from(*byte);
        }
        unit
    }
}
