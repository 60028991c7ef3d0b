//! The searches on sixteen sub-blocks at once, one in each lane.
//!
//! A sub-block's sums keep their own order within its lane, so the results are
//! those of [`crate::search`] bit for bit; the steps depend on no value, only
//! what they select does. The searches are written for any type that is
//! [`Lanes`], here the plain arrays of [`Portable`]; vector registers are such
//! types too. Everything is `#[inline(always)]`, so that a caller compiled for
//! more instructions gets the searches in terms of those; nothing here or in the
//! encoders hands lanes to a closure, which would not be.

pub mod affine;
pub mod descent;
pub mod nonlinear;
mod portable;
pub mod positive;
pub mod signed;

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};

pub use portable::Portable;

use crate::number::{ROUNDING_OFFSET, f32_from_f16};

/// How many lanes there are: the sub-blocks of one super-block, or of two, or the
/// scales and minimums of a batch of super-blocks.
pub const LANES: usize = 16;

/// One number for each of sixteen sub-blocks. All functions do the same in every
/// lane, and what they do is exact to the bit; arithmetic rounds to nearest, once
/// per operation.
pub trait Lanes:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// How many registers the lanes take: with few, a search does well to have
    /// several groups of sub-blocks under way.
    const REGISTERS: usize;

    /// One decision for each lane.
    type Mask: Mask<Self>;

    /// These numbers.
    fn load(numbers: &[f32; LANES]) -> Self;

    /// The numbers.
    fn store(self) -> [f32; LANES];

    /// The same number in every lane.
    fn splat(number: f32) -> Self;

    /// Magnitudes.
    fn abs(self) -> Self;

    /// [`crate::number::nearest_integer`] as a float, equal for every bit pattern.
    fn nearest_integer(self) -> Self;

    /// The nearest integer, ties to even, for magnitudes below 2^22.
    #[inline(always)]
    fn nearest_small_integer(self) -> Self {
        self + Self::splat(ROUNDING_OFFSET) - Self::splat(ROUNDING_OFFSET)
    }

    /// The lowest byte of an integer between -2^22 and 2^22, as a float.
    fn lowest_byte(self) -> Self;

    /// The lowest bytes of integers between -2^22 and 2^22.
    fn to_bytes(self) -> [u8; LANES];

    /// Some bits of the numbers' patterns, as an integer: those from `shift` on that
    /// `mask` selects, which has at most the lowest 16 bits.
    fn pattern_bits(self, shift: u32, mask: u32) -> Self;

    /// The least number and the first lane that has it; no number is a NaN.
    #[inline(always)]
    fn first_least(self) -> (f32, usize) {
        let numbers = self.store();
        let (mut least, mut first) = (numbers[0], 0);
        for (lane, number) in numbers.into_iter().enumerate() {
            if number < least {
                (least, first) = (number, lane);
            }
        }
        (least, first)
    }

    /// The lowest bytes of the numbers cut to integers:
    /// [`crate::number::truncate_to_i8`], equal for every bit pattern.
    fn to_truncated_bytes(self) -> [u8; LANES];

    /// The numbers cut to integers, which lie in 0..128; zeros for NaNs and infinities.
    #[inline(always)]
    fn to_levels(self) -> [u8; LANES] {
        self.to_truncated_bytes()
    }

    /// Bytes as numbers.
    fn from_bytes(bytes: &[u8; LANES]) -> Self;

    /// Signed bytes as numbers.
    fn from_signed_bytes(bytes: &[i8; LANES]) -> Self;

    /// The number that a binary16 stands for, [`crate::number::f32_from_f16`], in every
    /// lane.
    #[inline(always)]
    fn splat_half(half: u16) -> Self {
        Self::splat(f32_from_f16(half))
    }

    /// The top bit of each byte, the first one's lowest.
    #[inline(always)]
    fn top_bits(bytes: &[u8; LANES]) -> u16 {
        let mut bits = 0;
        for (position, byte) in bytes.iter().enumerate() {
            bits |= u16::from(byte >> 7) << position;
        }
        bits
    }

    /// The least and the greatest number of each of sixteen blocks, of two rows each. None
    /// is a NaN; of zeros with both signs it may be either.
    #[inline(always)]
    fn ranges(blocks: &[&[f32; 2 * LANES]; LANES]) -> (Self, Self) {
        let (mut least, mut greatest) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        for (lane, block) in blocks.iter().enumerate() {
            for &number in *block {
                least[lane] = if number < least[lane] { number } else { least[lane] };
                greatest[lane] = if number > greatest[lane] { number } else { greatest[lane] };
            }
        }
        (Self::load(&least), Self::load(&greatest))
    }

    /// What a table has at each number; numbers are below 16.
    #[inline(always)]
    fn look_up(table: &[i8; 16], numbers: &[u8; LANES]) -> [i8; LANES] {
        let mut found = [0; LANES];
        for (found, number) in found.iter_mut().zip(numbers) {
            *found = table[usize::from(number & 15)];
        }
        found
    }

    /// Turns sixteen times sixteen numbers into rows of one number each.
    #[inline(always)]
    fn transpose_square(blocks: &[&[f32; LANES]; LANES]) -> [Self; LANES] {
        let mut rows = [Self::zero(); LANES];
        for (position, row) in rows.iter_mut().enumerate() {
            let mut numbers = [0.0; LANES];
            for (number, block) in numbers.iter_mut().zip(blocks) {
                *number = block[position];
            }
            *row = Self::load(&numbers);
        }
        rows
    }

    /// Turns sixteen rows of one byte for each block into blocks of sixteen bytes.
    #[inline(always)]
    fn transpose_bytes(rows: &[[u8; LANES]; LANES]) -> [[u8; LANES]; LANES] {
        let mut blocks = [[0; LANES]; LANES];
        for (position, row) in rows.iter().enumerate() {
            for (block, byte) in blocks.iter_mut().zip(row) {
                block[position] = *byte;
            }
        }
        blocks
    }

    /// This if it is less, else the other: the other where they are equal or
    /// either is a NaN.
    fn min(self, other: Self) -> Self;

    /// This if it is greater, else the other.
    fn max(self, other: Self) -> Self;

    /// Where this is less; false for NaNs.
    fn less(self, other: Self) -> Self::Mask;

    /// Where both are equal; false for NaNs.
    fn equal(self, other: Self) -> Self::Mask;

    /// Where they are not equal; true for NaNs.
    fn unequal(self, other: Self) -> Self::Mask;

    /// Where this is greater; false for NaNs.
    #[inline(always)]
    fn greater(self, other: Self) -> Self::Mask {
        other.less(self)
    }

    /// Zero in every lane.
    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }
}

/// One decision for each lane.
pub trait Mask<L>: Copy + BitAnd<Output = Self> + BitOr<Output = Self> {
    /// The first number where the mask is set, else the second.
    fn select(self, set: L, unset: L) -> L;

    /// True if set in some lane.
    fn any(self) -> bool;
}

/// Turns sixteen sub-blocks of `LENGTH` values into `LENGTH` rows of one value
/// each.
#[inline(always)]
pub fn transpose<L: Lanes, const LENGTH: usize>(
    sub_blocks: &[&[f32; LENGTH]; LANES],
) -> [L; LENGTH] {
    const { assert!(LENGTH.is_multiple_of(LANES) || LENGTH == LANES / 2) };
    let mut rows = [L::zero(); LENGTH];
    if LENGTH < LANES {
        // Few enough that no one waits for them.
        for (position, row) in rows.iter_mut().enumerate() {
            let mut numbers = [0.0; LANES];
            for (number, sub_block) in numbers.iter_mut().zip(sub_blocks) {
                *number = sub_block[position];
            }
            *row = L::load(&numbers);
        }
        return rows;
    }
    for (part, rows) in rows.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut squares = [&[0.0; LANES]; LANES];
        for (square, sub_block) in squares.iter_mut().zip(sub_blocks) {
            *square = &sub_block.as_chunks().0[part];
        }
        *rows = L::transpose_square(&squares);
    }
    rows
}
