//! Rows that come in parts of any size, and go on in runs of one size.

use std::ops::Range;

use qz_kernels::backend::{Backend, Error, Shaped};
use qz_kernels::gemm::DEPTH;

/// Hands rows on in multiples of the [`DEPTH`] rows that a product sums before it adds them:
/// so sums do not depend on the parts that the rows came in. A row may be in several buffers.
#[derive(Clone, Debug)]
pub(crate) struct Runs<T> {
    /// Rows that do not fill a run yet; no buffers if there are none.
    waiting: Vec<T>,
}

impl<T: Shaped> Runs<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: Vec::new() }
    }

    fn waiting(&self) -> usize {
        self.waiting.first().map_or(0, Shaped::rows)
    }

    /// Takes rows, and gives `sum` those that fill runs: buffers, and which of their rows.
    pub(crate) fn add<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        rows: &[&T],
        mut sum: impl FnMut(&[&T], Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let count = rows.first().map_or(0, |rows| rows.rows());
        let mut first = 0;
        if self.waiting() > 0 {
            first = count.min(DEPTH - self.waiting());
            self.wait(backend, rows, 0..first)?;
            if self.waiting() == DEPTH {
                let waiting = std::mem::take(&mut self.waiting);
                sum(&waiting.iter().collect::<Vec<_>>(), 0..DEPTH)?;
            }
        }
        let end = first + (count - first) / DEPTH * DEPTH;
        if end > first {
            sum(rows, first..end)?;
        }
        self.wait(backend, rows, end..count)
    }

    /// Puts rows behind those that wait.
    fn wait<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        rows: &[&T],
        which: Range<usize>,
    ) -> Result<(), Error> {
        if which.is_empty() {
            return Ok(());
        }
        let which: Vec<usize> = which.collect();
        let own: Result<Vec<T>, Error> =
            rows.iter().map(|rows| backend.gather(rows, &which)).collect();
        let own = own?;
        self.waiting = match self.waiting() {
            0 => own,
            _ => {
                let both = self.waiting.iter().zip(&own);
                both.map(|(waiting, own)| backend.stack(&[waiting, own]))
                    .collect::<Result<_, _>>()?
            }
        };
        Ok(())
    }

    /// Gives `sum` what waits still.
    pub(crate) fn finish(
        &mut self,
        sum: impl FnOnce(&[&T], Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let waiting = std::mem::take(&mut self.waiting);
        match waiting.first() {
            Some(first) => sum(&waiting.iter().collect::<Vec<_>>(), 0..first.rows()),
            None => Ok(()),
        }
    }
}

/// The most bytes that wait, of rows of so many numbers.
pub(crate) fn waiting_bytes(width: usize) -> u64 {
    (DEPTH * width * size_of::<f32>()) as u64
}
