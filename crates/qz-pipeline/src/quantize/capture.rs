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
    /// Where products are added to hidden states, the sums: its own, and those of the
    /// quantized model with the matrix as it was.
    Results([Vec<f32>; 2]),
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
    /// Of the results.
    Results(CrossGram),
}

impl Sums {
    pub(super) fn new(needs: Needs, columns: usize) -> Self {
        match needs {
            Needs::Gram => Self::Gram { gram: Gram::new(columns), lacking: None },
            _ => Self::Moments(Moments::new(columns)),
        }
    }

    /// Sums beside the full model, too: of inputs, or of so many numbers of each result.
    pub(super) fn beside_full(columns: usize, results: Option<usize>) -> Self {
        let lacking = match results {
            None => Lacking::Inputs(CrossGram::new(columns, columns)),
            Some(rows) => Lacking::Results(CrossGram::new(rows, columns)),
        };
        Self::Gram { gram: Gram::new(columns), lacking: Some(lacking) }
    }

    /// Bytes that the sums of so many columns take.
    pub(super) fn bytes(needs: Needs, columns: usize) -> u64 {
        match needs {
            Needs::Gram => Gram::bytes(columns, &(0..columns)),
            _ => Moments::bytes(columns),
        }
    }

    /// Tokens so far.
    pub(super) fn tokens(&self) -> u64 {
        match self {
            Self::Moments(moments) => moments.rows(),
            Self::Gram { gram, .. } => gram.tokens(),
        }
    }

    /// Adds tokens' inputs, and the full model's of the same tokens where they are summed
    /// with these, on the current pool's threads.
    pub(super) fn add(&mut self, rows: &[f32], beside: Option<&Beside>) {
        match self {
            Self::Moments(moments) => moments.add(rows),
            Self::Gram { gram, lacking } => {
                gram.add(rows);
                match (lacking, beside) {
                    (Some(Lacking::Inputs(cross)), Some(Beside::Inputs(full))) => {
                        cross.add(full, rows, rows);
                    }
                    (Some(Lacking::Results(sums)), Some(Beside::Results([full, quantized]))) => {
                        sums.add(full, quantized, rows);
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
                    Some(Lacking::Results(sums)) => captured.missing = differing(sums),
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
