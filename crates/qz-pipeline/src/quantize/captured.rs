//! What a method is told of a group's inputs.

use std::sync::OnceLock;

use qz_calib::Moments;
use qz_kernels::backend::Backend;
use qz_linalg::{CrossMean, Gram, Symmetric};
use qz_methods::{HeldOut, Shared, Statistics};
use qz_packed::Hadamard;

use crate::error::Error;
use crate::statistics::{Lacking, LackingKind, Samples, Sums};

/// What is known of a group's inputs.
#[derive(Default)]
pub(super) struct Captured {
    /// Tokens they were, if that is known.
    pub(super) tokens: Option<u64>,
    /// As how many tokens these count, with the mean over all experts for the rest.
    pub(super) filled_up_to: Option<u64>,
    pub(super) gram: Option<Symmetric>,
    pub(super) importance: Option<Vec<f32>>,
    /// There are too few of them to say what earlier layers lost.
    pub(super) is_uncorrected: bool,
    /// `E[(x̃ − x) xᵀ]`, with the full model's inputs x̃.
    pub(super) cross: Option<CrossMean>,
    /// `E[(ỹ − y) xᵀ]`, with the full model's results ỹ.
    pub(super) missing: Option<CrossMean>,
    /// Some of the inputs that the Gram matrix is of.
    pub(super) samples: Option<Vec<f32>>,
    /// What a method keeps between the group's matrices.
    pub(super) shared: Shared,
    /// The same of what it learns without the samples.
    pub(super) shared_without: Shared,
    /// The same of inputs that are multiplied by the one matrix that an output has.
    pub(super) rotated: OnceLock<Box<Captured>>,
}

impl Captured {
    /// What a method is told of sums over so many tokens, before those of few were filled up.
    /// `is_short` tells that they are too few to say what earlier layers lost.
    ///
    /// # Errors
    /// If the device that they are on fails.
    pub(super) fn of<B: Backend>(
        backend: &B,
        mut sums: Sums<B>,
        tokens: u64,
        is_short: bool,
    ) -> Result<Self, Error> {
        let count = sums.tokens();
        let lacking = sums.take::<Lacking<B::Buffer>>();
        let is_uncorrected = is_short && lacking.is_some();
        let (mut cross, mut missing) = (None, None);
        if let Some(lacking) = lacking.filter(|_| !is_uncorrected) {
            match lacking.kind() {
                LackingKind::Inputs => cross = lacking.finish(backend)?,
                LackingKind::Results(_) => missing = lacking.finish(backend)?,
            }
        }
        let mean = |moments: Moments| {
            let count = count.max(1) as f64;
            moments.squares().map(|sum| (sum / count) as f32).collect()
        };
        let gram = sums.take::<Gram<B::Buffer>>();
        Ok(Self {
            tokens: Some(tokens),
            filled_up_to: (count > tokens).then_some(count),
            gram: gram.map(|gram| gram.finish(backend)).transpose()?,
            importance: sums.take().map(mean),
            is_uncorrected,
            samples: sums.take().map(Samples::into_rows),
            cross,
            missing,
            ..Self::default()
        })
    }

    /// Inputs that say whether what was learnt from the others holds for them.
    fn held_out(&self) -> Option<HeldOut<'_>> {
        let inputs = self.samples.as_deref().filter(|inputs| !inputs.is_empty())?;
        let tokens = self.filled_up_to.or(self.tokens)?;
        Some(HeldOut { inputs, tokens, shared: &self.shared_without })
    }

    /// What would be known of the inputs, multiplied by a matrix.
    pub(super) fn rotated(&self, rotation: Hadamard) -> &Self {
        self.rotated.get_or_init(|| {
            let mean = |cross: &CrossMean, rotate: &dyn Fn(&[f32]) -> Vec<f32>| CrossMean {
                mean: rotate(&cross.mean),
                part: cross.part.as_ref().map(|(mean, part)| (rotate(mean), *part)),
            };
            let rows = |rows: &[f32]| {
                let mut rows = rows.to_vec();
                rotation.rotate(&mut rows);
                rows
            };
            let square = |square: &[f32]| {
                let size = square.len().isqrt();
                transposed(&rows(&transposed(&rows(square), size)), size)
            };
            let gram =
                self.gram.as_ref().map(|gram| symmetric(gram.size(), square(gram.entries())));
            // The Gram matrix has the importance on its diagonal.
            let importance = self.importance.as_ref().filter(|_| gram.is_none());
            Box::new(Self {
                tokens: self.tokens,
                filled_up_to: self.filled_up_to,
                gram,
                importance: importance.map(|all| rotation.importance(all)),
                is_uncorrected: self.is_uncorrected,
                cross: self.cross.as_ref().map(|cross| mean(cross, &square)),
                missing: self.missing.as_ref().map(|missing| mean(missing, &rows)),
                samples: self.samples.as_deref().map(rows),
                ..Self::default()
            })
        })
    }

    pub(super) fn statistics(&self) -> Statistics<'_> {
        Statistics {
            gram: self.gram.as_ref(),
            importance: self.importance.as_deref(),
            cross: self.cross.as_ref(),
            missing: self.missing.as_ref(),
            held_out: self.held_out(),
            shared: Some(&self.shared),
        }
    }
}

fn transposed(square: &[f32], size: usize) -> Vec<f32> {
    (0..square.len()).map(|at| square[at % size * size + at / size]).collect()
}

/// Entries that are the same on both sides but for rounding.
fn symmetric(size: usize, mut entries: Vec<f32>) -> Symmetric {
    for row in 0..size {
        for column in 0..row {
            entries[row * size + column] = entries[column * size + row];
        }
    }
    Symmetric::new(size, entries)
}
