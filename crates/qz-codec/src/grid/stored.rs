//! The numbers that files keep scales and offsets as.

use super::levels::round_to_half;
use crate::number::{bf16_from_f32, f16_from_f32, f32_from_bf16, f32_from_f16};

/// A type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StoredNumber {
    F16,
    BF16,
    F32,
}

impl StoredNumber {
    /// The nearest number that it holds, infinite where that overflows.
    pub fn rounded(self, value: f32) -> f32 {
        match self {
            Self::F16 => round_to_half(value),
            Self::BF16 => f32_from_bf16(bf16_from_f32(value)),
            Self::F32 => value,
        }
    }

    /// The nearest number that is finite and, for numbers other than zero, not zero: a
    /// scale that vanishes could not be stepped back.
    pub(super) fn settled(self, value: f64) -> f64 {
        let (least, most) = match self {
            Self::F16 => (f32_from_f16(1), f32_from_f16(0x7bff)),
            Self::BF16 => (f32_from_bf16(1), f32_from_bf16(0x7f7f)),
            Self::F32 => (f32::from_bits(1), f32::MAX),
        };
        if value == 0.0 || value.is_nan() {
            return 0.0;
        }
        let bounded = value.abs().clamp(f64::from(least), f64::from(most)).copysign(value);
        f64::from(self.rounded(bounded as f32))
    }

    /// Bytes of a number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
        }
    }

    /// Reads a number.
    pub(super) fn read(self, bytes: &[u8]) -> f32 {
        let short = || u16::from_le_bytes([bytes[0], bytes[1]]);
        match self {
            Self::F16 => f32_from_f16(short()),
            Self::BF16 => f32_from_bf16(short()),
            Self::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        }
    }

    /// Writes a number that it holds.
    pub(super) fn write(self, value: f32, out: &mut [u8]) {
        match self {
            Self::F16 => out[..2].copy_from_slice(&f16_from_f32(value).to_le_bytes()),
            Self::BF16 => out[..2].copy_from_slice(&bf16_from_f32(value).to_le_bytes()),
            Self::F32 => out[..4].copy_from_slice(&value.to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_numbers_are_finite_and_do_not_vanish() {
        for stored in [StoredNumber::F16, StoredNumber::BF16, StoredNumber::F32] {
            for value in [1e-60, 1e-300, 1e38, 1e300, 0.1, 1e-5, 65_519.0, 65_520.0] {
                for value in [value, -value] {
                    let settled = stored.settled(value);
                    let as_stored = f64::from(stored.rounded(settled as f32));
                    assert!(settled.is_finite() && settled != 0.0, "{stored:?} {value:e}");
                    assert_eq!(settled.is_sign_negative(), value.is_sign_negative());
                    assert_eq!(as_stored, settled, "{stored:?} {value:e}");
                }
            }
            assert_eq!(stored.settled(0.0), 0.0);
            assert_eq!(stored.settled(f64::NAN), 0.0);
        }
    }

    #[test]
    fn numbers_come_back() {
        for stored in [StoredNumber::F16, StoredNumber::BF16, StoredNumber::F32] {
            for value in [0.0, -0.0, 1.0, -0.3, 1e-6, 6e4] {
                let (value, mut bytes) = (stored.rounded(value), [0xa5; 4]);
                stored.write(value, &mut bytes);
                let read = stored.read(&bytes[..stored.bytes()]);
                assert_eq!(read.to_bits(), value.to_bits(), "{stored:?}");
            }
        }
    }
}
