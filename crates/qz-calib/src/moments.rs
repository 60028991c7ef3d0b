//! Sums over the inputs of a matrix, column by column.

use rayon::prelude::*;

/// Columns that a thread takes at a time: a cache line of every row, eight times.
const COLUMNS: usize = 128;

/// For each column the sum of squares and of magnitudes over all rows that were added.
///
/// Sums are in f64 and go through the rows in order, whatever the threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    sums: Vec<Sums>,
    rows: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    squares: f64,
    magnitudes: f64,
}

impl Moments {
    /// Of no rows of `width` numbers.
    pub fn new(width: usize) -> Self {
        Self { sums: vec![Sums::default(); width], rows: 0 }
    }

    /// Bytes that so many columns take.
    pub fn bytes(width: usize) -> u64 {
        (width * size_of::<Sums>()) as u64
    }

    /// Adds rows, one behind the other, on the current pool's threads.
    ///
    /// # Panics
    /// If the last row is not whole.
    pub fn add(&mut self, rows: &[f32]) {
        let width = self.sums.len();
        assert!(rows.len().is_multiple_of(width), "whole rows");
        self.sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(part, sums)| {
            let first = part * COLUMNS;
            for row in rows.chunks_exact(width) {
                for (sums, number) in sums.iter_mut().zip(&row[first..]) {
                    let number = f64::from(*number);
                    sums.squares += number * number;
                    sums.magnitudes += number.abs();
                }
            }
        });
        self.rows += (rows.len() / width) as u64;
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.sums.len()
    }

    /// Rows that were added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Each column's sum of squares.
    pub fn squares(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.sums.iter().map(|sums| sums.squares)
    }

    /// Each column's sum of magnitudes.
    pub fn magnitudes(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.sums.iter().map(|sums| sums.magnitudes)
    }

    /// Columns that were zero in every row.
    pub fn zeros(&self) -> usize {
        self.sums.iter().filter(|sums| sums.squares == 0.0).count()
    }

    /// Makes of these moments, of fewer than `prior` rows, those of `prior` rows: what is
    /// missing is taken from `mean`, of other rows.
    pub fn shrink(&mut self, prior: u64, mean: &Moments) {
        let missing = prior.saturating_sub(self.rows);
        if missing == 0 || mean.rows == 0 {
            return;
        }
        let share = missing as f64 / mean.rows as f64;
        for (sums, mean) in self.sums.iter_mut().zip(&mean.sums) {
            sums.squares += share * mean.squares;
            sums.magnitudes += share * mean.magnitudes;
        }
        self.rows = prior;
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Moments) {
        for (sums, other) in self.sums.iter_mut().zip(&other.sums) {
            sums.squares += other.squares;
            sums.magnitudes += other.magnitudes;
        }
        self.rows += other.rows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(width: usize, rows: &[f32]) -> Moments {
        let mut moments = Moments::new(width);
        moments.add(rows);
        moments
    }

    #[test]
    fn sums_of_columns() {
        let moments = of(3, &[1.0, -2.0, 0.0, 3.0, 4.0, 0.0]);
        assert!(moments.squares().eq([10.0, 20.0, 0.0]));
        assert!(moments.magnitudes().eq([4.0, 6.0, 0.0]));
        assert_eq!((moments.rows(), moments.zeros()), (2, 1));
    }

    #[test]
    fn parts_add_up() {
        let width = 300;
        let rows: Vec<f32> = (0..5 * width).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        let mut parts = of(width, &rows[..2 * width]);
        parts.merge(&of(width, &rows[2 * width..]));
        // Whole numbers: no order of sums makes a difference.
        assert_eq!(parts, of(width, &rows));
    }

    #[test]
    fn few_rows_are_filled_up_with_the_mean() {
        let check = |rows: &[f32], prior: u64, expected: f64, count: u64| {
            let mut moments = of(1, rows);
            moments.shrink(prior, &of(1, &[1.0, 3.0]));
            assert!(moments.squares().eq([expected]) && moments.rows() == count);
        };
        check(&[2.0], 0, 4.0, 1);
        check(&[2.0], 1, 4.0, 1);
        check(&[2.0], 3, 4.0 + 2.0 * 5.0, 3);
        check(&[], 4, 20.0, 4);
    }
}
