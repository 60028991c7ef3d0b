//! What can be summed over the inputs of a group's matrices: one trait, and its kinds.

use std::any::Any;

use qz_calib::{GRAM, Moments};
use qz_linalg::Gram;

use super::lacking::{Beside, Lacking};

/// Something that is summed over tokens. Statistics of the same kind, over the same columns,
/// can be added to each other; other kinds are never mixed.
pub(crate) trait Statistic: Any + Send {
    /// Tells the kind from others: what the names of its tensors in a statistics file end in.
    fn id(&self) -> &'static str;

    /// Tokens that are summed, or that the sums count as.
    fn tokens(&self) -> u64;

    /// Bytes of memory.
    fn bytes(&self) -> u64;

    /// Adds the inputs of some tokens, one row each, on the current pool's threads. `beside`
    /// is what the full model has of the same tokens.
    fn add(&mut self, rows: &[f32], beside: Option<&Beside>);

    /// Adds what another of the same kind has summed.
    ///
    /// # Panics
    /// If it is of another kind.
    fn merge(&mut self, other: Box<dyn Statistic>);

    /// Makes of sums over fewer than `prior` tokens sums over `prior` of them: what is missing
    /// is taken from the mean that `mean`, of the same kind, is the sum of.
    ///
    /// # Panics
    /// If it is of another kind.
    fn shrink(&mut self, prior: u64, mean: &mut dyn Statistic);
}

/// The same statistic as its own type.
///
/// # Panics
/// If it is of another kind.
pub(super) fn as_own<S: Statistic>(statistic: Box<dyn Statistic>) -> S {
    let own: Box<dyn Any> = statistic;
    *own.downcast().expect("statistics of the same kind")
}

fn as_own_mut<S: Statistic>(statistic: &mut dyn Statistic) -> &mut S {
    let own: &mut dyn Any = statistic;
    own.downcast_mut().expect("statistics of the same kind")
}

impl Statistic for Moments {
    fn id(&self) -> &'static str {
        ".in_sum2"
    }

    fn tokens(&self) -> u64 {
        self.rows()
    }

    fn bytes(&self) -> u64 {
        Self::bytes(self.width())
    }

    fn add(&mut self, rows: &[f32], _: Option<&Beside>) {
        Self::add(self, rows);
    }

    fn merge(&mut self, other: Box<dyn Statistic>) {
        Self::merge(self, &as_own(other));
    }

    fn shrink(&mut self, prior: u64, mean: &mut dyn Statistic) {
        Self::shrink(self, prior, as_own_mut(mean));
    }
}

impl Statistic for Gram {
    fn id(&self) -> &'static str {
        GRAM
    }

    fn tokens(&self) -> u64 {
        Self::tokens(self)
    }

    fn bytes(&self) -> u64 {
        Self::bytes(self.columns(), self.rows())
    }

    fn add(&mut self, rows: &[f32], _: Option<&Beside>) {
        Self::add(self, rows);
    }

    fn merge(&mut self, other: Box<dyn Statistic>) {
        Self::merge(self, as_own(other));
    }

    fn shrink(&mut self, prior: u64, mean: &mut dyn Statistic) {
        Self::shrink(self, prior, as_own_mut(mean));
    }
}

impl Statistic for Lacking {
    fn id(&self) -> &'static str {
        self.kind().id()
    }

    fn tokens(&self) -> u64 {
        Self::tokens(self)
    }

    fn bytes(&self) -> u64 {
        self.kind().bytes(self.columns())
    }

    fn add(&mut self, rows: &[f32], beside: Option<&Beside>) {
        if let Some(beside) = beside {
            Self::add(self, rows, beside);
        }
    }

    fn merge(&mut self, other: Box<dyn Statistic>) {
        Self::merge(self, as_own(other));
    }

    /// Nothing: what one expert lacks says nothing of another.
    fn shrink(&mut self, _: u64, _: &mut dyn Statistic) {}
}
