//! Some of the inputs themselves.

use qz_kernels::Error;
use qz_kernels::backend::{Backend, Shaped};

use super::statistic::{OfFull, Statistic};

/// The most inputs that are kept; at least half as many are, of four times as many tokens.
const MOST: usize = 256;

/// Every how manieth token is kept to begin with: the others are left to learn from.
const FIRST_STRIDE: u64 = 4;

/// Inputs of some tokens, evenly spread over all of them: every other kept one goes when there
/// are too many, and half as many tokens come in from then on. So neither the number of tokens has
/// to be known before, nor do the parts matter that they come in.
pub(crate) struct Samples {
    columns: usize,
    tokens: u64,
    stride: u64,
    rows: Vec<f32>,
}

impl Samples {
    /// Of no token.
    pub(crate) fn new(columns: usize) -> Self {
        Self { columns, tokens: 0, stride: FIRST_STRIDE, rows: Vec::new() }
    }

    /// The most bytes that inputs of so many columns take.
    pub(crate) fn bytes_of(columns: usize) -> u64 {
        (MOST * columns * size_of::<f32>()) as u64
    }

    /// The inputs that were kept, row by row.
    pub(crate) fn into_rows(self) -> Vec<f32> {
        self.rows
    }

    fn add_rows<B: Backend>(&mut self, backend: &B, rows: &B::Buffer) -> Result<(), Error> {
        let first = self.tokens;
        self.tokens += rows.rows() as u64;
        let is_kept = |row: &usize| (first + *row as u64 + 1).is_multiple_of(self.stride);
        let kept: Vec<usize> = (0..rows.rows()).filter(is_kept).collect();
        if kept.is_empty() {
            return Ok(());
        }
        self.rows.extend_from_slice(&backend.numbers(&backend.gather(rows, &kept)?)?);
        while self.rows.len() > MOST * self.columns {
            let every_other = self.rows.chunks(self.columns).skip(1).step_by(2);
            self.rows = every_other.flatten().copied().collect();
            self.stride *= 2;
        }
        Ok(())
    }
}

impl<B: Backend> Statistic<B> for Samples {
    fn tokens(&self) -> u64 {
        self.tokens
    }

    fn bytes(&self) -> u64 {
        Self::bytes_of(self.columns)
    }

    fn add(&mut self, backend: &B, rows: &B::Buffer, _: OfFull<'_, B>) -> Result<(), Error> {
        self.add_rows(backend, rows)
    }
}

#[cfg(test)]
mod tests {
    use qz_kernels::backend::reference::ReferenceBackend;

    use super::*;

    #[test]
    fn tokens_are_kept_evenly_whatever_parts_they_come_in() {
        let check = |tokens: usize, part: usize, stride: usize| {
            let rows: Vec<f32> = (0..tokens).flat_map(|token| [token as f32, 0.5]).collect();
            let mut samples = Samples::new(2);
            for part in rows.chunks(2 * part) {
                let buffer = ReferenceBackend.buffer(2, part).expect("whole rows");
                samples.add(&ReferenceBackend, &buffer, None).expect("added");
            }
            let kept = samples.into_rows();
            let expected: Vec<f32> = (1..=tokens / stride)
                .flat_map(|number| [(number * stride - 1) as f32, 0.5])
                .collect();
            assert_eq!(kept, expected, "{tokens} tokens, {part} at a time");
        };
        for part in [1, 7, 100, 5000] {
            check(3, part, 4);
            check(9, part, 4);
            check(1027, part, 4);
            check(1028, part, 8);
            check(5000, part, 32);
        }
    }
}
