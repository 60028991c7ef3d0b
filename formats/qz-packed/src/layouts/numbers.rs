//! Scales as files store them.

use qz_codec::grid::StoredNumber;
use qz_codec::number::{bf16_from_f32, f16_from_f32, f32_from_bf16, f32_from_f16};
use qz_tensor::DataType;

/// The element type of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ScaleType {
    F16,
    BF16,
    F32,
}

impl ScaleType {
    /// The one of an element type, if it is one.
    pub fn of(data_type: DataType) -> Option<Self> {
        [Self::F16, Self::BF16, Self::F32].into_iter().find(|scale| scale.data_type() == data_type)
    }

    /// Its element type.
    pub fn data_type(self) -> DataType {
        match self {
            Self::F16 => DataType::F16,
            Self::BF16 => DataType::BF16,
            Self::F32 => DataType::F32,
        }
    }

    /// Bytes of a scale.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
        }
    }

    /// The same, for grids.
    pub(crate) fn stored(self) -> StoredNumber {
        match self {
            Self::F16 => StoredNumber::F16,
            Self::BF16 => StoredNumber::BF16,
            Self::F32 => StoredNumber::F32,
        }
    }

    /// The nearest number that it holds.
    pub fn rounded(self, value: f32) -> f32 {
        match self {
            Self::F16 => f32_from_f16(f16_from_f32(value)),
            Self::BF16 => f32_from_bf16(bf16_from_f32(value)),
            Self::F32 => value,
        }
    }

    /// torch's `finfo.eps`.
    pub fn epsilon(self) -> f32 {
        match self {
            Self::F16 => 1.0 / 1024.0,
            Self::BF16 => 1.0 / 128.0,
            Self::F32 => f32::EPSILON,
        }
    }

    /// Appends numbers as it stores them.
    pub fn write(self, values: &[f32], out: &mut Vec<u8>) {
        for value in values {
            match self {
                Self::F16 => out.extend(f16_from_f32(*value).to_le_bytes()),
                Self::BF16 => out.extend(bf16_from_f32(*value).to_le_bytes()),
                Self::F32 => out.extend(value.to_le_bytes()),
            }
        }
    }

    /// Reads numbers.
    ///
    /// # Panics
    /// If there are not as many bytes.
    pub fn read(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len().saturating_mul(self.bytes()), "bytes of the scales");
        match self {
            Self::F32 => {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Self::F16 | Self::BF16 => {
                let number = if self == Self::F16 { f32_from_f16 } else { f32_from_bf16 };
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *value = number(u16::from_le_bytes(*bytes));
                }
            }
        }
    }
}

/// The greatest common divisor of two numbers that are not zero.
pub(crate) fn greatest_divisor(a: u64, b: u64) -> u64 {
    a.checked_rem(b).map_or(a, |rest| greatest_divisor(b, rest))
}

/// `numerator / denominator` as torch divides a number of Python by a tensor of this
/// type: it multiplies with the reciprocal, which is a tensor, too (`Tensor.__rdiv__`).
pub(crate) fn number_over_tensor(of: ScaleType, numerator: f32, denominator: f32) -> f32 {
    of.rounded(of.rounded(1.0 / denominator) * numerator)
}
