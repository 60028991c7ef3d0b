//! Sums of products of what the quantized model lacks and of its inputs.

use std::ops::Range;

use qz_kernels::backend::{Backend, Error, ExpertLoad, Shaped};
use qz_kernels::gemm::DEPTH;

use crate::runs::{Runs, waiting_bytes};

/// Runs of tokens that go to one half of the sums, before as many go to the other.
const RUNS_IN_TURN: usize = 4;

/// The sum of `(r̃ − r) xᵀ` over tokens: `r̃` are numbers of the full model, `r` the same
/// ones of the quantized model, and `x` a layer's inputs in the quantized model. With `x̃`
/// for `r̃` and `x` for `r` this is the cross term of GPTAQ (arXiv 2504.02692). Error and
/// order of sums are those of [`crate::Gram`]; `T` are buffers of the device they are on.
///
/// Every other 1024 tokens may be summed apart: what one half tells can be tried on the other.
#[derive(Clone, Debug)]
pub struct CrossGram<T> {
    tokens: u64,
    /// One, or two.
    halves: Vec<Half<T>>,
    /// Of each token the difference, and the input.
    runs: Runs<T>,
    /// Runs so far.
    count: usize,
}

#[derive(Clone, Debug)]
struct Half<T> {
    tokens: u64,
    sums: T,
}

/// Means over tokens, row by row: E[(r̃ − r) xᵀ].
#[derive(Clone, Debug, PartialEq)]
pub struct CrossMean {
    /// Over all tokens.
    pub mean: Vec<f32>,
    /// Over some of them, and what part of all these are; nothing if that is not known.
    pub part: Option<(Vec<f32>, f64)>,
}

impl From<Vec<f32>> for CrossMean {
    fn from(mean: Vec<f32>) -> Self {
        Self { mean, part: None }
    }
}

/// Bytes that sums of `rows` numbers that differ with `columns` inputs take, in halves or not, with
/// what waits to be summed.
pub fn cross_bytes(rows: usize, columns: usize, in_halves: bool) -> u64 {
    let halves = if in_halves { 2 } else { 1 };
    halves * (rows * columns * size_of::<f32>()) as u64 + waiting_bytes(rows + columns)
}

impl<T: Shaped> CrossGram<T> {
    /// A sum of nothing: of each token `rows` numbers that differ, and `columns` inputs; of all
    /// tokens, or in two halves.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn new<B: Backend<Buffer = T>>(
        backend: &B,
        rows: usize,
        columns: usize,
        in_halves: bool,
    ) -> Result<Self, Error> {
        let half = |_| Ok(Half { tokens: 0, sums: backend.zeros(rows, columns)? });
        let halves: Result<_, Error> = (0..if in_halves { 2 } else { 1 }).map(half).collect();
        Ok(Self { tokens: 0, halves: halves?, runs: Runs::new(), count: 0 })
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
        let Self { halves, runs, count, .. } = self;
        runs.add(backend, &[&differences, inputs], |run, which| {
            add_runs(backend, halves, count, run, which)
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
        let Self { halves, runs, count, .. } = self;
        runs.finish(|run, which| add_runs(backend, halves, count, run, which))
    }

    /// The means over the tokens.
    ///
    /// # Errors
    /// If the device fails.
    pub fn finish<B: Backend<Buffer = T>>(mut self, backend: &B) -> Result<CrossMean, Error> {
        self.settle(backend)?;
        let tokens = self.tokens.max(1) as f64;
        let mut halves = self.halves.into_iter();
        let first = halves.next().expect("a half");
        let (count, mut own) = (first.tokens as f64, backend.take_numbers(first.sums)?);
        let Some(second) = halves.next().filter(|second| second.tokens > 0) else {
            let factor = 1.0 / tokens;
            own.iter_mut().for_each(|sum| *sum = (f64::from(*sum) * factor) as f32);
            return Ok(own.into());
        };
        let mut mean = backend.take_numbers(second.sums)?;
        for (sum, own) in mean.iter_mut().zip(&own) {
            *sum = ((f64::from(*sum) + f64::from(*own)) / tokens) as f32;
        }
        let mean_of_own = |sum: f32| (f64::from(sum) / count) as f32;
        let part = own.into_iter().map(mean_of_own).collect();
        Ok(CrossMean { mean, part: Some((part, count / tokens)) })
    }
}

/// Sums runs of tokens, each in its half.
fn add_runs<B: Backend>(
    backend: &B,
    halves: &mut [Half<B::Buffer>],
    count: &mut usize,
    run: &[&B::Buffer],
    which: Range<usize>,
) -> Result<(), Error> {
    if let [only] = halves {
        only.tokens += which.len() as u64;
        return backend.add_products(&mut only.sums, run[0], run[1], which);
    }
    for first in which.clone().step_by(DEPTH) {
        let tokens = first..which.end.min(first + DEPTH);
        let half = *count / RUNS_IN_TURN % halves.len();
        let half = &mut halves[half];
        half.tokens += tokens.len() as u64;
        *count += 1;
        backend.add_products(&mut half.sums, run[0], run[1], tokens)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small::tests::numbers;
    use crate::tests::{buffer, processor};

    #[test]
    fn the_mean_of_cross_products() {
        for (tokens, rows, columns) in [(2600, 20, 20), (300, 7, 20), (5, 3, 1)] {
            let (full, quantized) = (numbers(tokens * rows, 1), numbers(tokens * rows, 3));
            let inputs = numbers(tokens * columns, 2);
            let backend = processor(2);
            let of = |tokens: Range<usize>, part: usize| {
                let mut cross = CrossGram::new(&backend, rows, columns, true).expect("room");
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
            let part = cross.part.map(|(mean, share)| (mean, (share * tokens as f64).round()));
            assert_eq!(part.as_ref().map(|own| own.1), (tokens > 1024).then_some(1576.0));
            let own: Vec<usize> = (0..tokens).filter(|token| token / 1024 % 2 == 0).collect();
            for i in 0..rows {
                for j in 0..columns {
                    let term = |token: usize| {
                        let at = token * rows + i;
                        let missing = f64::from(full[at] - quantized[at]);
                        missing * f64::from(inputs[token * columns + j])
                    };
                    let at = i * columns + j;
                    let sum: f64 = (0..tokens).map(term).sum();
                    let error = sum / tokens as f64 - f64::from(cross.mean[at]);
                    assert!(error.abs() < 1e-6, "{error}");
                    if let Some((mean, count)) = &part {
                        let sum: f64 = own.iter().copied().map(term).sum();
                        assert!((sum / count - f64::from(mean[at])).abs() < 1e-6);
                    }
                }
            }
        }
    }
}
