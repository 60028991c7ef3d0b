//! What the model reads, and what its matrices multiply meanwhile.

use qz_linalg::{Gram, Symmetric};
use qz_methods::{Needs, Statistics};
use qz_models::forward::Chunks;
use sha2::{Digest, Sha256};

use super::add_squares;
use crate::calibrate::{DataOptions, read_data};
use crate::error::Error;
use crate::eval::Subject;
use crate::event::{Event, Observer};
use crate::model::Model;

/// The text in the model's tokens.
pub(super) struct Calibration {
    pub(super) chunks: Chunks,
    data: Vec<String>,
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
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let tokenizer = Subject::tokenizer_of(model)?;
        let text = read_data(options, model, &tokenizer, 0)?;
        for warning in &text.warnings {
            observer.observe(Event::Warning(warning));
        }
        Ok(Self { chunks: text.chunks, data: options.names() })
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

/// Inputs of one group's products, summed as far as a method needs it.
pub(super) enum Sums {
    Squares { sums: Vec<f64>, tokens: u64 },
    Gram(Gram),
}

impl Sums {
    pub(super) fn new(needs: Needs, columns: usize) -> Self {
        match needs {
            Needs::Gram => Self::Gram(Gram::new(columns)),
            _ => Self::Squares { sums: vec![0.0; columns], tokens: 0 },
        }
    }

    /// Bytes that the sums of so many columns take.
    pub(super) fn bytes(needs: Needs, columns: usize) -> u64 {
        let columns = columns as u64;
        match needs {
            Needs::Gram => columns.saturating_mul(columns).saturating_mul(4),
            _ => columns.saturating_mul(8),
        }
    }

    /// Adds tokens' inputs, on the current pool's threads.
    pub(super) fn add(&mut self, rows: &[f32]) {
        match self {
            Self::Gram(gram) => gram.add(rows),
            Self::Squares { sums, tokens } => {
                *tokens += (rows.len() / sums.len().max(1)) as u64;
                add_squares(sums, rows);
            }
        }
    }

    pub(super) fn finish(self) -> Captured {
        match self {
            Self::Gram(gram) => {
                let tokens = Some(gram.tokens());
                Captured { tokens, gram: Some(gram.finish()), importance: None }
            }
            Self::Squares { sums, tokens } => {
                let count = tokens.max(1) as f64;
                let means = sums.iter().map(|sum| (sum / count) as f32).collect();
                Captured { tokens: Some(tokens), gram: None, importance: Some(means) }
            }
        }
    }
}

/// What is known of a group's inputs.
pub(super) struct Captured {
    /// Tokens they were, if that is known.
    pub(super) tokens: Option<u64>,
    pub(super) gram: Option<Symmetric>,
    pub(super) importance: Option<Vec<f32>>,
}

impl Captured {
    pub(super) fn statistics(&self) -> Statistics<'_> {
        Statistics { gram: self.gram.as_ref(), importance: self.importance.as_deref(), cross: None }
    }
}
