//! What the model reads.

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
