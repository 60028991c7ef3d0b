//! Lanes in vector registers, written once for registers of any length.

/// Repeats an expression for every number of a register, as an array.
macro_rules! for_each_register {
    ([$($number:literal)*], $position:ident => $body:expr) => {
        [$({
            const $position: usize = $number;
            // SAFETY: by the invariant of `lanes` the machine has the instructions.
            unsafe { $body }
        }),*]
    };
}

/// Defines the lanes `Vectors` out of the registers' functions in the module, and their
/// `Decisions`. The numbers of the registers are listed.
///
/// Invariant: nothing but the functions that `compile` defines, and tests that have asked the
/// machine, names `Vectors`, which is private to `x86`. Those functions are compiled for the
/// instructions, and called only where the machine has them. So a value of these types, or a
/// call that makes one, is only where the registers' functions may be called.
macro_rules! lanes {
    ($numbers:tt, $count:literal) => {
        /// Sixteen numbers.
        #[derive(Clone, Copy)]
        pub(super) struct Vectors([Register; $count]);

        /// Sixteen decisions.
        #[derive(Clone, Copy)]
        pub(super) struct Decisions([Decision; $count]);

        lanes! { @operator $numbers, Vectors: Add add, Sub sub, Mul mul, Div div }
        lanes! { @operator $numbers, Decisions: BitAnd bitand, BitOr bitor }

        impl Neg for Vectors {
            type Output = Self;

            #[inline(always)]
            fn neg(self) -> Self {
                Self(for_each_register!($numbers, I => neg(self.0[I])))
            }
        }

        impl Lanes for Vectors {
            const REGISTERS: usize = $count;

            type Mask = Decisions;

            #[inline(always)]
            fn load(numbers: &[f32; LANES]) -> Self {
                let parts = numbers.as_chunks::<{ LANES / $count }>().0;
                Self(for_each_register!($numbers, I => load(&parts[I])))
            }

            #[inline(always)]
            fn store(self) -> [f32; LANES] {
                let mut numbers = [0.0; LANES];
                let parts = numbers.as_chunks_mut::<{ LANES / $count }>().0;
                for_each_register!($numbers, I => store(self.0[I], &mut parts[I]));
                numbers
            }

            #[inline(always)]
            fn splat(number: f32) -> Self {
                Self(for_each_register!($numbers, _I => splat(number)))
            }

            #[inline(always)]
            fn abs(self) -> Self {
                Self(for_each_register!($numbers, I => abs(self.0[I])))
            }

            #[inline(always)]
            fn nearest_integer(self) -> Self {
                let sum = self + Self::splat(ROUNDING_OFFSET);
                let bits = Self(for_each_register!($numbers, I => mantissa(sum.0[I])));
                bits - Self::splat(ROUNDING_OFFSET)
            }

            #[inline(always)]
            fn lowest_byte(self) -> Self {
                let sum = self + Self::splat(ROUNDING_OFFSET);
                let bits = Self(for_each_register!($numbers, I => low_mantissa(sum.0[I])));
                bits - Self::splat(8_388_608.0)
            }

            #[inline(always)]
            fn to_bytes(self) -> [u8; LANES] {
                let sum = self + Self::splat(ROUNDING_OFFSET);
                let integers = for_each_register!($numbers, I => as_integers(sum.0[I]));
                // SAFETY: by the invariant of `lanes` the machine has the instructions.
                unsafe { low_bytes(integers) }
            }

            #[inline(always)]
            fn to_truncated_bytes(self) -> [u8; LANES] {
                let integers = for_each_register!($numbers, I => truncate(self.0[I]));
                // SAFETY: by the invariant of `lanes` the machine has the instructions.
                unsafe { low_bytes(integers) }
            }

            #[inline(always)]
            fn pattern_bits(self, shift: u32, mask: u32) -> Self {
                Self(for_each_register!($numbers, I => pattern_bits(self.0[I], shift, mask)))
            }

            #[inline(always)]
            fn first_least(self) -> (f32, usize) {
                // SAFETY: by the invariant of `lanes` the machine has the instructions.
                let least = unsafe { least(self.0) };
                let equal = self.equal(Self::splat(least));
                let mut lanes = 0;
                for bits in for_each_register!($numbers, I => bits(equal.0[I])).into_iter().rev() {
                    lanes = lanes << (LANES / $count) | bits;
                }
                (least, lanes.trailing_zeros() as usize % LANES)
            }

            #[inline(always)]
            fn to_levels(self) -> [u8; LANES] {
                let integers = for_each_register!($numbers, I => truncate(self.0[I]));
                // SAFETY: by the invariant of `lanes` the machine has the instructions.
                unsafe { saturated_bytes(integers) }
            }

            #[inline(always)]
            fn from_bytes(bytes: &[u8; LANES]) -> Self {
                let parts = bytes.as_chunks::<{ LANES / $count }>().0;
                Self(for_each_register!($numbers, I => from_bytes(&parts[I])))
            }

            #[inline(always)]
            fn from_signed_bytes(bytes: &[i8; LANES]) -> Self {
                let parts = bytes.as_chunks::<{ LANES / $count }>().0;
                Self(for_each_register!($numbers, I => from_signed_bytes(&parts[I])))
            }

            #[inline(always)]
            fn splat_half(half: u16) -> Self {
                Self(for_each_register!($numbers, _I => splat_half(half)))
            }

            #[inline(always)]
            fn top_bits(bytes: &[u8; LANES]) -> u16 {
                super::top_bits(bytes)
            }

            #[inline(always)]
            fn ranges(blocks: &[&[f32; 2 * LANES]; LANES]) -> (Self, Self) {
                // SAFETY: by the invariant of `lanes` the machine has the instructions.
                let (least, greatest) = unsafe { ranges(blocks) };
                (Self(least), Self(greatest))
            }

            #[inline(always)]
            fn look_up(table: &[i8; 16], numbers: &[u8; LANES]) -> [i8; LANES] {
                // SAFETY: by the invariant of `lanes` the machine has the instructions.
                unsafe { super::look_up(table, numbers) }
            }

            #[inline(always)]
            fn transpose_square(blocks: &[&[f32; LANES]; LANES]) -> [Self; LANES] {
                let mut rows = [Self::zero(); LANES];
                for (quarter, rows) in rows.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let columns = for_each_register!($numbers, I => {
                        transpose_quarter(&blocks.as_chunks::<{ LANES / $count }>().0[I], quarter)
                    });
                    for (position, row) in rows.iter_mut().enumerate() {
                        for (register, column) in row.0.iter_mut().zip(&columns) {
                            *register = column[position];
                        }
                    }
                }
                rows
            }

            #[inline(always)]
            fn transpose_bytes(rows: &[[u8; LANES]; LANES]) -> [[u8; LANES]; LANES] {
                transpose_bytes(rows)
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                Self(for_each_register!($numbers, I => min(self.0[I], other.0[I])))
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                Self(for_each_register!($numbers, I => max(self.0[I], other.0[I])))
            }

            #[inline(always)]
            fn less(self, other: Self) -> Decisions {
                Decisions(for_each_register!($numbers, I => less(self.0[I], other.0[I])))
            }

            #[inline(always)]
            fn equal(self, other: Self) -> Decisions {
                Decisions(for_each_register!($numbers, I => equal(self.0[I], other.0[I])))
            }

            #[inline(always)]
            fn unequal(self, other: Self) -> Decisions {
                Decisions(for_each_register!($numbers, I => unequal(self.0[I], other.0[I])))
            }
        }

        impl Mask<Vectors> for Decisions {
            #[inline(always)]
            fn select(self, set: Vectors, unset: Vectors) -> Vectors {
                Vectors(
                    for_each_register!($numbers, I => select(self.0[I], set.0[I], unset.0[I])),
                )
            }

            #[inline(always)]
            fn any(self) -> bool {
                for_each_register!($numbers, I => any(self.0[I])).contains(&true)
            }
        }
    };
    (@operator $numbers:tt, $type:ident: $($operator:ident $function:ident),*) => {$(
        impl $operator for $type {
            type Output = Self;

            #[inline(always)]
            fn $function(self, other: Self) -> Self {
                Self(for_each_register!($numbers, I => $function(self.0[I], other.0[I])))
            }
        }
    )*};
}

/// Defines functions of registers, each one intrinsic or a few.
macro_rules! registers {
    ($features:literal: $($function:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block)*) => {$(
        #[inline]
        #[target_feature(enable = $features)]
        fn $function($($argument: $type),*) -> $result $body
    )*};
}

/// Combines the numbers of four registers with each other, within each part of 128 bits:
/// the first number is what comes of the first register's, and so on.
macro_rules! fold_fours {
    ($registers:expr, $fold:ident, $low:ident, $high:ident, $shuffle:ident) => {{
        let [a, b, c, d] = $registers;
        let ab = $fold($low(a, b), $high(a, b));
        let cd = $fold($low(c, d), $high(c, d));
        $fold($shuffle::<0x44>(ab, cd), $shuffle::<0xee>(ab, cd))
    }};
}

/// Turns four registers of four blocks' numbers into four rows, within each part of 128
/// bits.
macro_rules! transpose_fours {
    ($registers:expr, $low:ident, $high:ident, $shuffle:ident) => {{
        let [a, b, c, d] = $registers;
        let (ab, ab_high) = ($low(a, b), $high(a, b));
        let (cd, cd_high) = ($low(c, d), $high(c, d));
        [
            $shuffle::<0x44>(ab, cd),
            $shuffle::<0xee>(ab, cd),
            $shuffle::<0x44>(ab_high, cd_high),
            $shuffle::<0xee>(ab_high, cd_high),
        ]
    }};
}

pub(super) use {fold_fours, for_each_register, lanes, registers, transpose_fours};

use std::arch::x86_64::*;

use qz_codec::lanes::LANES;

/// Sixteen rows of sixteen bytes as columns: rows that are half of all apart are
/// interleaved, four times.
#[inline(always)]
pub(super) fn transpose_bytes(rows: &[[u8; LANES]; LANES]) -> [[u8; LANES]; LANES] {
    let mut rows = *rows;
    for _ in 0..4 {
        let mut next = [[0; LANES]; LANES];
        for (position, pair) in next.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            // SAFETY: every x86-64 has SSE2, and each of the arrays has sixteen bytes.
            unsafe {
                let low = _mm_loadu_si128(rows[position].as_ptr().cast());
                let high = _mm_loadu_si128(rows[position + LANES / 2].as_ptr().cast());
                let [first, second] = pair;
                _mm_storeu_si128(first.as_mut_ptr().cast(), _mm_unpacklo_epi8(low, high));
                _mm_storeu_si128(second.as_mut_ptr().cast(), _mm_unpackhi_epi8(low, high));
            }
        }
        rows = next;
    }
    rows
}
