//! E2M3, the six-bit float (OCP Microscaling Formats 1.0): a sign, two bits of exponent, three
//! of mantissa, up to 7½.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "arithmetic on the bits of one number, which has six"
)]

/// The largest number.
const LARGEST: f32 = 7.5;

/// The bit of a code that is the sign.
const SIGN: u8 = 0x20;

/// The nearest number's code, halves to the even one; beyond the largest, that
/// (compressed-tensors, `cast_to_fp6`). Zero below zero keeps its sign.
#[inline(always)]
pub(crate) fn code_of(value: f32) -> u8 {
    /// Adding it to a small number leaves the nearest integer in the lowest bits: 1.5 · 2^23.
    const INTEGERS: f32 = 12_582_912.0;
    let magnitude = value.abs().min(LARGEST);
    // Steps are eighths below two, quarters below four, then halves; 0, 1 and 2 are the
    // powers by which they are wider than eighths.
    let wider = u8::from(magnitude >= 2.0) + u8::from(magnitude >= 4.0);
    let steps_of_one = [8.0, 4.0, 2.0];
    let steps = magnitude * steps_of_one.get(usize::from(wider)).copied().unwrap_or(2.0);
    // From eight to sixteen with a leading one, and below eight without: the exponent's field
    // counts from one on, so a carry runs into it.
    let rounded = (steps + INTEGERS).to_bits() as u8;
    let code = rounded + wider * 8;
    code | if value.is_sign_negative() { SIGN } else { 0 }
}

/// The number of a code.
#[inline(always)]
pub(crate) fn value_of(code: u8) -> f32 {
    let mantissa = f32::from(code & 7) / 8.0;
    let magnitude = match code >> 3 & 3 {
        0 => mantissa,
        1 => 1.0 + mantissa,
        2 => 2.0 + 2.0 * mantissa,
        _ => 4.0 + 4.0 * mantissa,
    };
    if code & SIGN == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        for code in 0..64 {
            assert_eq!(code_of(value_of(code)), code, "{code}");
        }
    }

    #[test]
    fn halves_go_to_the_even_code() {
        for code in 0..31 {
            let middle = (value_of(code) + value_of(code + 1)) / 2.0;
            let even = code + (code & 1);
            assert_eq!(code_of(middle), even, "{middle}");
            assert_eq!(code_of(-middle), even | SIGN, "{middle}");
            assert_eq!(code_of(middle.next_up()), code + 1, "{middle}");
            if middle > 0.0 {
                assert_eq!(code_of(middle.next_down()), code, "{middle}");
            }
        }
    }

    #[test]
    fn beyond_the_largest() {
        for value in [7.5, 7.75, 8.0, 1e30, f32::INFINITY] {
            assert_eq!(code_of(value), 31, "{value}");
            assert_eq!(code_of(-value), 63, "{value}");
        }
        assert_eq!(code_of(-0.0), SIGN);
    }
}
