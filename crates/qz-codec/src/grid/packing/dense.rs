//! Units of layouts that are no element type: scale and perhaps offset as numbers of some
//! type, or a byte that names a scale; then the codes, lowest bit first and without gaps. The
//! containers that hold such units spread them over several tensors, and take them from here.

use super::super::Unit;
use super::super::level_grid::Packing;
use super::super::stored::StoredNumber;

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Dense {
    pub bits: usize,
    pub scale: StoredNumber,
    /// Whether there is an offset.
    pub offset: bool,
}

impl Dense {
    /// Bytes of a unit.
    pub(in super::super) fn unit_bytes(&self, columns: usize) -> usize {
        self.begin() + code_bytes(self.bits, columns)
    }

    /// Where the codes begin.
    fn begin(&self) -> usize {
        self.scale.bytes() * if self.offset { 2 } else { 1 }
    }
}

impl Packing for Dense {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        self.scale.write(unit.parameters[0], out);
        if self.offset {
            self.scale.write(unit.parameters[1], &mut out[self.scale.bytes()..]);
        }
        pack_codes(codes, self.bits, &mut out[self.begin()..]);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        unpack_codes(&bytes[self.begin()..], self.bits, codes);
        let offset = self.offset.then(|| self.scale.read(&bytes[self.scale.bytes()..]));
        Unit { parameters: [self.scale.read(bytes), offset.unwrap_or(0.0)], ..Unit::default() }
    }
}

/// A byte that names the scale, and codes.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct ListedScale {
    pub bits: usize,
}

impl ListedScale {
    /// Bytes of a unit.
    pub(in super::super) fn unit_bytes(&self, columns: usize) -> usize {
        1 + code_bytes(self.bits, columns)
    }
}

impl Packing for ListedScale {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        out[0] = unit.scales[0] as u8;
        pack_codes(codes, self.bits, &mut out[1..]);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        unpack_codes(&bytes[1..], self.bits, codes);
        let mut unit = Unit::default();
        unit.scales[0] = i16::from(bytes[0]);
        unit
    }
}

/// Bytes that codes take.
pub(super) fn code_bytes(bits: usize, columns: usize) -> usize {
    (bits * columns).div_ceil(8)
}

/// Codes of at most eight bits.
pub(super) fn pack_codes(codes: &[u8], bits: usize, out: &mut [u8]) {
    out[..code_bytes(bits, codes.len())].fill(0);
    for (position, code) in codes.iter().enumerate() {
        let first = position * bits;
        let shifted = (u16::from(*code) & ((1 << bits) - 1)) << (first % 8);
        out[first / 8] |= shifted as u8;
        if first % 8 + bits > 8 {
            out[first / 8 + 1] |= (shifted >> 8) as u8;
        }
    }
}

/// Undoes [`pack_codes`].
pub(super) fn unpack_codes(bytes: &[u8], bits: usize, codes: &mut [u8]) {
    for (position, code) in codes.iter_mut().enumerate() {
        let first = position * bits;
        let next = if first % 8 + bits > 8 { bytes[first / 8 + 1] } else { 0 };
        let window = u16::from_le_bytes([bytes[first / 8], next]);
        *code = (window >> (first % 8)) as u8 & (u8::MAX >> (8 - bits));
    }
}
