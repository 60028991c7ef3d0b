//! Blocks of four-bit numbers, the first of two in a byte in its high half.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over rows of a matrix whose size was checked, in groups that are not empty"
)]

/// Weights of a block, unless something else is stated.
pub(super) const BLOCK: usize = 64;
/// Blocks whose scales are rounded together.
pub(super) const NESTED_BLOCK: usize = 256;
/// Codes.
pub(super) const COUNT: usize = 16;

/// What codes stand for, as a part of a block's largest magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Quantiles of a normal distribution.
    Nf4,
    /// A sign, and a float of three bits with gaps.
    Fp4,
}

impl Kind {
    /// The kind of this name.
    pub(super) fn of(name: &str) -> Option<Self> {
        [Self::Nf4, Self::Fp4].into_iter().find(|kind| kind.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    /// The numbers by code (`get_4bit_type`).
    pub(super) fn numbers(self) -> [f32; COUNT] {
        match self {
            Self::Nf4 => NF4,
            Self::Fp4 => FP4_TIMES_12.map(|number| number / 12.0),
        }
    }

    /// Codes by ascending number.
    fn order(self) -> [u8; COUNT] {
        match self {
            Self::Nf4 => [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            Self::Fp4 => [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
        }
    }
}

const NF4: [f32; COUNT] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

const FP4_TIMES_12: [f32; COUNT] =
    [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, 0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0];

/// Rounds to a kind's numbers.
#[derive(Clone, Debug)]
pub(super) struct Rounder {
    order: [u8; COUNT],
    /// Halfway between neighbours.
    bounds: [f32; COUNT - 1],
}

impl Rounder {
    pub(super) fn new(kind: Kind) -> Self {
        let (order, numbers) = (kind.order(), kind.numbers());
        let number = |rank: usize| numbers[usize::from(order[rank])];
        let bounds = std::array::from_fn(|rank| (number(rank) + number(rank + 1)) / 2.0);
        Self { order, bounds }
    }

    /// Rounds weights whose largest magnitudes by block are `largest`, two to a byte. A short
    /// last block is divided, where others are multiplied (`quantize_4bit`). Blocks have an
    /// even number of weights.
    pub(super) fn encode(&self, weights: &[f32], block: usize, largest: &[f32], out: &mut [u8]) {
        let mut codes = vec![0; block];
        let blocks = weights.chunks(block).zip(out.chunks_mut(block / 2));
        for ((weights, out), largest) in blocks.zip(largest) {
            let floor = largest.max(LEAST);
            let factor = 1.0 / floor;
            // An odd last one has a zero beside it.
            codes.resize(weights.len().next_multiple_of(2), 0);
            self.codes(&[0.0], |zero| zero, &mut codes[weights.len()..]);
            let own = &mut codes[..weights.len()];
            match weights.len() == block {
                true => self.codes(weights, |weight| weight * factor, own),
                false => self.codes(weights, |weight| weight / floor, own),
            }
            for (byte, pair) in out.iter_mut().zip(codes.as_chunks::<2>().0) {
                *byte = pair[0] << 4 | pair[1];
            }
        }
    }

    #[inline(always)]
    fn codes(&self, weights: &[f32], scaled: impl Fn(f32) -> f32, codes: &mut [u8]) {
        for (weight, code) in weights.iter().zip(&mut *codes) {
            let value = scaled(*weight);
            let mut rank = 0;
            for bound in &self.bounds {
                rank += u8::from(value > *bound);
            }
            *code = rank;
        }
        for code in codes {
            *code = self.order[usize::from(*code & 15)];
        }
    }
}

/// What the package takes for a block's largest magnitude at least.
const LEAST: f32 = 1e-38;

/// The largest magnitude of each block, as it is stored: that of a short last block is not
/// zero.
pub(super) fn maxima(weights: &[f32], block: usize, out: &mut Vec<f32>) {
    out.extend(weights.chunks(block).map(|weights| {
        let largest = super::super::float8_rounding::largest_magnitude(weights);
        if weights.len() < block { largest.max(LEAST) } else { largest }
    }));
}

/// Decodes from position `first` of the flattened matrix on. `bytes` begin with the one
/// that `first` is in, `scales` with the block's.
pub(super) fn decode(
    numbers: &[f32; COUNT],
    bytes: &[u8],
    scales: &[f32],
    block: usize,
    first: usize,
    out: &mut [f32],
) {
    let (odd, mut within, mut position) = (first % 2, first % block, 0);
    for scale in scales {
        let count = (block - within).min(out.len() - position);
        for (offset, out) in out[position..][..count].iter_mut().enumerate() {
            let nibble = position + odd + offset;
            let code = bytes[nibble / 2] >> (4 - nibble % 2 * 4) & 15;
            *out = numbers[usize::from(code)] * scale;
        }
        (position, within) = (position + count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, bytes_of};

    #[test]
    fn numbers_as_bitsandbytes_has_them() {
        for kind in [Kind::Nf4, Kind::Fp4] {
            assert_golden("bnb-maps", kind.name(), &bytes_of(&kind.numbers()));
        }
    }

    #[test]
    fn numbers_come_back() {
        for kind in [Kind::Nf4, Kind::Fp4] {
            let numbers = kind.numbers();
            let (rounder, mut out) = (Rounder::new(kind), [0; 8]);
            rounder.encode(&numbers, 16, &[1.0], &mut out);
            let mut back = [0.0; 16];
            decode(&numbers, &out, &[1.0], 64, 0, &mut back);
            assert_eq!(back, numbers);
        }
    }

    #[test]
    fn decoding_begins_anywhere() {
        let numbers = Kind::Nf4.numbers();
        let bytes: Vec<u8> = (0..128).collect();
        let scales = [1.0, 2.0, 4.0, 8.0];
        let mut all = [0.0; 256];
        decode(&numbers, &bytes, &scales, 64, 0, &mut all);
        for first in [1, 2, 63, 64, 65, 131] {
            let mut some = vec![0.0; 256 - first];
            decode(&numbers, &bytes[first / 2..], &scales[first / 64..], 64, first, &mut some);
            assert_eq!(some, all[first..], "{first}");
        }
    }
}
