//! The small floats of the OCP specifications: E4M3 and E8M0 of eight bits, E2M1 of four
//! (OCP 8-bit Floating Point 1.0; OCP Microscaling Formats 1.0). E4M3 is the one without
//! infinities that torch calls `float8_e4m3fn`.

/// The largest number of E4M3.
pub const LARGEST_E4M3: f32 = 448.0;

/// Bits to the left of which a binary32's mantissa has E4M3's.
const DROPPED: u32 = 20;
/// How much larger a binary32's exponent bias is than E4M3's.
const BIAS_STEP: u32 = (127 - 7) << 23;
/// The least number of E4M3 with a whole mantissa, 2^-6.
const LEAST_NORMAL_E4M3: f32 = 0.015_625;

/// The nearest E4M3 number, ties to even; what lies beyond the largest becomes that, as
/// after the clamp that every quantizer puts before torch's cast. A NaN stays one.
#[inline(always)]
pub fn e4m3_from_f32(value: f32) -> u8 {
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
pub fn f32_from_e4m3(byte: u8) -> f32 {
    let magnitude = u32::from(byte & 0x7f);
    let normal = f32::from_bits((magnitude << DROPPED) + BIAS_STEP);
    // At most three bits times a power of two.
    let subnormal = magnitude as f32 * (1.0 / 512.0);
    let number = if magnitude < 8 { subnormal } else { normal };
    let number = if magnitude == 0x7f { f32::NAN } else { number };
    f32::from_bits(number.to_bits() | u32::from(byte & 0x80) << 24)
}

/// The power of two that a byte of E8M0 stands for; 255 is no number.
#[inline(always)]
pub fn f32_from_e8m0(byte: u8) -> f32 {
    f32::from_bits(match byte {
        // 2^-127 is subnormal.
        0 => 1 << 22,
        255 => f32::NAN.to_bits(),
        exponent => u32::from(exponent) << 23,
    })
}

/// The largest number of E2M1.
pub const LARGEST_E2M1: f32 = 6.0;

/// The numbers of E2M1 by code; the upper bit is the sign.
pub const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The nearest code of E2M1, halves to the even code; beyond the largest, that
/// (compressed-tensors, `cast_to_fp4`). A number below zero keeps its sign when it
/// becomes zero.
#[inline(always)]
pub fn e2m1_from_f32(value: f32) -> u8 {
    let magnitude = value.abs();
    let code = u8::from(magnitude > 0.25)
        + u8::from(magnitude >= 0.75)
        + u8::from(magnitude > 1.25)
        + u8::from(magnitude >= 1.75)
        + u8::from(magnitude > 2.5)
        + u8::from(magnitude >= 3.5)
        + u8::from(magnitude > 5.0);
    code | u8::from(value < 0.0) << 3
}
