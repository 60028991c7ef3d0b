//! Lanes as plain arrays, for every machine.

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};

use super::{LANES, Lanes, Mask};
use crate::number::{ROUNDING_OFFSET, truncate_to_i8};

/// An array of numbers, whose operations are loops that a compiler may turn into
/// vector instructions.
#[derive(Clone, Copy, Debug)]
pub struct Portable([f32; LANES]);

/// An array of decisions.
#[derive(Clone, Copy, Debug)]
pub struct PortableMask([bool; LANES]);

/// Defines a function as a loop over the lanes: a closure would not be compiled
/// for the caller's instructions.
macro_rules! in_every_lane {
    ($function:ident($a:ident) -> Self $body:expr) => {
        #[inline(always)]
        fn $function(mut self) -> Self {
            for lane in &mut self.0 {
                let $a = *lane;
                *lane = $body;
            }
            self
        }
    };
    ($function:ident($a:ident, $b:ident) -> Self $body:expr) => {
        #[inline(always)]
        fn $function(mut self, other: Self) -> Self {
            for (lane, other) in self.0.iter_mut().zip(other.0) {
                let ($a, $b) = (*lane, other);
                *lane = $body;
            }
            self
        }
    };
    ($function:ident($a:ident, $b:ident) -> Mask $body:expr) => {
        #[inline(always)]
        fn $function(self, other: Self) -> PortableMask {
            let mut mask = PortableMask([false; LANES]);
            for (mask, ($a, $b)) in mask.0.iter_mut().zip(self.0.into_iter().zip(other.0)) {
                *mask = $body;
            }
            mask
        }
    };
}

macro_rules! operators {
    ($($type:ident $operator:ident $function:ident($a:ident, $b:ident) $body:expr;)*) => {
        $(impl $operator for $type {
            type Output = Self;
            in_every_lane! { $function(a, b) -> Self { let ($a, $b) = (a, b); $body } }
        })*
    };
}

operators! {
    Portable Add add(a, b) a + b;
    Portable Sub sub(a, b) a - b;
    Portable Mul mul(a, b) a * b;
    Portable Div div(a, b) a / b;
    PortableMask BitAnd bitand(a, b) a & b;
    PortableMask BitOr bitor(a, b) a | b;
}

impl Neg for Portable {
    type Output = Self;
    in_every_lane! { neg(a) -> Self -a }
}

impl Lanes for Portable {
    const REGISTERS: usize = LANES;

    type Mask = PortableMask;

    #[inline(always)]
    fn load(numbers: &[f32; LANES]) -> Self {
        Self(*numbers)
    }

    #[inline(always)]
    fn store(self) -> [f32; LANES] {
        self.0
    }

    #[inline(always)]
    fn splat(number: f32) -> Self {
        Self([number; LANES])
    }

    in_every_lane! { abs(a) -> Self a.abs() }

    // The 23 bits that stay, read as the mantissa of a number in 2^23..2^24, are
    // above the integer by the offset.
    in_every_lane! {
        nearest_integer(a) -> Self {
            let bits = (a + ROUNDING_OFFSET).to_bits();
            f32::from_bits(bits & 0x007f_ffff | 0x4b00_0000) - ROUNDING_OFFSET
        }
    }

    in_every_lane! {
        lowest_byte(a) -> Self {
            let bits = (a + ROUNDING_OFFSET).to_bits();
            f32::from_bits(bits & 0x0000_00ff | 0x4b00_0000) - 8_388_608.0
        }
    }

    #[inline(always)]
    fn to_bytes(self) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        for (byte, number) in bytes.iter_mut().zip(self.0) {
            *byte = (number + ROUNDING_OFFSET).to_bits() as u8;
        }
        bytes
    }

    #[inline(always)]
    fn pattern_bits(mut self, shift: u32, mask: u32) -> Self {
        for lane in &mut self.0 {
            *lane = (lane.to_bits() >> shift & mask) as i32 as f32;
        }
        self
    }

    #[inline(always)]
    fn to_truncated_bytes(self) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        for (byte, number) in bytes.iter_mut().zip(self.0) {
            *byte = truncate_to_i8(number) as u8;
        }
        bytes
    }

    #[inline(always)]
    fn from_bytes(bytes: &[u8; LANES]) -> Self {
        let mut numbers = [0.0; LANES];
        for (number, byte) in numbers.iter_mut().zip(bytes) {
            *number = f32::from(*byte);
        }
        Self(numbers)
    }

    #[inline(always)]
    fn from_signed_bytes(bytes: &[i8; LANES]) -> Self {
        let mut numbers = [0.0; LANES];
        for (number, byte) in numbers.iter_mut().zip(bytes) {
            *number = f32::from(*byte);
        }
        Self(numbers)
    }

    in_every_lane! { min(a, b) -> Self if a < b { a } else { b } }

    in_every_lane! { max(a, b) -> Self if a > b { a } else { b } }

    in_every_lane! { less(a, b) -> Mask a < b }

    in_every_lane! { equal(a, b) -> Mask a == b }

    in_every_lane! { unequal(a, b) -> Mask a != b }
}

impl Mask<Portable> for PortableMask {
    #[inline(always)]
    fn select(self, set: Portable, mut unset: Portable) -> Portable {
        for (lane, (mask, set)) in unset.0.iter_mut().zip(self.0.into_iter().zip(set.0)) {
            *lane = if mask { set } else { *lane };
        }
        unset
    }

    #[inline(always)]
    fn any(self) -> bool {
        let mut any = false;
        for lane in self.0 {
            any |= lane;
        }
        any
    }
}
