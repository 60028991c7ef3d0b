//! Sums of products of what the quantized model lacks and of its inputs.

use qz_kernels::backend::{Backend, Error, ExpertLoad, Shaped};

use crate::runs::{Runs, waiting_bytes};

/// The sum of `(r̃ − r) xᵀ` over tokens: `r̃` are numbers of the full model, `r` the same
/// ones of the quantized model, and `x` a layer's inputs in the quantized model. With `x̃`
/// for `r̃` and `x` for `r` this is the cross term of GPTAQ (arXiv 2504.02692). Error and
/// order of sums are those of [`crate::Gram`]; `T` are buffers of the device they are on.
#[derive(Clone, Debug)]
pub struct CrossGram<T> {
    tokens: u64,
    sums: T,
    /// Of each token the difference, and the input.
    runs: Runs<T>,
}

/// Bytes that sums of `rows` numbers that differ with `columns` inputs take, with what waits to be
/// summed.
pub fn cross_bytes(rows: usize, columns: usize) -> u64 {
    (rows * columns * size_of::<f32>()) as u64 + waiting_bytes(rows + columns)
}

impl<T: Shaped> CrossGram<T> {
    /// A sum of nothing: of each token `rows` numbers that differ, and `columns` inputs.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn new<B: Backend<Buffer = T>>(
        backend: &B,
        rows: usize,
        columns: usize,
    ) -> Result<Self, Error> {
        Ok(Self { tokens: 0, sums: backend.zeros(rows, columns)?, runs: Runs::new() })
    }

    /// Adds tokens, one row each: numbers of the full model, the same ones of the quantized
    /// model, and its inputs.
    ///
    /// # Errors
    /// If the device fails, these are not of as many tokens, or rows have another width.
    pub fn add<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        full: &T,
        quantized: &T,
        inputs: &T,
    ) -> Result<(), Error> {
        let tokens = inputs.rows();
        let mut differences = backend.copy(full)?;
        let less = ExpertLoad { tokens: (0..tokens).collect(), weights: vec![-1.0; tokens] };
        backend.scatter_add(&mut differences, &less, quantized)?;
        let Self { sums, runs, .. } = self;
        runs.add(backend, &[&differences, inputs], |run, which| {
            backend.add_products(sums, run[0], run[1], which)
        })?;
        self.tokens += tokens as u64;
        Ok(())
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Sums what waits; tokens that come later begin a new run.
    fn settle<B: Backend<Buffer = T>>(&mut self, backend: &B) -> Result<(), Error> {
        let Self { sums, runs, .. } = self;
        runs.finish(|run, which| backend.add_products(sums, run[0], run[1], which))
    }

    /// Adds what another has summed of as many numbers.
    ///
    /// # Errors
    /// If the device fails, or it is of others.
    pub fn merge<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        mut other: Self,
    ) -> Result<(), Error> {
        self.settle(backend)?;
        other.settle(backend)?;
        backend.add(&mut self.sums, &other.sums)?;
        self.tokens += other.tokens;
        Ok(())
    }

    /// The mean over tokens, row by row: E[(r̃ − r) xᵀ].
    ///
    /// # Errors
    /// If the device fails.
    pub fn finish<B: Backend<Buffer = T>>(mut self, backend: &B) -> Result<Vec<f32>, Error> {
        self.settle(backend)?;
        let factor = 1.0 / self.tokens.max(1) as f64;
        let mut sums = backend.take_numbers(self.sums)?;
        for sum in &mut sums {
            *sum = (f64::from(*sum) * factor) as f32;
        }
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::small::tests::numbers;
    use crate::tests::{buffer, processor};

    #[test]
    fn the_mean_of_cross_products() {
        for (tokens, rows, columns) in [(600, 20, 20), (300, 7, 20), (5, 3, 1)] {
            let (full, quantized) = (numbers(tokens * rows, 1), numbers(tokens * rows, 3));
            let inputs = numbers(tokens * columns, 2);
            let backend = processor(2);
            let of = |tokens: Range<usize>, part: usize| {
                let mut cross = CrossGram::new(&backend, rows, columns).expect("room");
                for first in tokens.clone().step_by(part) {
                    let end = tokens.end.min(first + part);
                    let (own, its) = (first * rows..end * rows, first * columns..end * columns);
                    let [full, quantized] =
                        [&full, &quantized].map(|numbers| buffer(rows, &numbers[own.clone()]));
                    let inputs = buffer(columns, &inputs[its]);
                    cross.add(&backend, &full, &quantized, &inputs).expect("added");
                }
                cross
            };
            let sum = |part| of(0..tokens, part).finish(&backend).expect("finished");
            let cross = sum(tokens);
            assert!(sum(77) == cross && sum(300) == cross);
            let (mut merged, half) = (of(0..tokens / 2, tokens), tokens / 2);
            merged.merge(&backend, of(half..tokens, tokens)).expect("merged");
            assert_eq!(merged.tokens(), tokens as u64);
            let near = |(own, other): (&f32, &f32)| (own - other).abs() < 1e-6;
            let merged = merged.finish(&backend).expect("finished");
            assert!(merged.iter().zip(&cross).all(near));
            for i in 0..rows {
                for j in 0..columns {
                    let term = |token: usize| {
                        let at = token * rows + i;
                        let missing = f64::from(full[at] - quantized[at]);
                        missing * f64::from(inputs[token * columns + j])
                    };
                    let sum: f64 = (0..tokens).map(term).sum();
                    let error = sum / tokens as f64 - f64::from(cross[i * columns + j]);
                    assert!(error.abs() < 1e-6, "{error}");
                }
            }
        }
    }
}
