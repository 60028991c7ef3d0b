//! Gram matrices beside an importance matrix, in one GGUF file. For each group of
//! matrices that share inputs there is one, named after the first of them:
//! `NAME.gram`, f32, the packed upper triangle ([`qz_linalg::unpack`]) of `XᵀX`, for each
//! expert in turn. Programs that look for importance alone pass over it.
//!
//! A file that was collected with a full and a quantized model side by side has for each
//! group, too, what the quantized model lacks, with its inputs x: `NAME.in_cross`, the sum of
//! `(x̃ − x) xᵀ` with the full model's inputs x̃; or, where products are added to hidden states,
//! `NAME.out_cross`, the sum of `(ỹ − y) xᵀ` with these states. Both are f32, row by row, for
//! each expert in turn; zeros where nothing is known. Such files say
//! `quantize.statistics.version`.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use std::path::Path;

use qz_gguf::GgufFile;
use qz_linalg::{packed_len, unpack};
use qz_tensor::{DataType, Location, Metadata, TensorIndex, TensorSource, Value};

use crate::error::{Error, Fault};

/// What the name of a Gram matrix ends in.
pub const GRAM: &str = ".gram";
/// What the name of sums ends in of what inputs lack.
pub const INPUT_CROSS: &str = ".in_cross";
/// What the name of sums ends in of what hidden states lack.
pub const RESULT_CROSS: &str = ".out_cross";
/// What the name of sums of magnitudes ends in.
pub const MAGNITUDES: &str = ".in_abs";
/// How often each token of the vocabulary was in the text.
pub const TOKEN_COUNTS: &str = "token_embd.weight.token_counts";

/// The key that says of which version what else there is.
const VERSION_KEY: &str = "quantize.statistics.version";
/// The version that is written, and the last one that is read. A file without the key has
/// nothing that needs one.
const VERSION: u32 = 1;

/// The key that says how many bits a weight of the quantized model takes.
const BITS_KEY: &str = "quantize.statistics.bits_per_weight";

/// Says in a file's metadata that it has sums of what a quantized model lacks, which has so
/// many bits per weight.
pub fn tell_quantized(metadata: &mut Metadata, bits_per_weight: f64) {
    metadata.set(VERSION_KEY, VERSION);
    metadata.set(BITS_KEY, bits_per_weight as f32);
}

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

/// Sums of what a quantized model lacks, of one matrix or of each expert's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossEntry {
    index: TensorIndex,
    /// Entries of one matrix.
    entries: usize,
    /// How many experts have one.
    pub experts: usize,
}

impl StatisticsFile {
    /// Opens a file.
    ///
    /// # Errors
    /// If it is no GGUF file, or what is in it is newer than this program.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = GgufFile::open(path)?;
        match file.metadata().unsigned(VERSION_KEY) {
            Some(version) if version > u64::from(VERSION) => {
                let location = Location::file(path).tensor(VERSION_KEY);
                Err(Error::Malformed { location, fault: Fault::Newer(version) })
            }
            _ => Ok(Self { file }),
        }
    }

    /// If there are sums of products in it.
    pub fn has_grams(&self) -> bool {
        self.file.tensors().iter().any(|info| info.name.ends_with(GRAM))
    }

    /// The bits per weight of the quantized model, if it says what one lacks.
    pub fn quantized_bits(&self) -> Option<f64> {
        match self.file.metadata().get(BITS_KEY)? {
            Value::F32(bits) => Some(f64::from(*bits)),
            _ => None,
        }
    }

    /// The Gram matrix of the group whose first matrix is called `name`, of inputs of
    /// `size` numbers.
    ///
    /// # Errors
    /// If there is one of another shape or type.
    pub fn gram(&self, name: &str, size: usize) -> Result<Option<GramEntry>, Error> {
        let found = self.stacked(format!("{name}{GRAM}"), packed_len(size))?;
        Ok(found.map(|(index, experts)| GramEntry { index, size, experts }))
    }

    /// What is lacking of the group whose first matrix is called `name`: `kind` is
    /// [`INPUT_CROSS`] or [`RESULT_CROSS`], `rows` and `columns` those of the sums.
    ///
    /// # Errors
    /// If there is one of another shape or type.
    pub fn cross(
        &self,
        name: &str,
        kind: &str,
        (rows, columns): (usize, usize),
    ) -> Result<Option<CrossEntry>, Error> {
        let entries = rows.saturating_mul(columns);
        let found = self.stacked(format!("{name}{kind}"), entries)?;
        Ok(found.map(|(index, experts)| CrossEntry { index, entries, experts }))
    }

    /// The tensor of a name that holds so many numbers for each expert, and how many experts.
    fn stacked(&self, name: String, each: usize) -> Result<Option<(TensorIndex, usize)>, Error> {
        let mut tensors = self.file.tensors().iter().enumerate();
        let Some((position, info)) = tensors.find(|(_, info)| info.name == name) else {
            return Ok(None);
        };
        let (elements, each) = (info.shape.elements(), each as u64);
        let fault = if info.data_type != DataType::F32 {
            Some(Fault::NotF32(info.data_type))
        } else {
            let fits = each > 0 && elements > 0 && elements.is_multiple_of(each);
            (!fits).then_some(Fault::OtherShape)
        };
        if let Some(fault) = fault {
            let location = Location::file(self.file.file().path().as_ref()).tensor(name);
            return Err(Error::Malformed { location, fault });
        }
        let experts = elements.checked_div(each).and_then(|experts| usize::try_from(experts).ok());
        Ok(Some((TensorIndex(position), experts.unwrap_or(usize::MAX))))
    }

    /// One expert's sums of what is lacking, row by row.
    ///
    /// # Errors
    /// If the file cannot be read, or a number is not finite.
    pub fn read_cross(&self, entry: CrossEntry, expert: usize) -> Result<Vec<f32>, Error> {
        self.numbers(entry.index, entry.entries, expert)
    }

    /// The numbers of one expert.
    fn numbers(&self, index: TensorIndex, each: usize, expert: usize) -> Result<Vec<f32>, Error> {
        let mut bytes = vec![0; each.saturating_mul(size_of::<f32>())];
        self.file.read(index, expert.saturating_mul(bytes.len()) as u64, &mut bytes)?;
        let numbers: Vec<f32> =
            bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let odd = (0u64..).zip(&numbers).find(|(_, number)| !number.is_finite());
        match odd {
            Some((position, value)) => {
                let fault = Fault::NonFinite { index: position, value: *value };
                Err(self.malformed(index, fault))
            }
            None => Ok(numbers),
        }
    }

    fn malformed(&self, index: TensorIndex, fault: Fault) -> Error {
        let name = self.file.tensors().get(index.0).map(|info| String::from(&info.name));
        let location = Location::file(self.file.file().path().as_ref());
        Error::Malformed { location: Location { tensor: name, ..location }, fault }
    }

    /// One expert's whole symmetric matrix `XᵀX`, row by row; expert 0 of a group without
    /// experts.
    ///
    /// # Errors
    /// If the file cannot be read, or a number is not finite.
    pub fn read(&self, entry: GramEntry, expert: usize) -> Result<Vec<f32>, Error> {
        let numbers = self.numbers(entry.index, packed_len(entry.size), expert)?;
        let matrix = unpack(entry.size, &numbers);
        match impossible(entry.size, &matrix) {
            Some(fault) => Err(self.malformed(entry.index, fault)),
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
