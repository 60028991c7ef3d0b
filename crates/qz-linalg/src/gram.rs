//! XᵀX, summed while tokens come in.

use qz_kernels::gemm::{View, ViewMut, add_gram, mirror_upper};

use crate::Symmetric;

/// The sum of `x xᵀ` over tokens, in the place it will stay in: `columns²` times four
/// bytes, a third of what `qz_calib::gram` takes to keep every digit for a file.
///
/// Products are summed in `f32`, 256 at a time ([`qz_kernels::gemm`]), and the runs' sums
/// added to those before them. So the error of a sum over `T` tokens is at most
/// `(256 + T/256) · 2⁻²⁴ · Σ|x_i x_j|`, and in practice a few times 1e-6 of it. The order
/// of sums is that of the tokens; parts but the last have to be multiples of 256 of them
/// for the bits not to depend on how they are handed over.
#[derive(Clone, Debug)]
pub struct Gram {
    columns: usize,
    tokens: u64,
    /// Row by row; what is below the diagonal means nothing until the end.
    sums: Vec<f32>,
}

impl Gram {
    /// A sum of nothing.
    pub fn new(columns: usize) -> Self {
        Self { columns, tokens: 0, sums: vec![0.0; columns * columns] }
    }

    /// Columns of the inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds tokens' inputs, one row each.
    ///
    /// # Panics
    /// If the last row is cut.
    pub fn add(&mut self, inputs: &[f32]) {
        let columns = self.columns;
        assert!(columns > 0 && inputs.len().is_multiple_of(columns), "whole rows");
        let tokens = inputs.len() / columns;
        self.tokens += tokens as u64;
        let sums = ViewMut::dense(&mut self.sums, columns, columns);
        add_gram(1.0, View::dense(inputs, tokens, columns), sums);
    }

    /// The mean over tokens, E[x xᵀ].
    pub fn finish(mut self) -> Symmetric {
        let factor = 1.0 / self.tokens.max(1) as f64;
        let columns = self.columns;
        for sum in &mut self.sums {
            *sum = (f64::from(*sum) * factor) as f32;
        }
        mirror_upper(ViewMut::dense(&mut self.sums, columns, columns));
        Symmetric::new(columns, self.sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small::tests::numbers;

    #[test]
    fn the_mean_of_products() {
        for (tokens, columns) in [(1, 1), (3, 2), (700, 5), (1030, 100)] {
            let inputs = numbers(tokens * columns, 3);
            let mut gram = Gram::new(columns);
            gram.add(&inputs[..tokens.min(512) * columns]);
            gram.add(&inputs[tokens.min(512) * columns..]);
            assert_eq!(gram.tokens(), tokens as u64);
            let gram = gram.finish();
            for i in 0..columns {
                for j in 0..columns {
                    let rows = inputs.chunks(columns);
                    let sum: f64 = rows.map(|row| f64::from(row[i]) * f64::from(row[j])).sum();
                    let error = sum / tokens as f64 - f64::from(gram.row(i)[j]);
                    assert!(error.abs() < 1e-6, "{tokens}x{columns}: {error}");
                }
            }
        }
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
        assert_eq!(sum(3, 1500), expected);
        assert_eq!(sum(2, 512), expected);
        assert_eq!(sum(2, 1024), expected);
    }
}
