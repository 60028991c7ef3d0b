//! A model folder being written.

use qz_tensor::{OutputOptions, StagedSink, StagedTensors};

use crate::encode::SafetensorsLayout;
use crate::error::Error;

/// Bytes of the length in front of a header.
const LENGTH_BYTES: usize = 8;

/// A folder of safetensors files with the files beside them, which shows at its
/// final path as a whole. The headers' lengths are zeros until `finish`, so that no
/// loader takes an incomplete file for weights.
#[derive(Debug)]
pub struct SafetensorsSink(StagedTensors);

impl SafetensorsSink {
    /// Begins a folder; types, shapes and places are fixed from here on.
    /// `fingerprint` (one line) names the inputs and the recipe: an interrupted run
    /// with the same one is continued, and `completed` says which tensors it
    /// finished.
    ///
    /// # Errors
    /// If the target may not be replaced, or if the disk refuses or lacks the room.
    pub fn begin(
        layout: SafetensorsLayout,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Self, Error> {
        let SafetensorsLayout { artifact, starts, weights, tensors } = layout;
        let sealed = |file| if weights.contains(&file) { LENGTH_BYTES } else { 0 };
        let starts = starts.into_iter().enumerate().map(|(file, start)| (start, sealed(file)));
        Ok(Self(StagedTensors::begin(artifact, starts, tensors, fingerprint, options)?))
    }
}

impl StagedSink for SafetensorsSink {
    type Error = Error;

    fn staged(&self) -> &StagedTensors {
        &self.0
    }

    fn staged_mut(&mut self) -> &mut StagedTensors {
        &mut self.0
    }

    fn into_staged(self) -> StagedTensors {
        self.0
    }
}
