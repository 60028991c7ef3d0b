//! XᵀX, summed while tokens come in.

use std::ops::Range;

use qz_kernels::backend::{Backend, Error, Shaped};
use qz_kernels::gemm::{ViewMut, mirror_upper};

use crate::Symmetric;
use crate::runs::{Runs, waiting_bytes};
use crate::triangle::packed_start;

/// The sum of `x xᵀ` over tokens, or some rows of its upper triangle, on a device and in the
/// place it will stay in. `T` are that device's buffers.
///
/// Products are summed in `f32`, 256 tokens at a time ([`Backend::add_gram`]), and the runs'
/// sums added to those before them. So the error of a sum over `T` tokens is at most
/// `(256 + T/256) · 2⁻²⁴ · Σ|x_i x_j|`, and in practice a few times 1e-6 of it. The order
/// of sums is that of the tokens, and the bits of an element depend on nothing else: not
/// on threads, on the parts that tokens are handed over in, or on which rows are summed.
#[derive(Clone, Debug)]
pub struct Gram<T> {
    columns: usize,
    rows: Range<usize>,
    tokens: u64,
    /// `rows` of the columns from `rows.start` on; what is below the diagonal means nothing
    /// until the end.
    sums: T,
    runs: Runs<T>,
}

/// Bytes that so many rows of a Gram matrix take, with what waits to be summed.
pub fn gram_bytes(columns: usize, rows: &Range<usize>) -> u64 {
    let sums = rows.len() as u64 * (columns - rows.start) as u64 * size_of::<f32>() as u64;
    sums + waiting_bytes(columns)
}

/// All rows of a Gram matrix cut into parts of at most `limit` bytes each, of at least one row.
pub fn gram_parts(columns: usize, limit: u64) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    while start < columns {
        let row = ((columns - start) * size_of::<f32>()) as u64;
        let count = limit.saturating_sub(waiting_bytes(columns)) / row;
        let count = usize::try_from(count).unwrap_or(usize::MAX).clamp(1, columns - start);
        parts.push(start..start + count);
        start += count;
    }
    parts
}

impl<T: Shaped> Gram<T> {
    /// A sum of nothing: some rows of as many as there are columns.
    ///
    /// # Errors
    /// If the device has no room.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn of_rows<B: Backend<Buffer = T>>(
        backend: &B,
        columns: usize,
        rows: Range<usize>,
    ) -> Result<Self, Error> {
        assert!(rows.start <= rows.end && rows.end <= columns, "rows of the matrix");
        let sums = backend.zeros(rows.len(), columns - rows.start)?;
        Ok(Self { columns, rows, tokens: 0, sums, runs: Runs::new() })
    }

    /// Columns of the inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Which rows of the matrix are summed.
    pub fn rows(&self) -> &Range<usize> {
        &self.rows
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds tokens' inputs, one row each.
    ///
    /// # Errors
    /// If the device fails, or rows have another width.
    pub fn add<B: Backend<Buffer = T>>(&mut self, backend: &B, inputs: &T) -> Result<(), Error> {
        let Self { rows, sums, runs, .. } = self;
        runs.add(backend, &[inputs], |run, which| {
            backend.add_gram(sums, run[0], rows.start, which)
        })?;
        self.tokens += inputs.rows() as u64;
        Ok(())
    }

    /// Sums what waits; tokens that come later begin a new run.
    fn settle<B: Backend<Buffer = T>>(&mut self, backend: &B) -> Result<(), Error> {
        let Self { rows, sums, runs, .. } = self;
        runs.finish(|run, which| backend.add_gram(sums, run[0], rows.start, which))
    }

    /// The sum of the entries on the diagonal, as far as these rows have it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn trace<B: Backend<Buffer = T>>(&mut self, backend: &B) -> Result<f64, Error> {
        self.settle(backend)?;
        let width = self.sums.columns();
        let sums = backend.numbers(&self.sums)?;
        Ok((0..self.rows.len()).map(|row| f64::from(sums[row * width + row])).sum())
    }

    /// Adds so many tokens that are like those of `mean`, but `factor` times as large in
    /// squares.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If `mean` is not of the same rows.
    pub fn add_mean<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        tokens: u64,
        mean: &mut Self,
        factor: f64,
    ) -> Result<(), Error> {
        assert_eq!((self.columns, &self.rows), (mean.columns, &mean.rows), "the same rows");
        if tokens == 0 || mean.tokens == 0 {
            return Ok(());
        }
        self.settle(backend)?;
        mean.settle(backend)?;
        let share = factor * tokens as f64 / mean.tokens as f64;
        let mixed: Vec<f32> = {
            let (own, mean) = (backend.numbers(&self.sums)?, backend.numbers(&mean.sums)?);
            let both = own.iter().zip(mean.iter());
            both.map(|(sum, mean)| (f64::from(*sum) + share * f64::from(*mean)) as f32).collect()
        };
        self.sums = backend.buffer(self.sums.columns(), &mixed)?;
        self.tokens += tokens;
        Ok(())
    }

    /// Adds what another has summed of the same rows.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If they are not the same.
    pub fn merge<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        other: &mut Self,
    ) -> Result<(), Error> {
        assert_eq!((self.columns, &self.rows), (other.columns, &other.rows), "the same rows");
        self.settle(backend)?;
        other.settle(backend)?;
        backend.add(&mut self.sums, &other.sums)?;
        self.tokens += other.tokens;
        Ok(())
    }

    /// The mean over tokens, E[x xᵀ].
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If these are not all rows.
    pub fn finish<B: Backend<Buffer = T>>(mut self, backend: &B) -> Result<Symmetric, Error> {
        assert_eq!(self.rows, 0..self.columns, "all rows");
        self.settle(backend)?;
        let factor = 1.0 / self.tokens.max(1) as f64;
        let columns = self.columns;
        let mut sums = backend.take_numbers(self.sums)?;
        for sum in &mut sums {
            *sum = (f64::from(*sum) * factor) as f32;
        }
        mirror_upper(ViewMut::dense(&mut sums, columns, columns));
        Ok(Symmetric::new(columns, sums))
    }

    /// Where these rows are in the packed triangle ([`crate::unpack`]), in elements.
    pub fn packed_start(&self) -> usize {
        packed_start(self.columns, self.rows.start)
    }

    /// The rows, each from its diagonal on, divided by nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub fn into_packed<B: Backend<Buffer = T>>(
        mut self,
        backend: &B,
    ) -> Result<impl Iterator<Item = f32> + use<B, T>, Error> {
        self.settle(backend)?;
        let (rows, width) = (self.rows.len(), self.columns - self.rows.start);
        let sums = backend.take_numbers(self.sums)?;
        Ok((0..rows).flat_map(move |row| sums[row * width + row..(row + 1) * width].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small::tests::numbers;
    use crate::tests::{buffer, gram_of, processor};
    use crate::triangle::{packed_len, unpack};

    /// The definition, in f64.
    fn expected(inputs: &[f32], columns: usize) -> Vec<f64> {
        let mut sums = vec![0.0; columns * columns];
        for row in inputs.chunks_exact(columns) {
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum += f64::from(row[at / columns]) * f64::from(row[at % columns]);
            }
        }
        sums
    }

    #[test]
    fn the_mean_of_products() {
        for (tokens, columns) in [(1, 1), (3, 2), (700, 5), (1030, 100)] {
            let inputs = numbers(tokens * columns, 3);
            let backend = processor(2);
            let gram = gram_of(&backend, columns, &inputs, 500);
            assert_eq!(gram.tokens(), tokens as u64);
            let gram = gram.finish(&backend).expect("finished");
            for (found, sum) in gram.entries().iter().zip(expected(&inputs, columns)) {
                let error = sum / tokens as f64 - f64::from(*found);
                assert!(error.abs() < 1e-6, "{tokens}x{columns}: {error}");
            }
        }
    }

    #[test]
    fn parts_of_rows_make_the_whole() {
        for (tokens, columns, limit) in
            [(1, 1, 1), (40, 13, 14_000), (700, 50, 60_000), (33, 50, 1 << 20)]
        {
            let inputs = numbers(tokens * columns, 5);
            let mut packed = vec![0.0; packed_len(columns)];
            let backend = processor(2);
            for rows in gram_parts(columns, limit) {
                let mut part = Gram::of_rows(&backend, columns, rows).expect("room");
                for inputs in inputs.chunks(columns * 300) {
                    part.add(&backend, &buffer(columns, inputs)).expect("added");
                }
                assert_eq!(part.tokens(), tokens as u64);
                let start = part.packed_start();
                let rows = part.into_packed(&backend).expect("rows");
                packed[start..].iter_mut().zip(rows).for_each(|(out, number)| *out = number);
            }
            let whole = gram_of(&backend, columns, &inputs, tokens);
            let whole = whole.into_packed(&backend).expect("rows");
            assert!(whole.eq(packed.iter().copied()), "{tokens}x{columns}");
            let expected = expected(&inputs, columns);
            let scale = expected.iter().copied().fold(0.0, f64::max);
            for (found, expected) in unpack(columns, &packed).iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() <= 2e-6 * scale);
            }
        }
    }

    #[test]
    fn rows_are_cut_into_parts() {
        let waiting = waiting_bytes(4);
        assert_eq!(gram_parts(4, u64::MAX).first(), Some(&(0..4)));
        assert_eq!(gram_parts(4, 0), [0..1, 1..2, 2..3, 3..4]);
        // Rows of 16, 16, 8 and 8 bytes.
        assert_eq!(gram_parts(4, waiting + 32), [0..2, 2..4]);
        assert_eq!(gram_bytes(4, &(2..4)), waiting + 16);
    }

    #[test]
    fn tokens_like_others_are_added() {
        let check = |rows: &[f32], tokens: u64, factor: f64, expected: f32, count: u64| {
            let backend = processor(1);
            let mut gram = gram_of(&backend, 1, rows, 1);
            let mut mean = gram_of(&backend, 1, &[1.0, 3.0], 2);
            gram.add_mean(&backend, tokens, &mut mean, factor).expect("added");
            assert_eq!((gram.tokens(), mean.tokens()), (count, 2));
            assert_eq!(gram.trace(&backend).expect("a number"), f64::from(expected));
            assert!(gram.into_packed(&backend).expect("rows").eq([expected]), "{rows:?}");
        };
        check(&[2.0], 0, 1.0, 4.0, 1);
        check(&[2.0], 2, 1.0, 4.0 + 2.0 * 5.0, 3);
        check(&[2.0], 2, 0.5, 4.0 + 5.0, 3);
        check(&[], 4, 1.0, 20.0, 4);
    }

    #[test]
    fn threads_and_parts_change_no_bit() {
        let columns = 130;
        let inputs = numbers(1500 * columns, 9);
        let sum = |threads: usize, part: usize| {
            let backend = processor(threads);
            gram_of(&backend, columns, &inputs, part).finish(&backend).expect("finished")
        };
        let expected = sum(1, 1500);
        for (threads, part) in [(3, 1500), (2, 512), (2, 1024), (2, 7), (1, 255), (3, 300)] {
            assert_eq!(sum(threads, part), expected, "{part} tokens at a time");
        }
    }
}
