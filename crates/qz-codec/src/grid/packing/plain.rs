//! Blocks of 32 with a scale in front, and IQ4_XS, whose levels are laid out the
//! same way (ggml-common.h).

use super::super::Unit;
use super::super::level_grid::Packing;
use super::{pack_halves, parameter, set_parameter, unpack_halves};

/// A scale, then signed bytes. Codes are the levels plus 128.
pub(in super::super) struct Q8Zero;

impl Packing for Q8Zero {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        set_parameter(out, 0, unit.parameters[0]);
        for (byte, code) in out[2..].iter_mut().zip(codes) {
            *byte = code ^ 0x80;
        }
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        for (code, byte) in codes.iter_mut().zip(&bytes[2..]) {
            *code = byte ^ 0x80;
        }
        Unit { parameters: [parameter(bytes, 0), 0.0], ..Unit::default() }
    }
}

/// Q1_0, Q2_0: a scale, then codes of a few bits, the first in the lowest.
pub(in super::super) struct Consecutive {
    pub bits: usize,
}

impl Packing for Consecutive {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        set_parameter(out, 0, unit.parameters[0]);
        for (byte, codes) in out[2..].iter_mut().zip(codes.chunks(8 / self.bits)) {
            let codes = codes.iter().enumerate();
            *byte = codes.fold(0, |byte, (at, code)| byte | code << (at * self.bits));
        }
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        for (byte, codes) in bytes[2..].iter().zip(codes.chunks_mut(8 / self.bits)) {
            for (at, code) in codes.iter_mut().enumerate() {
                *code = byte >> (at * self.bits) & ((1 << self.bits) - 1);
            }
        }
        Unit { parameters: [parameter(bytes, 0), 0.0], ..Unit::default() }
    }
}

/// Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL: the scale, perhaps an offset, perhaps a word with
/// the codes' fifth bits, and the codes' lower four.
pub(in super::super) struct Halves {
    pub offset: bool,
    pub fifth_bit: bool,
}

impl Halves {
    /// Where the fifth bits and the lower four begin.
    fn begins(&self) -> (usize, usize) {
        let fifth = if self.offset { 4 } else { 2 };
        (fifth, if self.fifth_bit { fifth + 4 } else { fifth })
    }
}

impl Packing for Halves {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        let (fifth, low) = self.begins();
        set_parameter(out, 0, unit.parameters[0]);
        if self.offset {
            set_parameter(out, 2, unit.parameters[1]);
        }
        if self.fifth_bit {
            let bit = |(at, code): (usize, &u8)| u32::from(code >> 4 & 1) << at;
            let word = codes.iter().enumerate().map(bit).fold(0, |word, bit| word | bit);
            out[fifth..low].copy_from_slice(&word.to_le_bytes());
        }
        pack_halves(codes, &mut out[low..]);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        let (fifth, low) = self.begins();
        unpack_halves(&bytes[low..], codes);
        if self.fifth_bit {
            for (at, code) in codes.iter_mut().enumerate() {
                *code |= (bytes[fifth + at / 8] >> (at % 8) & 1) << 4;
            }
        }
        let offset = if self.offset { parameter(bytes, 2) } else { 0.0 };
        Unit { parameters: [parameter(bytes, 0), offset], ..Unit::default() }
    }
}

/// A scale, the upper two bits of the groups' scales, their lower four, the codes.
pub(in super::super) struct Iq4Xs;

impl Packing for Iq4Xs {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        set_parameter(out, 0, unit.parameters[0]);
        out[2..8].fill(0);
        for (group, scale) in unit.scales[..8].iter().enumerate() {
            let stored = (scale + 32) as u8;
            out[2 + group / 4] |= (stored >> 4 & 3) << (2 * (group % 4));
            out[4 + group / 2] |= (stored & 15) << (4 * (group % 2));
        }
        for (codes, out) in codes.chunks(32).zip(out[8..].chunks_mut(16)) {
            pack_halves(codes, out);
        }
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        for (codes, bytes) in codes.chunks_mut(32).zip(bytes[8..].chunks(16)) {
            unpack_halves(bytes, codes);
        }
        let scale = |group: usize| {
            let high = bytes[2 + group / 4] >> (2 * (group % 4)) & 3;
            let low = bytes[4 + group / 2] >> (4 * (group % 2)) & 15;
            i16::from(high << 4 | low) - 32
        };
        Unit {
            parameters: [parameter(bytes, 0), 0.0],
            scales: std::array::from_fn(|group| if group < 8 { scale(group) } else { 0 }),
            ..Unit::default()
        }
    }
}
