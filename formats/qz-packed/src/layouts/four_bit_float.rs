//! E2M1, the four-bit float (OCP Microscaling Formats 1.0): a sign, then 0, ½, 1, 1½, 2, 3,
//! 4, 6 by code; two in a byte.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "arithmetic on the bits of one number, and loops over slices whose lengths are asserted"
)]

pub(crate) use qz_codec::small_float::{
    E2M1 as VALUES, LARGEST_E2M1 as LARGEST, e2m1_from_f32 as code_of,
};

/// Two codes in a byte, the first in the low half.
///
/// # Panics
/// If there are not two codes for each byte.
#[inline(always)]
pub(crate) fn pack_low_first(codes: &[u8], out: &mut [u8]) {
    assert_eq!(codes.len(), out.len() * 2, "codes for the bytes");
    for (pair, byte) in codes.as_chunks::<2>().0.iter().zip(out) {
        *byte = pair[0] & 15 | pair[1] << 4;
    }
}

/// The numbers in bytes times `scale`, the low half first.
///
/// # Panics
/// If there are not two numbers for each byte.
#[inline(always)]
pub(crate) fn decode_low_first(bytes: &[u8], scale: f32, out: &mut [f32]) {
    assert_eq!(out.len(), bytes.len() * 2, "numbers for the bytes");
    for (byte, pair) in bytes.iter().zip(out.as_chunks_mut::<2>().0) {
        pair[0] = VALUES[usize::from(byte & 15)] * scale;
        pair[1] = VALUES[usize::from(byte >> 4)] * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_to_the_even_code() {
        let check = |value: f32, expected: u8| {
            assert_eq!(code_of(value), expected, "{value}");
            let negative = if value == 0.0 { 0 } else { expected | 8 };
            assert_eq!(code_of(-value), negative, "{}", -value);
        };
        check(0.0, 0);
        check(0.25, 0);
        check(0.25f32.next_up(), 1);
        check(0.75, 2);
        check(0.75f32.next_down(), 1);
        check(1.25, 2);
        check(1.75, 4);
        check(2.5, 4);
        check(3.5, 6);
        check(5.0, 6);
        check(5.0f32.next_up(), 7);
        check(1e30, 7);
        check(1e-30, 0);
    }

    #[test]
    fn every_number_comes_back() {
        for code in (0..16u8).filter(|code| *code != 8) {
            assert_eq!(code_of(VALUES[usize::from(code)]), code);
        }
    }
}
