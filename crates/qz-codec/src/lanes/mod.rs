//! The searches on many sub-blocks at once, one in each lane.
//!
//! A sub-block's sums keep their own order within its lane, so the results are
//! those of [`crate::search`] bit for bit; the steps depend on no value, only
//! what they select does. A compiler turns each operation into vector
//! instructions. Everything is `#[inline(always)]`, so that a caller compiled for
//! wider vectors gets the searches in terms of those.

pub mod affine;
pub mod descent;
pub mod positive;
pub mod signed;
#[cfg(test)]
mod tests;

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};

use crate::number::ROUNDING_OFFSET;

/// One number for each of `N` sub-blocks.
#[derive(Clone, Copy, Debug)]
pub struct Lanes<const N: usize>(pub [f32; N]);

/// One decision for each of `N` sub-blocks.
#[derive(Clone, Copy, Debug)]
pub struct Mask<const N: usize>(pub [bool; N]);

/// Defines functions that do the same in every lane. They are loops and not calls
/// with closures, which would not be compiled for the caller's instructions.
macro_rules! in_every_lane {
    ($(#[$doc:meta])* $function:ident($a:ident) -> Self $body:expr) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $function(mut self) -> Self {
            for lane in &mut self.0 {
                let $a = *lane;
                *lane = $body;
            }
            self
        }
    };
    ($(#[$doc:meta])* $function:ident($a:ident, $b:ident) -> Self $body:expr) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $function(mut self, other: Self) -> Self {
            for (lane, other) in self.0.iter_mut().zip(other.0) {
                let ($a, $b) = (*lane, other);
                *lane = $body;
            }
            self
        }
    };
    ($(#[$doc:meta])* $function:ident($a:ident, $b:ident) -> Mask $body:expr) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $function(self, other: Self) -> Mask<N> {
            let mut mask = Mask([false; N]);
            for (mask, ($a, $b)) in mask.0.iter_mut().zip(self.0.into_iter().zip(other.0)) {
                *mask = $body;
            }
            mask
        }
    };
}

macro_rules! operator {
    ($($type:ident $operator:ident $function:ident $a:ident $b:ident $body:expr;)*) => {
        $(impl<const N: usize> $operator for $type<N> {
            type Output = Self;
            #[inline(always)]
            fn $function(mut self, other: Self) -> Self {
                for (lane, other) in self.0.iter_mut().zip(other.0) {
                    let ($a, $b) = (*lane, other);
                    *lane = $body;
                }
                self
            }
        })*
    };
}

operator! {
    Lanes Add add a b a + b;
    Lanes Sub sub a b a - b;
    Lanes Mul mul a b a * b;
    Lanes Div div a b a / b;
    Mask BitAnd bitand a b a & b;
    Mask BitOr bitor a b a | b;
}

impl<const N: usize> Neg for Lanes<N> {
    type Output = Self;
    #[inline(always)]
    fn neg(mut self) -> Self {
        for lane in &mut self.0 {
            *lane = -*lane;
        }
        self
    }
}

impl<const N: usize> Lanes<N> {
    /// Zero in every lane.
    pub const ZERO: Self = Self([0.0; N]);

    /// The same number in every lane.
    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        Self([value; N])
    }

    in_every_lane! {
        /// Magnitudes.
        abs(a) -> Self a.abs()
    }
    in_every_lane! {
        /// [`crate::number::nearest_integer`] as a float, equal for every bit
        /// pattern: the 23 bits that stay, read as the mantissa of a number in
        /// 2^23..2^24, are above that integer by the offset.
        nearest_integer(a) -> Self {
            let bits = (a + ROUNDING_OFFSET).to_bits();
            f32::from_bits(bits & 0x007f_ffff | 0x4b00_0000) - ROUNDING_OFFSET
        }
    }
    in_every_lane! {
        /// The lowest byte of an integer between -2^22 and 2^22, as a float.
        lowest_byte(a) -> Self {
            let bits = (a + ROUNDING_OFFSET).to_bits();
            f32::from_bits(bits & 0x0000_00ff | 0x4b00_0000) - 8_388_608.0
        }
    }
    in_every_lane! {
        /// The lesser; the other where one is a NaN.
        min(a, b) -> Self if a < b { a } else { b }
    }
    in_every_lane! {
        /// The greater; the other where one is a NaN.
        max(a, b) -> Self if a > b { a } else { b }
    }
    in_every_lane! {
        /// Where this is less; false for NaNs.
        less(a, b) -> Mask a < b
    }
    in_every_lane! {
        /// Where this is greater; false for NaNs.
        greater(a, b) -> Mask a > b
    }
    in_every_lane! {
        /// Where both are equal.
        equal(a, b) -> Mask a == b
    }
    in_every_lane! {
        /// Where they are not equal; true for NaNs.
        unequal(a, b) -> Mask a != b
    }
}

impl<const N: usize> Mask<N> {
    /// Set in no lane.
    pub const NONE: Self = Self([false; N]);

    /// The first where set, else the second.
    #[inline(always)]
    pub fn select(self, set: Lanes<N>, mut unset: Lanes<N>) -> Lanes<N> {
        for (lane, (mask, set)) in unset.0.iter_mut().zip(self.0.into_iter().zip(set.0)) {
            *lane = if mask { set } else { *lane };
        }
        unset
    }

    /// True if set in some lane.
    #[inline(always)]
    pub fn any(self) -> bool {
        let mut any = false;
        for lane in self.0 {
            any |= lane;
        }
        any
    }
}

/// Turns `N` sub-blocks of `LENGTH` values into `LENGTH` rows of one value each.
#[inline(always)]
pub fn transpose<const N: usize, const LENGTH: usize>(
    sub_blocks: &[&[f32; LENGTH]; N],
) -> [Lanes<N>; LENGTH] {
    let mut rows = [Lanes::ZERO; LENGTH];
    for (position, row) in rows.iter_mut().enumerate() {
        for (value, sub_block) in row.0.iter_mut().zip(sub_blocks) {
            *value = sub_block[position];
        }
    }
    rows
}
