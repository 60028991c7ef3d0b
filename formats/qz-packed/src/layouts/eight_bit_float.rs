//! The eight-bit floats of the OCP specifications: E4M3 and E5M2 for weights, E8M0 for
//! scales (OCP 8-bit Floating Point 1.0; OCP Microscaling Formats 1.0). E4M3 is the one
//! without infinities that torch calls `float8_e4m3fn`.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "arithmetic on the bits of one number, and loops over slices whose lengths are asserted"
)]

/// The largest number of E4M3.
pub(crate) const LARGEST_E4M3: f32 = 448.0;

/// Bits to the left of which a binary32's mantissa has E4M3's.
const DROPPED: u32 = 20;
/// How much larger a binary32's exponent bias is than E4M3's.
const BIAS_STEP: u32 = (127 - 7) << 23;
/// The least number of E4M3 with a whole mantissa, 2^-6.
const LEAST_NORMAL_E4M3: f32 = 0.015_625;

/// The nearest E4M3 number, ties to even; what lies beyond the largest becomes that, as
/// after the clamp that every quantizer puts before torch's cast. A NaN stays one.
#[inline(always)]
pub(crate) fn e4m3_from_f32(value: f32) -> u8 {
    let bits = value.to_bits();
    let unbounded = f32::from_bits(bits & 0x7fff_ffff);
    let magnitude = if unbounded < LARGEST_E4M3 { unbounded } else { LARGEST_E4M3 };
    let bits_of = magnitude.to_bits();
    // Just under half of the last kept bit, plus that bit, rounds to even; a carry runs
    // into the exponent.
    let half = (1 << (DROPPED - 1)) - 1 + ((bits_of >> DROPPED) & 1);
    let normal = bits_of.wrapping_add(half).wrapping_sub(BIAS_STEP) >> DROPPED;
    // One unit in the last place of 2^14 is 2^-9, the spacing of the subnormals.
    let subnormal = (magnitude + 16_384.0).to_bits().wrapping_sub(16_384.0f32.to_bits());
    let number = if magnitude < LEAST_NORMAL_E4M3 { subnormal } else { normal };
    let number = if value.is_nan() { 0x7f } else { number };
    ((bits >> 24) & 0x80) as u8 | number as u8
}

/// The number that a byte of E4M3 stands for.
#[inline(always)]
pub(crate) fn f32_from_e4m3(byte: u8) -> f32 {
    let magnitude = u32::from(byte & 0x7f);
    let normal = f32::from_bits((magnitude << DROPPED) + BIAS_STEP);
    // At most three bits times a power of two.
    let subnormal = magnitude as f32 * (1.0 / 512.0);
    let number = if magnitude < 8 { subnormal } else { normal };
    let number = if magnitude == 0x7f { f32::NAN } else { number };
    f32::from_bits(number.to_bits() | u32::from(byte & 0x80) << 24)
}

/// The number that a byte of E5M2 stands for: the upper half of a binary16.
#[inline(always)]
pub(crate) fn f32_from_e5m2(byte: u8) -> f32 {
    qz_codec::number::f32_from_f16(u16::from(byte) << 8)
}

/// The power of two that a byte of E8M0 stands for; 255 is no number.
#[inline(always)]
pub(crate) fn f32_from_e8m0(byte: u8) -> f32 {
    f32::from_bits(match byte {
        // 2^-127 is subnormal.
        0 => 1 << 22,
        255 => f32::NAN.to_bits(),
        exponent => u32::from(exponent) << 23,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{floats, golden};

    #[test]
    fn every_byte_as_torch_reads_it() {
        let check = |case: &str, read: fn(u8) -> f32| {
            let known = floats(&golden(case, "out"));
            for (byte, known) in (0..=255).zip(known) {
                let ours = if read(byte).is_nan() { 12_345.0 } else { read(byte) };
                // The goldens put a number where torch has none, and keep infinities.
                let known = if known == f32::MAX { f32::INFINITY } else { known };
                let known = if known == f32::MIN { f32::NEG_INFINITY } else { known };
                assert_eq!(ours.to_bits(), known.to_bits(), "{case} {byte:#04x}");
            }
        };
        check("e4m3-values", f32_from_e4m3);
        check("e5m2-values", f32_from_e5m2);
        check("e8m0-values", f32_from_e8m0);
    }

    #[test]
    fn every_boundary_as_torch_rounds_it() {
        let known = golden("e4m3-cast", "out");
        for (value, known) in floats(&golden("e4m3-cast", "in")).into_iter().zip(known) {
            assert_eq!(e4m3_from_f32(value), known, "{value:e}");
        }
    }

    #[test]
    fn every_number_comes_back() {
        for byte in 0..=255u8 {
            assert_eq!(e4m3_from_f32(f32_from_e4m3(byte)), byte, "{byte:#04x}");
        }
    }

    #[test]
    fn beyond_the_largest() {
        let check =
            |value: f32, expected: u8| assert_eq!(e4m3_from_f32(value), expected, "{value}");
        check(448.0, 0x7e);
        check(464.0, 0x7e);
        check(1e30, 0x7e);
        check(f32::NEG_INFINITY, 0xfe);
        check(f32::NAN, 0x7f);
        check(-0.0, 0x80);
        check(f32::from_bits(1), 0);
    }
}
