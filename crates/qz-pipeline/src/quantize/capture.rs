//! What the model reads, and what its matrices multiply meanwhile.

use qz_calib::Moments;
use qz_linalg::{CrossGram, Gram, Symmetric};
use qz_methods::{Needs, Shared, Statistics};
use qz_models::forward::Chunks;
use qz_tensor::FileStates;
use sha2::{Digest, Sha256};

use crate::calibrate::{DataOptions, read_data};
use crate::error::Error;
use crate::eval::Subject;
use crate::event::{Event, Observer};
use crate::model::Model;
use crate::stream::{Cancel, stoppable};

/// The text in the model's tokens.
pub(super) struct Calibration {
    pub(super) chunks: Chunks,
    data: Vec<String>,
    /// The files that the text is from.
    pub(super) files: FileStates,
}

/// What the model read.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CalibrationSummary {
    /// The text's parts.
    pub data: Vec<String>,
    /// Chunks of it.
    pub chunks: usize,
    /// Tokens of a chunk.
    pub context: usize,
}

impl Calibration {
    pub(super) fn read(
        model: &Model,
        options: &DataOptions,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let tokenizer = Subject::tokenizer_of(model)?;
        model.check_context(options.context, observer);
        let text = stoppable(cancel, || read_data(options, model, &tokenizer, 0))?;
        for warning in &text.warnings {
            observer.observe(Event::Warning(warning));
        }
        let (chunks, context) = (text.chunks.count(), text.chunks.length());
        observer.observe(Event::Reading { chunks, context });
        Ok(Self { chunks: text.chunks, data: options.names(), files: text.files })
    }

    /// Tells these tokens from others.
    pub(super) fn digest(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(self.chunks.length().to_le_bytes());
        for token in self.chunks.tokens() {
            digest.update(token.to_le_bytes());
        }
        format!("{:x}", digest.finalize())
    }

    pub(super) fn summary(self) -> CalibrationSummary {
        CalibrationSummary {
            data: self.data,
            chunks: self.chunks.count(),
            context: self.chunks.length(),
        }
    }
}

/// What the full model has of the tokens whose inputs are summed.
pub(super) enum Beside {
    /// Its inputs of the same products.
    Inputs(Vec<f32>),
    /// Where products are added to hidden states, the sums.
    Results(Results),
}

/// Rows of hidden states behind a product.
#[derive(Default)]
pub(super) struct Results {
    /// The full model's.
    pub(super) full: Vec<f32>,
    /// The quantized model's, with the matrix as it was.
    pub(super) quantized: Vec<f32>,
    /// What the product's rows are multiplied with before they are added: the weights of all
    /// of a token's experts together. Nothing where they are added as they are.
    pub(super) weights: Vec<f32>,
}

impl Results {
    /// Those of some tokens, given by the numbers of their rows.
    pub(super) fn of(&self, tokens: &[usize], width: usize) -> Self {
        Self {
            full: gathered(&self.full, tokens, width),
            quantized: gathered(&self.quantized, tokens, width),
            weights: gathered(&self.weights, tokens, 1),
        }
    }

    /// Multiplies each row with its weight, for a regression in which a token counts the more
    /// the more of the product it gets; the sum of the weights' squares.
    pub(super) fn weigh(&mut self) -> f64 {
        let width = self.full.len() / self.weights.len().max(1);
        for rows in [&mut self.full, &mut self.quantized] {
            for (row, weight) in rows.chunks_mut(width.max(1)).zip(&self.weights) {
                row.iter_mut().for_each(|number| *number *= weight);
            }
        }
        self.weights.iter().map(|weight| f64::from(*weight).powi(2)).sum()
    }
}

/// Some of rows.
pub(super) fn gathered(rows: &[f32], tokens: &[usize], width: usize) -> Vec<f32> {
    tokens.iter().flat_map(|token| &rows[token * width..][..width]).copied().collect()
}

/// Which sums of a group's inputs a method needs.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) needs: Needs,
    pub(super) columns: usize,
    /// Of what the quantized model lacks beside the full one.
    pub(super) lacking: Option<LackingKind>,
}

/// Of what differences between the full and the quantized model are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LackingKind {
    /// Of inputs.
    Inputs,
    /// Of so many numbers of a hidden state, with the product in it.
    Results(usize),
}

impl Wanted {
    /// Sums without the full model.
    pub(super) fn alone(self) -> Self {
        Self { lacking: None, ..self }
    }

    /// Sums of nothing.
    pub(super) fn sums(self) -> Sums {
        let columns = self.columns;
        if self.needs != Needs::Gram {
            return Sums::Moments(Moments::new(columns));
        }
        let lacking = self.lacking.map(|kind| match kind {
            LackingKind::Inputs => Lacking::Inputs(CrossGram::new(columns, columns)),
            LackingKind::Results(rows) => {
                Lacking::Results { sums: CrossGram::new(rows, columns), squares: None }
            }
        });
        Sums::Gram { gram: Gram::new(columns), lacking }
    }

    /// Bytes of the sums over inputs.
    pub(super) fn input_bytes(self) -> u64 {
        match self.needs {
            Needs::Gram => Gram::bytes(self.columns, &(0..self.columns)),
            _ => Moments::bytes(self.columns),
        }
    }

    /// Bytes of the sums over what is lacking.
    pub(super) fn lacking_bytes(self) -> u64 {
        match self.lacking {
            None => 0,
            Some(LackingKind::Inputs) => CrossGram::bytes(self.columns, self.columns),
            Some(LackingKind::Results(rows)) => CrossGram::bytes(rows, self.columns),
        }
    }

    /// Bytes of all sums.
    pub(super) fn bytes(self) -> u64 {
        self.input_bytes() + self.lacking_bytes()
    }
}

/// Inputs of one group's products, summed as far as a method needs it.
pub(super) enum Sums {
    Moments(Moments),
    Gram {
        gram: Gram,
        /// Of what the quantized model lacks beside the full one, if that is asked for.
        lacking: Option<Lacking>,
    },
}

/// Sums of what the quantized model lacks beside the full one.
pub(super) enum Lacking {
    /// Of its inputs.
    Inputs(CrossGram),
    /// Of the results; and the sum of the squares of their weights, where they have any.
    Results { sums: CrossGram, squares: Option<f64> },
}

impl Sums {
    /// Tokens so far.
    pub(super) fn tokens(&self) -> u64 {
        match self {
            Self::Moments(moments) => moments.rows(),
            Self::Gram { gram, .. } => gram.tokens(),
        }
    }

    /// Adds tokens' inputs, and the full model's of the same tokens where they are summed
    /// with these, on the current pool's threads.
    pub(super) fn add(&mut self, rows: &[f32], beside: Option<Beside>) {
        match self {
            Self::Moments(moments) => moments.add(rows),
            Self::Gram { gram, lacking } => {
                gram.add(rows);
                match (lacking, beside) {
                    (Some(Lacking::Inputs(cross)), Some(Beside::Inputs(full))) => {
                        cross.add(&full, rows, rows);
                    }
                    (
                        Some(Lacking::Results { sums, squares }),
                        Some(Beside::Results(mut results)),
                    ) => {
                        if !results.weights.is_empty() {
                            *squares.get_or_insert_default() += results.weigh();
                        }
                        sums.add(&results.full, &results.quantized, rows);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Makes of sums over fewer than `prior` tokens those over `prior` of them: what is
    /// missing is taken from `mean`, which is of the same kind.
    pub(super) fn shrink(&mut self, prior: u64, mean: &mut Self) {
        match (self, mean) {
            (Self::Moments(own), Self::Moments(mean)) => own.shrink(prior, mean),
            (Self::Gram { gram, .. }, Self::Gram { gram: mean, .. }) => gram.shrink(prior, mean),
            _ => unreachable!("sums of one kind"),
        }
    }

    /// Adds what another of the same kind has summed.
    pub(super) fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Moments(own), Self::Moments(other)) => own.merge(&other),
            (Self::Gram { gram, .. }, Self::Gram { gram: other, .. }) => gram.merge(other),
            _ => unreachable!("sums of one kind"),
        }
    }

    /// Forgets what is lacking; true if it was summed.
    pub(super) fn forget_lacking(&mut self) -> bool {
        let Self::Gram { lacking, .. } = self else { return false };
        lacking.take().is_some()
    }

    /// What a method is told; `tokens` are those that were seen.
    pub(super) fn finish(self, tokens: u64) -> Captured {
        let count = self.tokens();
        let mut captured = Captured {
            tokens: Some(tokens),
            filled_up_to: (count > tokens).then_some(count),
            ..Captured::default()
        };
        match self {
            Self::Gram { gram, lacking } => {
                captured.gram = Some(gram.finish());
                // Before anything was quantized both models see the same.
                let differing = |sums: CrossGram| {
                    Some(sums.finish()).filter(|sums| sums.iter().any(|sum| *sum != 0.0))
                };
                match lacking {
                    Some(Lacking::Inputs(sums)) => captured.cross = differing(sums),
                    Some(Lacking::Results { sums, squares }) => {
                        let mean = squares.map_or(1.0, |sum| sum / tokens.max(1) as f64);
                        captured.missing = differing(sums).filter(|_| mean > 0.0);
                        for sum in captured.missing.iter_mut().flatten() {
                            *sum = (f64::from(*sum) / mean) as f32;
                        }
                    }
                    None => {}
                }
            }
            Self::Moments(moments) => {
                let count = count.max(1) as f64;
                let means = moments.squares().map(|sum| (sum / count) as f32);
                captured.importance = Some(means.collect());
            }
        }
        captured
    }
}

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
    pub(super) cross: Option<Vec<f32>>,
    /// `E[(ỹ − y) xᵀ]`, with the full model's results ỹ.
    pub(super) missing: Option<Vec<f32>>,
    /// What a method keeps between the group's matrices.
    pub(super) shared: Shared,
}

impl Captured {
    pub(super) fn statistics(&self) -> Statistics<'_> {
        Statistics {
            gram: self.gram.as_ref(),
            importance: self.importance.as_deref(),
            cross: self.cross.as_deref(),
            missing: self.missing.as_deref(),
            shared: Some(&self.shared),
        }
    }
}
