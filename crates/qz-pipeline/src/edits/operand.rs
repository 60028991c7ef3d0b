//! Stored numbers that edits take from other files, and those of them that are kept.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use qz_tensor::{FileError, TensorIndex, TensorSource};

use super::grid_of;
use crate::model::to_usize;

/// A stored tensor of numbers that have a codec.
#[derive(Clone)]
pub struct Operand {
    /// Where it is stored.
    pub source: Arc<dyn TensorSource>,
    /// Which tensor it is.
    pub tensor: TensorIndex,
}

impl fmt::Debug for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = &self.source.tensors()[self.tensor.0];
        write!(f, "{} {}", info.file.display(), info.name)
    }
}

impl Operand {
    /// All of its numbers.
    pub(crate) fn numbers(&self) -> Result<Vec<f32>, FileError> {
        let info = &self.source.tensors()[self.tensor.0];
        let mut numbers = vec![0.0; to_usize(info.shape.elements())];
        self.read_rows(0, &mut numbers)?;
        Ok(numbers)
    }

    /// Whole rows from `first` on.
    pub(crate) fn read_rows(&self, first: u64, out: &mut [f32]) -> Result<(), FileError> {
        let info = &self.source.tensors()[self.tensor.0];
        let (_, columns) = grid_of(info);
        let size = |elements: u64| info.data_type.byte_size(elements).unwrap_or_default();
        let mut bytes = vec![0; to_usize(size(out.len() as u64))];
        self.source.read(self.tensor, first * size(columns), &mut bytes)?;
        // Whoever made the edit has looked for a codec.
        if let Some(codec) = qz_kernels::codec_for(info.data_type) {
            codec.decode(&bytes, out);
        }
        Ok(())
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source) && self.tensor == other.tensor
    }
}

/// Numbers of the operands that were asked for last: rows of a tensor are read one after the
/// other, and experts share what they are edited with.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Vec<(Operand, Arc<Vec<f32>>)>>);

impl Kept {
    /// Both factors of gate and up, and of down.
    const MOST: usize = 4;

    pub(crate) fn numbers(&self, operand: &Operand) -> Result<Arc<Vec<f32>>, FileError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, numbers)) = kept.iter().find(|(known, _)| known.is(operand)) {
            return Ok(numbers.clone());
        }
        let numbers = Arc::new(operand.numbers()?);
        if kept.len() == Self::MOST {
            kept.remove(0);
        }
        kept.push((operand.clone(), numbers.clone()));
        Ok(numbers)
    }
}
