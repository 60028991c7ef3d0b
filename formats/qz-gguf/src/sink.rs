//! A GGUF file being written.

use std::path::Path;

use qz_tensor::{Metadata, OutputOptions, PlacedTensor, SinkTensor, StagedSink, StagedTensors};

use crate::error::Error;
use crate::layout::GgufLayout;
use crate::rules::MAGIC;

/// A GGUF model (version 3), in one file or several, that grows beside its final
/// path. Its magic is zeros until `finish`, so that no loader takes an incomplete
/// file for a model.
#[derive(Debug)]
pub struct GgufSink(StagedTensors);

impl GgufSink {
    /// Begins a file with this metadata and these tensors, in this order: a
    /// [`GgufLayout`] without a split, begun.
    ///
    /// # Errors
    /// Those of [`GgufLayout::new`] and [`GgufSink::begin`].
    pub fn create(
        target: &Path,
        metadata: &Metadata,
        tensors: &[SinkTensor],
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Self, Error> {
        Self::begin(GgufLayout::new(target, metadata, tensors, None)?, fingerprint, options)
    }

    /// Begins a model; types, shapes and places are fixed from here on.
    /// `fingerprint` (one line) names the inputs and the recipe: an interrupted run
    /// with the same one is continued, and `completed` says which
    /// tensors it finished.
    ///
    /// # Errors
    /// If the target may not be replaced, or if the disk refuses or lacks the room.
    pub fn begin(
        layout: GgufLayout,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Self, Error> {
        let GgufLayout { artifact, headers, tensors } = layout;
        let starts = headers.into_iter().map(|header| (header, MAGIC.len()));
        // A fresh file is zeros already; in one that is continued they are written again.
        let end = |tensor: &PlacedTensor| (tensor.file, tensor.offset.saturating_add(tensor.bytes));
        let paddings: Vec<((usize, u64), u64)> =
            tensors.iter().map(|placed| (end(&placed.tensor), placed.padding)).collect();
        let tensors = tensors.into_iter().map(|placed| placed.tensor);
        let mut staged = StagedTensors::begin(artifact, starts, tensors, fingerprint, options)?;
        if staged.is_continued() {
            for ((file, offset), padding) in paddings {
                // Less than the alignment, so the cast is exact.
                staged.write_at(file, offset, &vec![0; padding as usize])?;
            }
        }
        Ok(Self(staged))
    }
}

impl StagedSink for GgufSink {
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
