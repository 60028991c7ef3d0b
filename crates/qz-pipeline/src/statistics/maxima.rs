//! The largest magnitude of each column.

use qz_kernels::Error;
use qz_kernels::backend::Backend;
use rayon::prelude::*;

use super::statistic::{OfFull, Statistic};

/// Columns that a thread takes at a time.
const COLUMNS: usize = 128;

/// For each column the largest magnitude over all tokens.
pub(crate) struct Maxima {
    columns: Vec<f32>,
    tokens: u64,
}

impl Maxima {
    /// Of no token.
    pub(crate) fn new(columns: usize) -> Self {
        Self { columns: vec![0.0; columns], tokens: 0 }
    }

    /// Bytes of so many columns.
    pub(crate) fn bytes_of(columns: usize) -> u64 {
        (columns * size_of::<f32>()) as u64
    }

    /// By column.
    pub(crate) fn columns(&self) -> &[f32] {
        &self.columns
    }

    fn add_rows(&mut self, rows: &[f32]) {
        let width = self.columns.len();
        self.columns.par_chunks_mut(COLUMNS).enumerate().for_each(|(part, most)| {
            for row in rows.chunks_exact(width) {
                for (most, number) in most.iter_mut().zip(&row[part * COLUMNS..]) {
                    *most = most.max(number.abs());
                }
            }
        });
        self.tokens += (rows.len() / width) as u64;
    }
}

impl<B: Backend> Statistic<B> for Maxima {
    fn tokens(&self) -> u64 {
        self.tokens
    }

    fn bytes(&self) -> u64 {
        Self::bytes_of(self.columns.len())
    }

    fn add(&mut self, backend: &B, rows: &B::Buffer, _: OfFull<'_, B>) -> Result<(), Error> {
        self.add_rows(&backend.numbers(rows)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use qz_kernels::backend::reference::ReferenceBackend;

    use super::*;

    #[test]
    fn parts_have_the_largest_of_all() {
        let columns = 200;
        let number = |at: usize| ((at * 7919) % 1009) as f32 - 504.0;
        let rows: Vec<f32> = (0..9 * columns).map(number).collect();
        let expected: Vec<f32> = (0..columns)
            .map(|column| (0..9).map(|row| rows[row * columns + column].abs()).fold(0.0, f32::max))
            .collect();
        let mut all = Maxima::new(columns);
        for part in rows.chunks(3 * columns) {
            let buffer = ReferenceBackend.buffer(columns, part).expect("whole rows");
            all.add(&ReferenceBackend, &buffer, None).expect("added");
        }
        assert_eq!((all.columns(), all.tokens), (&expected[..], 9));
    }
}
