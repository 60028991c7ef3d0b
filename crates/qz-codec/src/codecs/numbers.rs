//! F64 and integers: plain little-endian numbers, which tensors other than weights hold.
//!
//! llama.cpp converts nothing to these types, so no file type asks for them: they are
//! read, reported and copied. Encoding gives the nearest number, ties to even, and
//! the nearest end of the range beyond it.

use crate::codec::codec;

/// Declares the codec of a primitive type.
macro_rules! number {
    ($codec:ident = $number:ident, nearest: $nearest:expr, is_finite: $is_finite:expr) => {
        codec! {
            $codec: DataType::$codec,
            importance: Ignored,
            activations: F32,
            integers: Floats,
            decode: |bytes: &[u8], out: &mut [f32]| {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *value = $number::from_le_bytes(*bytes) as f32;
                }
            },
            encode: |weights: &[f32], _, _, out: &mut [u8]| {
                let nearest: fn(f32) -> $number = $nearest;
                for (bytes, weight) in out.as_chunks_mut().0.iter_mut().zip(weights) {
                    *bytes = nearest(*weight).to_le_bytes();
                }
            },
            first_non_finite_block: |bytes| {
                let is_finite: fn($number) -> bool = $is_finite;
                let mut numbers = bytes.as_chunks().0.iter();
                numbers.position(|bytes| !is_finite($number::from_le_bytes(*bytes)))
            },
        }
    };
}

number! { F64 = f64, nearest: f64::from, is_finite: f64::is_finite }
number! { I8 = i8, nearest: |value| value.round_ties_even() as i8, is_finite: |_| true }
number! { I16 = i16, nearest: |value| value.round_ties_even() as i16, is_finite: |_| true }
number! { I32 = i32, nearest: |value| value.round_ties_even() as i32, is_finite: |_| true }
number! { I64 = i64, nearest: |value| value.round_ties_even() as i64, is_finite: |_| true }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    #[test]
    fn numbers_are_read() {
        let check = |codec: &dyn Codec, bytes: &[u8], expected: f32| {
            let mut value = [f32::NAN];
            codec.decode(bytes, &mut value);
            assert_eq!(value[0].to_bits(), expected.to_bits(), "{:?}", codec.spec());
        };
        check(&I8, &(-128i8).to_le_bytes(), -128.0);
        check(&I16, &(-2i16).to_le_bytes(), -2.0);
        check(&I32, &16_777_217i32.to_le_bytes(), 16_777_216.0);
        check(&I32, &16_777_219i32.to_le_bytes(), 16_777_220.0);
        check(&I64, &i64::MAX.to_le_bytes(), 9_223_372_036_854_775_808.0);
        check(&F64, &0.1f64.to_le_bytes(), 0.1);
        check(&F64, &(-0.0f64).to_le_bytes(), -0.0);
        check(&F64, &1e300f64.to_le_bytes(), f32::INFINITY);
    }

    #[test]
    fn the_nearest_number_is_written() {
        let check = |codec: &dyn Codec, weight: f32, expected: &[u8]| {
            let mut bytes = vec![0xa5; expected.len()];
            codec.encode(&[weight], 1, None, &mut bytes);
            assert_eq!(bytes, expected, "{:?}", codec.spec());
        };
        check(&I8, 2.5, &2i8.to_le_bytes());
        check(&I8, -300.0, &i8::MIN.to_le_bytes());
        check(&I16, -0.6, &(-1i16).to_le_bytes());
        check(&I32, 3e9, &i32::MAX.to_le_bytes());
        check(&I64, 3e9, &3_000_000_000i64.to_le_bytes());
        check(&F64, 1e-45, &f64::from(1e-45f32).to_le_bytes());
    }

    #[test]
    fn only_floats_can_be_other_than_finite() {
        let bytes: Vec<u8> = [1.0, f64::NAN].into_iter().flat_map(f64::to_le_bytes).collect();
        assert_eq!(F64.first_non_finite_block(&bytes), Some(1));
        assert_eq!(F64.first_non_finite_block(&bytes[..8]), None);
        assert_eq!(I64.first_non_finite_block(&bytes), None);
    }
}
