//! XᵀX, summed while tokens come in.

use std::ops::Range;

use qz_kernels::gemm::{Into, View, ViewMut, add_gram, mirror_upper, multiply};

use crate::Symmetric;
use crate::runs::Runs;
use crate::triangle::packed_start;

/// The sum of `x xᵀ` over tokens, or some rows of its upper triangle, in the place it will
/// stay in.
///
/// Products are summed in `f32`, 256 tokens at a time ([`qz_kernels::gemm`]), and the runs'
/// sums added to those before them. So the error of a sum over `T` tokens is at most
/// `(256 + T/256) · 2⁻²⁴ · Σ|x_i x_j|`, and in practice a few times 1e-6 of it. The order
/// of sums is that of the tokens, and the bits of an element depend on nothing else: not
/// on threads, on the parts that tokens are handed over in, or on which rows are summed.
#[derive(Clone, Debug)]
pub struct Gram {
    columns: usize,
    rows: Range<usize>,
    tokens: u64,
    /// `rows` of the columns from `rows.start` on; what is below the diagonal means nothing
    /// until the end.
    sums: Vec<f32>,
    runs: Runs,
}

impl Gram {
    /// A sum of nothing: all rows.
    pub fn new(columns: usize) -> Self {
        Self::of_rows(columns, 0..columns)
    }

    /// A sum of nothing: some rows of as many as there are columns.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn of_rows(columns: usize, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= columns, "rows of the matrix");
        let sums = vec![0.0; rows.len() * (columns - rows.start)];
        Self { columns, rows, tokens: 0, sums, runs: Runs::new(columns) }
    }

    /// Bytes that so many rows take, with what waits to be summed.
    pub fn bytes(columns: usize, rows: &Range<usize>) -> u64 {
        let sums = rows.len() as u64 * (columns - rows.start) as u64 * size_of::<f32>() as u64;
        sums + Runs::bytes(columns)
    }

    /// All rows cut into parts of at most `limit` bytes each, of at least one row.
    pub fn parts(columns: usize, limit: u64) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut start = 0;
        while start < columns {
            let row = ((columns - start) * size_of::<f32>()) as u64;
            let count = limit.saturating_sub(Runs::bytes(columns)) / row;
            let count = usize::try_from(count).unwrap_or(usize::MAX).clamp(1, columns - start);
            parts.push(start..start + count);
            start += count;
        }
        parts
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

    /// Adds tokens' inputs, one row each, on the current pool's threads.
    ///
    /// # Panics
    /// If the last row is cut.
    pub fn add(&mut self, inputs: &[f32]) {
        let Self { columns, rows, sums, runs, .. } = self;
        self.tokens += runs.add(inputs, |run| add_run(sums, *columns, rows, run)) as u64;
    }

    /// Sums what waits; tokens that come later begin a new run.
    fn settle(&mut self) {
        let Self { columns, rows, sums, runs, .. } = self;
        runs.finish(|run| add_run(sums, *columns, rows, run));
    }

    /// Makes of a sum over fewer than `prior` tokens one over `prior` of them: what is
    /// missing is taken from `mean`, of other tokens.
    ///
    /// # Panics
    /// If `mean` is not of the same rows.
    pub fn shrink(&mut self, prior: u64, mean: &mut Self) {
        assert_eq!((self.columns, &self.rows), (mean.columns, &mean.rows), "the same rows");
        let missing = prior.saturating_sub(self.tokens);
        if missing == 0 || mean.tokens == 0 {
            return;
        }
        self.settle();
        mean.settle();
        let share = missing as f64 / mean.tokens as f64;
        for (sum, mean) in self.sums.iter_mut().zip(&mean.sums) {
            *sum = (f64::from(*sum) + share * f64::from(*mean)) as f32;
        }
        self.tokens = prior;
    }

    /// Adds what another has summed of the same rows.
    ///
    /// # Panics
    /// If they are not the same.
    pub fn merge(&mut self, mut other: Self) {
        assert_eq!((self.columns, &self.rows), (other.columns, &other.rows), "the same rows");
        self.settle();
        other.settle();
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
        self.tokens += other.tokens;
    }

    /// The mean over tokens, E[x xᵀ].
    ///
    /// # Panics
    /// If these are not all rows.
    pub fn finish(mut self) -> Symmetric {
        assert_eq!(self.rows, 0..self.columns, "all rows");
        self.settle();
        let factor = 1.0 / self.tokens.max(1) as f64;
        let columns = self.columns;
        for sum in &mut self.sums {
            *sum = (f64::from(*sum) * factor) as f32;
        }
        mirror_upper(ViewMut::dense(&mut self.sums, columns, columns));
        Symmetric::new(columns, self.sums)
    }

    /// Where these rows are in the packed triangle ([`crate::unpack`]), in elements.
    pub fn packed_start(&self) -> usize {
        packed_start(self.columns, self.rows.start)
    }

    /// The rows, each from its diagonal on, divided by nothing.
    pub fn into_packed(mut self) -> impl Iterator<Item = f32> {
        self.settle();
        let width = self.columns - self.rows.start;
        let rows = self.rows.len();
        (0..rows).flat_map(move |row| self.sums[row * width + row..(row + 1) * width].to_vec())
    }
}

/// Adds the products of some tokens.
fn add_run(sums: &mut [f32], columns: usize, rows: &Range<usize>, inputs: &[f32]) {
    let tokens = inputs.len() / columns;
    let (count, width) = (rows.len(), columns - rows.start);
    let inputs = View::dense(inputs, tokens, columns);
    let own = inputs.block(0..tokens, rows.clone());
    add_gram(1.0, own, ViewMut::new(sums, count, count, width));
    if count < width {
        let right = inputs.block(0..tokens, rows.end..columns);
        let sums = ViewMut::new(&mut sums[count..], count, width - count, width);
        multiply(Into::Add, 1.0, own.transposed(), right, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small::tests::numbers;
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
            let mut gram = Gram::new(columns);
            gram.add(&inputs[..tokens.min(500) * columns]);
            gram.add(&inputs[tokens.min(500) * columns..]);
            assert_eq!(gram.tokens(), tokens as u64);
            let gram = gram.finish();
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
            for rows in Gram::parts(columns, limit) {
                let mut part = Gram::of_rows(columns, rows);
                inputs.chunks(columns * 300).for_each(|inputs| part.add(inputs));
                assert_eq!(part.tokens(), tokens as u64);
                let start = part.packed_start();
                let own = packed[start..].iter_mut().zip(part.into_packed());
                own.for_each(|(out, number)| *out = number);
            }
            let mut whole = Gram::new(columns);
            whole.add(&inputs);
            assert!(whole.into_packed().eq(packed.iter().copied()), "{tokens}x{columns}");
            let expected = expected(&inputs, columns);
            let scale = expected.iter().copied().fold(0.0, f64::max);
            for (found, expected) in unpack(columns, &packed).iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() <= 2e-6 * scale);
            }
        }
    }

    #[test]
    fn rows_are_cut_into_parts() {
        let waiting = Runs::bytes(4);
        assert_eq!(Gram::parts(4, u64::MAX).first(), Some(&(0..4)));
        assert_eq!(Gram::parts(4, 0), [0..1, 1..2, 2..3, 3..4]);
        // Rows of 16, 16, 8 and 8 bytes.
        assert_eq!(Gram::parts(4, waiting + 32), [0..2, 2..4]);
        assert_eq!(Gram::bytes(4, &(2..4)), waiting + 16);
    }

    #[test]
    fn few_tokens_are_filled_up_with_the_mean() {
        let check = |rows: &[f32], prior: u64, expected: f32, count: u64| {
            let (mut gram, mut mean) = (Gram::new(1), Gram::new(1));
            gram.add(rows);
            mean.add(&[1.0, 3.0]);
            gram.shrink(prior, &mut mean);
            assert_eq!(gram.tokens(), count);
            assert!(gram.into_packed().eq([expected]), "{rows:?}");
        };
        check(&[2.0], 0, 4.0, 1);
        check(&[2.0], 1, 4.0, 1);
        check(&[2.0], 3, 4.0 + 2.0 * 5.0, 3);
        check(&[], 4, 20.0, 4);
    }

    #[test]
    fn threads_and_parts_change_no_bit() {
        let columns = 130;
        let inputs = numbers(1500 * columns, 9);
        let sum = |threads: usize, part: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
            pool.install(|| {
                let mut gram = Gram::new(columns);
                inputs.chunks(part * columns).for_each(|inputs| gram.add(inputs));
                gram.finish()
            })
        };
        let expected = sum(1, 1500);
        for (threads, part) in [(3, 1500), (2, 512), (2, 1024), (2, 7), (1, 255), (3, 300)] {
            assert_eq!(sum(threads, part), expected, "{part} tokens at a time");
        }
    }
}
