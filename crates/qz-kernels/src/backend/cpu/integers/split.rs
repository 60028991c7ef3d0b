//! Weights of any type as 16-bit integers and a unit: a block whose unit is replaced by
//! one decodes to integers, which are exact in f32.

use qz_codec::Codec;
use qz_codec::number::f32_from_f16;
use qz_tensor::DataType;

/// How a type's blocks say what their integers are worth.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Split {
    unit: Unit,
    /// Weights with one unit, at most as many as activations have with one scale.
    pub(super) length: usize,
}

#[derive(Clone, Copy, Debug)]
enum Unit {
    /// A binary16 at an offset. With `one`, a power of two, all weights are integers.
    Half { at: usize, one: f32 },
    /// A binary32 at the block's start.
    Single,
    /// IQ1_M's, in the upper nibbles of the last four 16-bit numbers. With 8 all weights
    /// are integers.
    Nibbles,
    /// So many bytes at the block's start, one for each run of weights, which are integers
    /// when it is `one`; two weights in each byte that follows, 1 if their bits are 1.
    Bytes { count: usize, one: u8 },
}

/// Two levels that stand for the integer 1.
const ONES: u8 = 0x11;

/// 8 in binary16, the lowest nibble first.
const EIGHT: [u8; 4] = [0x0, 0x0, 0x8, 0x4];

impl Split {
    /// How blocks of a type are split, if they can be.
    pub(super) fn of(data_type: DataType) -> Option<Self> {
        let half = |at, one| Unit::Half { at, one };
        let (unit, length) = match data_type.name() {
            "Q8_0" | "Q8_1" | "IQ4_NL" => (half(0, 1.0), 32),
            "Q1_0" | "Q2_0" => (half(0, 1.0), 32),
            "IQ4_XS" | "IQ3_S" => (half(0, 1.0), 256),
            "IQ3_XXS" => (half(0, 4.0), 256),
            "IQ2_XXS" | "IQ2_XS" | "IQ2_S" | "IQ1_S" => (half(0, 8.0), 256),
            "IQ1_M" => (Unit::Nibbles, 256),
            "TQ1_0" => (half(52, 1.0), 256),
            "TQ2_0" => (half(64, 1.0), 256),
            "Q8_K" => (Unit::Single, 256),
            "MXFP4" => (Unit::Bytes { count: 1, one: 128 }, 32),
            "NVFP4" => (Unit::Bytes { count: 4, one: 64 }, 16),
            _ => return None,
        };
        Some(Self { unit, length })
    }

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
                let stored = qz_codec::number::f16_from_f32(one).to_le_bytes();
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
