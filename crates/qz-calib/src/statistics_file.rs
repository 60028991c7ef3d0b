//! Gram matrices beside an importance matrix, in one GGUF file. For each group of
//! matrices that share inputs there is one, named after the first of them:
//! `NAME.gram`, f32, the packed upper triangle ([`qz_linalg::unpack`]) of `XᵀX`, for each
//! expert in turn. Programs that look for importance alone pass over it.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use std::path::Path;

use qz_gguf::GgufFile;
use qz_linalg::{packed_len, unpack};
use qz_tensor::{DataType, Location, TensorIndex, TensorSource};

use crate::error::{Error, Fault};

/// What the name of a Gram matrix ends in.
pub const GRAM: &str = ".gram";
/// What the name of sums of magnitudes ends in.
pub const MAGNITUDES: &str = ".in_abs";
/// How often each token of the vocabulary was in the text.
pub const TOKEN_COUNTS: &str = "token_embd.weight.token_counts";

/// A file with Gram matrices. They are read when they are asked for.
#[derive(Debug)]
pub struct StatisticsFile {
    file: GgufFile,
}

/// One Gram matrix, or one for each expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GramEntry {
    index: TensorIndex,
    /// Rows and columns.
    pub size: usize,
    /// How many experts have one.
    pub experts: usize,
}

impl StatisticsFile {
    /// Opens a file.
    ///
    /// # Errors
    /// If it is no GGUF file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { file: GgufFile::open(path)? })
    }

    /// The Gram matrix of the group whose first matrix is called `name`, of inputs of
    /// `size` numbers.
    ///
    /// # Errors
    /// If there is one of another shape or type.
    pub fn gram(&self, name: &str, size: usize) -> Result<Option<GramEntry>, Error> {
        let wanted = format!("{name}{GRAM}");
        let mut tensors = self.file.tensors().iter().enumerate();
        let Some((position, info)) = tensors.find(|(_, info)| info.name == wanted) else {
            return Ok(None);
        };
        let (elements, each) = (info.shape.elements(), packed_len(size) as u64);
        let fault = if info.data_type != DataType::F32 {
            Some(Fault::NotF32(info.data_type))
        } else {
            let fits = each > 0 && elements > 0 && elements.is_multiple_of(each);
            (!fits).then_some(Fault::OtherShape)
        };
        if let Some(fault) = fault {
            let location = Location::file(self.file.file().path().as_ref()).tensor(wanted);
            return Err(Error::Malformed { location, fault });
        }
        let experts = elements.checked_div(each).and_then(|experts| usize::try_from(experts).ok());
        let experts = experts.unwrap_or(usize::MAX);
        Ok(Some(GramEntry { index: TensorIndex(position), size, experts }))
    }

    /// One expert's whole symmetric matrix `XᵀX`, row by row; expert 0 of a group without
    /// experts.
    ///
    /// # Errors
    /// If the file cannot be read, or a number is not finite.
    pub fn read(&self, entry: GramEntry, expert: usize) -> Result<Vec<f32>, Error> {
        let mut bytes = vec![0; packed_len(entry.size).saturating_mul(size_of::<f32>())];
        self.file.read(entry.index, expert.saturating_mul(bytes.len()) as u64, &mut bytes)?;
        let numbers: Vec<f32> =
            bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let malformed = |fault| {
            let name = self.file.tensors().get(entry.index.0).map(|info| String::from(&info.name));
            let location = Location::file(self.file.file().path().as_ref());
            Error::Malformed { location: Location { tensor: name, ..location }, fault }
        };
        let odd = (0u64..).zip(&numbers).find(|(_, number)| !number.is_finite());
        if let Some((index, value)) = odd {
            return Err(malformed(Fault::NonFinite { index, value: *value }));
        }
        let matrix = unpack(entry.size, &numbers);
        match impossible(entry.size, &matrix) {
            Some(fault) => Err(malformed(fault)),
            None => Ok(matrix),
        }
    }
}

/// What no sums of products are: below zero with themselves, or larger with each other than
/// with themselves (Cauchy and Schwarz), but for rounding.
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "the matrix was made with `size` rows and columns"
)]
fn impossible(size: usize, matrix: &[f32]) -> Option<Fault> {
    let at = |row: usize, column: usize| f64::from(matrix[row * size + column]);
    for row in 0..size {
        if at(row, row) < 0.0 {
            return Some(Fault::NegativeDiagonal { row, value: matrix[row * size + row] });
        }
    }
    for row in 0..size {
        for column in 0..row {
            let (product, bound) = (at(row, column).powi(2), at(row, row) * at(column, column));
            if product > bound * (1.0 + ROUNDING) + f64::from(f32::MIN_POSITIVE) {
                return Some(Fault::LargerThanDiagonal { row, column });
            }
        }
    }
    None
}

/// How far sums in f32 may be from their values.
const ROUNDING: f64 = 1e-2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_sums_of_products_are() {
        let check = |matrix: [f32; 4], expected: Option<Fault>| {
            assert_eq!(impossible(2, &matrix), expected, "{matrix:?}");
        };
        check([4.0, 2.0, 2.0, 1.0], None);
        check([0.0; 4], None);
        check([4.0, 0.0, 0.0, -1.0], Some(Fault::NegativeDiagonal { row: 1, value: -1.0 }));
        check([4.0, 3.0, 3.0, 1.0], Some(Fault::LargerThanDiagonal { row: 1, column: 0 }));
    }
}
