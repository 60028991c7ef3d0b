//! Weights of any type as 16-bit integers and a unit: a block whose unit is replaced by
//! one decodes to integers, which are exact in f32.

use qz_codec::number::{f16_from_f32, f32_from_f16};
use qz_codec::{Codec, Unit};

/// How a type's blocks become integers: see [`qz_codec::Integers::Units`].
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Split {
    pub(super) unit: Unit,
    /// Weights with one unit.
    pub(super) length: usize,
}

/// Two levels that stand for the integer 1.
const ONES: u8 = 0x11;

/// 8 in binary16, the lowest nibble first.
const EIGHT: [u8; 4] = [0x0, 0x0, 0x8, 0x4];

impl Split {
    /// Splits a row: `integers` has its columns, `units` one for each
    /// [`Split::length`] of them.
    pub(super) fn row(
        &self,
        codec: &dyn Codec,
        bytes: &[u8],
        scratch: &mut Scratch,
        integers: &mut [i16],
        units: &mut [f32],
    ) {
        let data_type = codec.spec().data_type;
        let size = data_type.block_bytes();
        let units_of_block = data_type.block_elements() / self.length;
        scratch.bytes.clear();
        scratch.bytes.extend_from_slice(bytes);
        scratch.numbers.resize(integers.len(), 0.0);
        if let Unit::Bytes { count, .. } = self.unit {
            let blocks = scratch.bytes.chunks_exact_mut(size);
            blocks.for_each(|block| block[count..].fill(ONES));
            codec.decode(&scratch.bytes, &mut scratch.numbers);
            for (unit, run) in units.iter_mut().zip(scratch.numbers.chunks_exact(self.length)) {
                *unit = run[0];
            }
            scratch.bytes.copy_from_slice(bytes);
        }
        let blocks = scratch.bytes.chunks_exact_mut(size);
        for (block, units) in blocks.zip(units.chunks_exact_mut(units_of_block)) {
            if let Some(unit) = self.replace_unit(block) {
                units.fill(unit);
            }
        }
        codec.decode(&scratch.bytes, &mut scratch.numbers);
        for (integer, number) in integers.iter_mut().zip(&scratch.numbers) {
            *integer = integer_of(*number);
        }
    }

    /// Makes a block's unit one; gives what it was, divided by what it is now, unless it
    /// was read from the weights.
    fn replace_unit(&self, block: &mut [u8]) -> Option<f32> {
        match self.unit {
            Unit::Half { at, one } => {
                let unit = f32_from_f16(u16::from_le_bytes([block[at], block[at + 1]]));
                let stored = f16_from_f32(one).to_le_bytes();
                block[at..at + 2].copy_from_slice(&stored);
                Some(unit / one)
            }
            Unit::Single => {
                let unit = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                block[..4].copy_from_slice(&1.0f32.to_le_bytes());
                Some(unit)
            }
            Unit::Nibbles => {
                let mut unit = 0;
                let first = block.len() - 7;
                for (position, nibble) in EIGHT.iter().enumerate() {
                    let byte = &mut block[first + 2 * position];
                    unit |= u16::from(*byte >> 4) << (4 * position);
                    *byte = *byte & 15 | nibble << 4;
                }
                Some(f32_from_f16(unit) / 8.0)
            }
            Unit::Bytes { count, one } => {
                block[..count].fill(one);
                None
            }
        }
    }
}

/// An integer of at most 16 bits that stands as a float. Added to 1.5 · 2^23 it is in the
/// lowest bits.
#[inline(always)]
fn integer_of(number: f32) -> i16 {
    (number + 12_582_912.0).to_bits() as i16
}

/// Memory that [`Split::row`] needs, kept from row to row.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    numbers: Vec<f32>,
}
