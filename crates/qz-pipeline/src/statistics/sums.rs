//! All statistics of one matrix, or of one expert's.

use std::any::Any;
use std::ops::Range;

use qz_calib::Moments;
use qz_kernels::Error;
use qz_kernels::backend::Backend;
use qz_linalg::{Gram, gram_bytes};

use super::lacking::{Lacking, WantedLacking};
use super::maxima::Maxima;
use super::samples::Samples;
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
    /// Some of the inputs themselves.
    pub(crate) samples: bool,
}

impl WantedSums {
    /// As many rows of the Gram matrix, and nothing else.
    pub(crate) fn of_mean(&self) -> Self {
        Self { moments: false, lacking: None, samples: false, ..self.clone() }
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
        if self.samples {
            all.push(Box::new(Samples::new(self.columns)));
        }
        if let Some(wanted) = self.lacking {
            all.push(Box::new(Lacking::new(backend, wanted, self.columns)?));
        }
        Ok(Sums(all))
    }

    /// Bytes of what is small: so much of all matrices of a layer is there at once.
    fn small_bytes(&self) -> u64 {
        let moments = if self.moments { Moments::bytes(self.columns) } else { 0 };
        let maxima = if self.maxima { Maxima::bytes_of(self.columns) } else { 0 };
        moments + maxima
    }

    /// Bytes of everything else.
    pub(crate) fn large_bytes(&self) -> u64 {
        let samples = if self.samples { Samples::bytes_of(self.columns) } else { 0 };
        samples + self.gram_bytes() + self.lacking_bytes()
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
        self.small_bytes() + self.large_bytes()
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

    /// One kind of statistic, if it is there.
    pub(crate) fn get<S: Statistic<B>>(&self) -> Option<&S> {
        self.0.iter().find_map(|statistic| {
            let any: &dyn Any = &**statistic;
            any.downcast_ref()
        })
    }

    /// The same, to be changed.
    pub(crate) fn get_mut<S: Statistic<B>>(&mut self) -> Option<&mut S> {
        self.0.iter_mut().find_map(|statistic| {
            let any: &mut dyn Any = &mut **statistic;
            any.downcast_mut()
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
