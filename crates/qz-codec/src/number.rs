//! The reference's number conversions. Each is defined on every bit pattern, so
//! that an overflowed scale or a NaN gives the reference's bytes too.

/// Adding it to a small float leaves the nearest integer, ties to even, in the
/// low mantissa bits: 1.5 * 2^23.
pub(crate) const ROUNDING_OFFSET: f32 = 12_582_912.0;

/// The nearest integer, ties to even, for |value| below 2^22; elsewhere whatever
/// the low 23 bits of the shifted float happen to say (ggml-quants.c,
/// `nearest_int`). The result always lies in -2^22..2^22.
#[inline(always)]
pub fn nearest_integer(value: f32) -> i32 {
    ((value + ROUNDING_OFFSET).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// C's cast from float to a signed byte as x86-64 compilers make it: CVTTSS2SI
/// to 32 bits, of which the low eight stay. Out of range, that instruction gives
/// 0x8000_0000 (Intel SDM, "CVTTSS2SI"), so the byte is 0; Rust's own cast would
/// saturate.
#[inline(always)]
pub fn truncate_to_i8(value: f32) -> i8 {
    // Numbers that would not fit end at a bound, of which only the upper one
    // differs from the instruction's in its low byte; a NaN gives 0 in both.
    if value < 2_147_483_648.0 { value as i32 as i8 } else { 0 }
}

/// The largest integer that is not above the base-2 logarithm of a positive number,
/// that logarithm being rounded to binary32 first, as C's `floorf(log2f(value))` has
/// it. So a number just below a power of two counts as that power where the
/// logarithm's neighbour below is too far away.
#[inline(always)]
pub(crate) fn floor_of_logarithm(value: f32) -> i32 {
    // Scaling by 2^24 makes subnormal numbers normal.
    let subnormal = value < f32::MIN_POSITIVE;
    let bits = (if subnormal { value * 16_777_216.0 } else { value }).to_bits();
    let exponent = (bits >> 23) as i32 - if subnormal { 127 + 24 } else { 127 };
    let next = exponent + 1;
    // How far below 2^next the value is, in 2^-24 of that: its logarithm is below
    // `next` by that many times 2^-24 / ln 2.
    let below = (1 << 23) - (bits & 0x007f_ffff) as i32;
    // Half of the distance from `next` to its neighbour below, in 2^-24.
    let half_distance = match next {
        0 => 0.0,
        // Between the binary logarithms of floats lie 2^-23 of their power of two.
        next => power_below(next),
    };
    if below as f32 <= half_distance * std::f32::consts::LN_2 { next } else { exponent }
}

/// The largest power of two that is at most the magnitude of a non-zero integer, or,
/// for a positive one, below it.
#[inline(always)]
fn power_below(integer: i32) -> f32 {
    let magnitude = if integer > 0 { integer - 1 } else { -integer };
    // Below 1, floats are twice as dense as above.
    if magnitude == 0 { 0.5 } else { f32::from_bits((magnitude as f32).to_bits() & 0x7f80_0000) }
}

/// The nearest binary16, ties to even; every NaN becomes the quiet NaN of its
/// sign (ggml-impl.h, `ggml_compute_fp32_to_fp16`). The `half` crate keeps NaN
/// payloads, and picks an instruction at run time for each number.
#[inline(always)]
pub fn f16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Half's exponent bias is 112 less. Adding just under half of the last kept
    // bit, plus that bit, rounds to even; a carry runs into the exponent, and
    // from the largest exponent into infinity.
    let rounded = magnitude.wrapping_sub(112 << 23).wrapping_add(0x0fff + ((magnitude >> 13) & 1));
    let normal = rounded >> 13;
    // One unit in the last place of 0.5 is 2^-24, the spacing of half's
    // subnormals: the addition rounds to it.
    let subnormal =
        (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits()) & 0xffff;
    let finite = if magnitude < 113 << 23 { subnormal } else { normal };
    let bounded = if magnitude >= (127 + 16) << 23 { 0x7c00 } else { finite };
    let number = if magnitude > 0x7f80_0000 { 0x7e00 } else { bounded };
    ((bits >> 16) & 0x8000) as u16 | number as u16
}

/// The number a binary16 stands for. Signalling NaNs become quiet, as they do in
/// any arithmetic (ggml-impl.h, `ggml_compute_fp16_to_fp32`).
#[inline(always)]
pub fn f32_from_f16(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff);
    let shifted = (magnitude << 13) + (112 << 23);
    let special = shifted + (112 << 23);
    let quiet = if magnitude > 0x7c00 { special | 0x0040_0000 } else { special };
    let normal = if magnitude >= 0x7c00 { quiet } else { shifted };
    // The magnitude has at most ten bits here, so both steps are exact.
    let subnormal = (magnitude as i32 as f32 * f32::from_bits(0x3380_0000)).to_bits();
    let number = if magnitude < 0x0400 { subnormal } else { normal };
    f32::from_bits(u32::from(half & 0x8000) << 16 | number)
}

/// True for infinities and NaNs.
#[inline(always)]
pub(crate) fn f16_is_non_finite(half: u16) -> bool {
    half & 0x7c00 == 0x7c00
}

/// The first number of which something is true. Runs of numbers are asked as a whole, which
/// vector instructions do at once.
pub(crate) fn first_number<const BYTES: usize>(
    bytes: &[u8],
    is_odd: impl Fn([u8; BYTES]) -> bool,
) -> Option<usize> {
    const RUN: usize = 64;
    let numbers = bytes.as_chunks().0;
    let any = |run: &[[u8; BYTES]; RUN]| run.iter().fold(false, |any, one| any | is_odd(*one));
    let passed = numbers.as_chunks::<RUN>().0.iter().take_while(|run| !any(run)).count() * RUN;
    let odd = numbers[passed..].iter().position(|number| is_odd(*number))?;
    Some(passed + odd)
}

/// The nearest bfloat16, ties to even, subnormals kept; NaNs keep sign and upper
/// payload and become quiet (ggml-impl.h, `ggml_compute_fp32_to_bf16`).
#[inline(always)]
pub fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded }) as u16
}

/// The number a bfloat16 stands for.
#[inline(always)]
pub fn f32_from_bf16(upper: u16) -> f32 {
    f32::from_bits(u32::from(upper) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_integers() {
        let check = |value: f32, expected: i32| {
            assert_eq!(nearest_integer(value), expected, "{value:e}");
        };
        check(0.0, 0);
        check(-0.0, 0);
        check(0.5, 0);
        check(1.5, 2);
        check(2.5, 2);
        check(-0.5, 0);
        check(-1.5, -2);
        check(4_194_303.0, 4_194_303);
        check(-4_194_304.0, -4_194_304);
        // Out of range: the mask wraps, infinities have an empty mantissa.
        check(4_194_304.0, -4_194_304);
        check(1e30, 0x0049_f2ca - 0x0040_0000);
        check(f32::INFINITY, -0x0040_0000);
        check(f32::NEG_INFINITY, -0x0040_0000);
        check(f32::NAN, 0);
    }

    #[test]
    fn bytes_as_c_casts_them() {
        let check = |value: f32, expected: i8| {
            assert_eq!(truncate_to_i8(value), expected, "{value:e}");
        };
        check(127.9, 127);
        check(-127.9, -127);
        check(128.0, -128);
        check(300.0, 44);
        check(-300.0, -44);
        check(2_147_483_520.0, -128);
        check(2_147_483_648.0, 0);
        check(-2_147_483_648.0, 0);
        check(f32::INFINITY, 0);
        check(f32::NAN, 0);
    }

    #[test]
    fn logarithms() {
        let check = |value: f32, expected: i32| {
            assert_eq!(floor_of_logarithm(value), expected, "{value:e}");
        };
        check(1.0, 0);
        check(1.5, 0);
        check(1.0f32.next_down(), -1);
        check(2.0f32.next_down(), 0);
        check(4.0f32.next_down(), 1);
        check(8.0f32.next_down(), 3);
        check(8.0f32.next_down().next_down(), 2);
        check(0.5f32.next_down(), -2);
        check(0.25f32.next_down(), -2);
        check(0.25f32.next_down().next_down(), -3);
        check(f32::MAX, 128);
        check(f32::MIN_POSITIVE, -126);
        check(f32::from_bits(1), -149);
        check(f32::from_bits(3), -148);
    }

    #[test]
    fn every_half_comes_back() {
        for half in 0..=u16::MAX {
            let expected = if half & 0x7fff > 0x7c00 { half & 0x8000 | 0x7e00 } else { half };
            assert_eq!(f16_from_f32(f32_from_f16(half)), expected, "{half:#06x}");
        }
    }

    #[test]
    fn halves_as_the_half_crate_rounds_them() {
        let check = |bits: u32| {
            let value = f32::from_bits(bits);
            if !value.is_nan() {
                let expected = half::f16::from_f32(value);
                assert_eq!(f16_from_f32(value), expected.to_bits(), "{bits:#010x}");
                let expected = half::bf16::from_f32(value);
                assert_eq!(bf16_from_f32(value), expected.to_bits(), "{bits:#010x}");
            }
        };
        // Every exponent, with mantissas at and beside each rounding boundary.
        for upper in 0..=u32::from(u16::MAX) {
            for lower in [0, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000] {
                check(upper << 16 | lower);
            }
            check(upper << 16 | 0x8001);
            check(upper << 16 | 0xffff);
        }
        for half in 0..=u16::MAX {
            let ours = f32_from_f16(half);
            let theirs = half::f16::from_bits(half).to_f32();
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{half:#06x}");
        }
    }

    #[test]
    fn not_a_number() {
        assert_eq!(f16_from_f32(f32::from_bits(0x7f80_0001)), 0x7e00);
        assert_eq!(f16_from_f32(f32::from_bits(0xffff_ffff)), 0xfe00);
        assert_eq!(bf16_from_f32(f32::from_bits(0x7f80_0001)), 0x7fc0);
        assert_eq!(bf16_from_f32(f32::from_bits(0xff81_ffff)), 0xffc1);
    }

    #[test]
    fn the_first_number_is_found_in_any_place() {
        for length in [0, 1, 63, 64, 65, 130, 200] {
            for odd in [0, 1, 62, 63, 64, 65, 127, 128, 129, 199] {
                let mut numbers = vec![[0u8, 1]; length];
                numbers.iter_mut().skip(odd).step_by(3).for_each(|number| *number = [7, 7]);
                let expected = (odd < length).then_some(odd);
                assert_eq!(
                    first_number(numbers.as_flattened(), |number| number == [7u8, 7]),
                    expected
                );
            }
        }
    }
}
