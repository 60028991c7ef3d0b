//! All statistics of one matrix, or of one expert's.

use std::any::Any;
use std::ops::Range;

use qz_calib::Moments;
use qz_kernels::Error;
use qz_kernels::backend::Backend;
use qz_linalg::{Gram, gram_bytes};

use super::lacking::{Lacking, WantedLacking};
use super::maxima::Maxima;
use super::statistic::{OfFull, Statistic, as_own};

/// Which statistics of a matrix's inputs are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedSums {
    pub(crate) columns: usize,
    pub(crate) moments: bool,
    /// The largest magnitudes.
    pub(crate) maxima: bool,
    /// Rows of the Gram matrix.
    pub(crate) gram: Option<Range<usize>>,
    /// Of what the quantized model lacks beside the full one.
    pub(crate) lacking: Option<WantedLacking>,
}

impl WantedSums {
    /// What is wanted of the model's own inputs alone.
    pub(crate) fn alone(&self) -> Self {
        Self { lacking: None, ..self.clone() }
    }

    /// Sums over no token.
    pub(crate) fn sums<B: Backend>(&self, backend: &B) -> Result<Sums<B>, Error> {
        let mut all: Vec<Box<dyn Statistic<B>>> = Vec::new();
        if self.moments {
            all.push(Box::new(Moments::new(self.columns)));
        }
        if self.maxima {
            all.push(Box::new(Maxima::new(self.columns)));
        }
        if let Some(rows) = &self.gram {
            all.push(Box::new(Gram::of_rows(backend, self.columns, rows.clone())?));
        }
        if let Some(wanted) = self.lacking {
            all.push(Box::new(Lacking::new(backend, wanted, self.columns)?));
        }
        Ok(Sums(all))
    }

    /// Bytes of the sums over the model's own inputs.
    pub(crate) fn input_bytes(&self) -> u64 {
        let moments = if self.moments { Moments::bytes(self.columns) } else { 0 };
        let maxima = if self.maxima { Maxima::bytes_of(self.columns) } else { 0 };
        moments + maxima + self.gram_bytes()
    }

    /// Bytes of the Gram matrix.
    pub(crate) fn gram_bytes(&self) -> u64 {
        self.gram.as_ref().map_or(0, |rows| gram_bytes(self.columns, rows))
    }

    /// Bytes of the sums over what is lacking.
    pub(crate) fn lacking_bytes(&self) -> u64 {
        self.lacking.map_or(0, |wanted| wanted.bytes(self.columns))
    }

    /// Bytes of all sums.
    pub(crate) fn bytes(&self) -> u64 {
        self.input_bytes() + self.lacking_bytes()
    }
}

/// Statistics of the inputs of one matrix, or of one expert's.
pub(crate) struct Sums<B: Backend>(Vec<Box<dyn Statistic<B>>>);

impl<B: Backend> Sums<B> {
    /// Tokens so far, or as how many the sums count.
    pub(crate) fn tokens(&self) -> u64 {
        self.0.first().map_or(0, |first| first.tokens())
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|statistic| statistic.bytes()).sum()
    }

    /// Adds tokens' inputs, and what the full model has of the same tokens where that is
    /// known, on the current pool's threads.
    pub(crate) fn add(
        &mut self,
        backend: &B,
        rows: &B::Buffer,
        beside: OfFull<'_, B>,
    ) -> Result<(), Error> {
        self.0.iter_mut().try_for_each(|statistic| statistic.add(backend, rows, beside))
    }

    /// Makes of sums over fewer than `prior` tokens sums over `prior` of them: what is missing
    /// is taken from the statistics of the same kind in `mean`.
    pub(crate) fn shrink(&mut self, backend: &B, prior: u64, mean: &mut Self) -> Result<(), Error> {
        for own in &mut self.0 {
            if let Some(mean) = mean.0.iter_mut().find(|mean| mean.id() == own.id()) {
                own.shrink(backend, prior, &mut **mean)?;
            }
        }
        Ok(())
    }

    /// Adds what another has summed, statistic by statistic.
    pub(crate) fn merge(&mut self, backend: &B, other: Self) -> Result<(), Error> {
        for other in other.0 {
            if let Some(own) = self.0.iter_mut().find(|own| own.id() == other.id()) {
                own.merge(backend, other)?;
            }
        }
        Ok(())
    }

    /// A statistic alone.
    pub(crate) fn of(statistic: impl Statistic<B>) -> Self {
        Self(vec![Box::new(statistic)])
    }

    /// One kind of statistic, if it is there.
    pub(crate) fn get<S: Statistic<B>>(&self) -> Option<&S> {
        self.0.iter().find_map(|statistic| {
            let any: &dyn Any = &**statistic;
            any.downcast_ref()
        })
    }

    /// Takes out one kind of statistic, if it is there.
    pub(crate) fn take<S: Statistic<B>>(&mut self) -> Option<S> {
        let at = self.0.iter().position(|statistic| {
            let any: &dyn Any = &**statistic;
            any.is::<S>()
        })?;
        Some(as_own(self.0.remove(at)))
    }
}
