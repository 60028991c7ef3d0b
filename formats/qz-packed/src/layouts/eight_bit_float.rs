//! The eight-bit floats of the OCP specifications: E4M3 and E5M2 for weights, E8M0 for
//! scales. The first and the last are `qz-codec`'s.

pub(crate) use qz_codec::small_float::{LARGEST_E4M3, e4m3_from_f32, f32_from_e4m3, f32_from_e8m0};

/// The number that a byte of E5M2 stands for: the upper half of a binary16.
#[inline(always)]
pub(crate) fn f32_from_e5m2(byte: u8) -> f32 {
    qz_codec::number::f32_from_f16(u16::from(byte) << 8)
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
