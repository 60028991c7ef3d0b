//! What can be summed over the inputs of a group's matrices: one trait, and its kinds.

use std::any::Any;

use qz_calib::Moments;
use qz_kernels::Error;
use qz_kernels::backend::Backend;
use qz_linalg::{Gram, gram_bytes};

use super::lacking::{Beside, Lacking};

/// Something that is summed over tokens, on a backend's device or beside it. Statistics of the
/// same kind, over the same columns, can be added to each other; other kinds are never mixed.
pub(crate) trait Statistic<B: Backend>: Any + Send {
    /// Tokens that are summed, or that the sums count as.
    fn tokens(&self) -> u64;

    /// Bytes of memory.
    fn bytes(&self) -> u64;

    /// Adds the inputs of some tokens, one row each, on the current pool's threads. `beside`
    /// is what the full model has of the same tokens.
    fn add(&mut self, backend: &B, rows: &B::Buffer, beside: OfFull<'_, B>) -> Result<(), Error>;
}

/// What the full model has of the same tokens, if that is known.
pub(super) type OfFull<'a, B> = Option<&'a Beside<<B as Backend>::Buffer>>;

/// The same statistic as its own type.
///
/// # Panics
/// If it is of another kind.
pub(super) fn as_own<B: Backend, S: Statistic<B>>(statistic: Box<dyn Statistic<B>>) -> S {
    let own: Box<dyn Any> = statistic;
    *own.downcast().expect("statistics of the same kind")
}

impl<B: Backend> Statistic<B> for Moments {
    fn tokens(&self) -> u64 {
        self.rows()
    }

    fn bytes(&self) -> u64 {
        Self::bytes(self.width())
    }

    fn add(&mut self, backend: &B, rows: &B::Buffer, _: OfFull<'_, B>) -> Result<(), Error> {
        Self::add(self, &backend.numbers(rows)?);
        Ok(())
    }
}

impl<B: Backend> Statistic<B> for Gram<B::Buffer> {
    fn tokens(&self) -> u64 {
        Self::tokens(self)
    }

    fn bytes(&self) -> u64 {
        gram_bytes(self.columns(), self.rows())
    }

    fn add(&mut self, backend: &B, rows: &B::Buffer, _: OfFull<'_, B>) -> Result<(), Error> {
        Self::add(self, backend, rows)
    }
}

impl<B: Backend> Statistic<B> for Lacking<B::Buffer> {
    fn tokens(&self) -> u64 {
        Self::tokens(self)
    }

    fn bytes(&self) -> u64 {
        Self::bytes(self)
    }

    fn add(&mut self, backend: &B, rows: &B::Buffer, beside: OfFull<'_, B>) -> Result<(), Error> {
        match beside {
            Some(beside) => Self::add(self, backend, rows, beside),
            None => Ok(()),
        }
    }
}
