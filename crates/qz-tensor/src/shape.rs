//! Shapes, outermost dimension first, with sizes that cannot wrap.

use std::fmt;

use crate::data_type::DataType;

/// Dimensions a tensor may have. GGUF allows four, safetensors any number;
/// no known checkpoint has more than eight.
pub const MAX_RANK: usize = 8;

/// A tensor's dimensions, outermost first as PyTorch writes them: a matrix is
/// `[rows, columns]`, and a row is contiguous. (GGUF files list them the other
/// way round.) The element count always fits `i64`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(Dimensions);

/// What nearly all tensors have needs no memory of its own: files may list millions.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Dimensions {
    /// Up to four; those past the rank are 0.
    Few { rank: u8, sizes: [u64; 4] },
    /// More.
    Many(Box<[u64]>),
}

/// Why a size cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// More dimensions than [`MAX_RANK`].
    #[error("{0} dimensions, at most {MAX_RANK} are supported")]
    Rank(usize),
    /// The element or byte count does not fit.
    #[error("the size overflows 63 bits")]
    Overflow,
    /// Elements that do not fill whole blocks.
    #[error("{elements} elements are not a multiple of the {} of a {data_type} block", data_type.block_elements())]
    PartialBlock {
        /// How many elements a row has.
        elements: u64,
        /// The type they would be stored in.
        data_type: DataType,
    },
}

impl Shape {
    /// A shape with these dimensions, outermost first.
    ///
    /// # Errors
    /// More than [`MAX_RANK`] dimensions, or an element count above `i64::MAX`.
    /// The product is checked with zeros left out, so that a zero cannot hide
    /// an overflow.
    pub fn new(dimensions: impl AsRef<[u64]>) -> Result<Self, SizeError> {
        let dimensions = dimensions.as_ref();
        if dimensions.len() > MAX_RANK {
            return Err(SizeError::Rank(dimensions.len()));
        }
        dimensions
            .iter()
            .filter(|dimension| **dimension != 0)
            .try_fold(1u64, |product, dimension| product.checked_mul(*dimension))
            .filter(|product| i64::try_from(*product).is_ok())
            .ok_or(SizeError::Overflow)?;
        let mut sizes = [0; 4];
        Ok(Self(match sizes.get_mut(..dimensions.len()) {
            Some(few) => {
                few.copy_from_slice(dimensions);
                // At most four.
                Dimensions::Few { rank: dimensions.len() as u8, sizes }
            }
            None => Dimensions::Many(dimensions.into()),
        }))
    }

    /// The dimensions, outermost first.
    pub fn dimensions(&self) -> &[u64] {
        match &self.0 {
            Dimensions::Few { rank, sizes } => sizes.get(..usize::from(*rank)).unwrap_or(sizes),
            Dimensions::Many(sizes) => sizes,
        }
    }

    /// How many dimensions.
    pub fn rank(&self) -> usize {
        self.dimensions().len()
    }

    /// How many elements.
    pub fn elements(&self) -> u64 {
        // `new` has checked that it fits; where a size is 0 it is 0, whatever wraps before.
        self.dimensions().iter().fold(1, |product, size| product.wrapping_mul(*size))
    }

    /// The innermost dimension: elements of one contiguous row (1 for a scalar).
    pub fn columns(&self) -> u64 {
        self.dimensions().last().copied().unwrap_or(1)
    }

    /// Rows of `columns` elements over all outer dimensions.
    pub fn rows(&self) -> u64 {
        match self.columns() {
            0 => 0,
            columns => self.elements() / columns,
        }
    }

    /// Bytes of one row stored as `data_type`.
    ///
    /// # Errors
    /// If a row does not fill whole blocks.
    pub fn row_bytes(&self, data_type: DataType) -> Result<u64, SizeError> {
        data_type.byte_size(self.columns())
    }

    /// Bytes of the whole tensor stored as `data_type`: rows are never packed
    /// together, so each row must fill whole blocks.
    ///
    /// # Errors
    /// If a row does not fill whole blocks, or the size overflows.
    pub fn byte_size(&self, data_type: DataType) -> Result<u64, SizeError> {
        self.row_bytes(data_type)?
            .checked_mul(self.rows())
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .ok_or(SizeError::Overflow)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dimensions: Vec<String> = self.dimensions().iter().map(u64::to_string).collect();
        write!(f, "[{}]", dimensions.join(", "))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let check = |dimensions: &[u64], rows: u64, columns: u64, elements: u64| {
            let shape = Shape::new(dimensions).expect("fits");
            assert_eq!(
                (shape.rows(), shape.columns(), shape.elements()),
                (rows, columns, elements)
            );
        };
        check(&[], 1, 1, 1);
        check(&[7], 1, 7, 7);
        check(&[3, 4], 3, 4, 12);
        check(&[2, 3, 4], 6, 4, 24);
        check(&[0, 4], 0, 4, 0);
        check(&[4, 0], 0, 0, 0);
    }

    #[test]
    fn overflows_are_refused() {
        let check = |dimensions: &[u64], expected: SizeError| {
            assert_eq!(Shape::new(dimensions), Err(expected));
        };
        check(&[u64::MAX], SizeError::Overflow);
        check(&[1 << 32, 1 << 32], SizeError::Overflow);
        check(&[4_194_305, 4_194_305, 211_106_198_978_564], SizeError::Overflow);
        check(&[0, u64::MAX, 2], SizeError::Overflow);
        check(&[1; 9], SizeError::Rank(9));
        let bytes = Shape::new([1 << 62]).expect("fits").byte_size(DataType::F32);
        assert_eq!(bytes, Err(SizeError::Overflow));
    }
}
