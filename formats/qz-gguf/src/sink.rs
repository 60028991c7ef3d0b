//! A GGUF file being written.

use std::path::Path;

use qz_tensor::{Metadata, OutputOptions, SinkTensor, StagedArtifact, TensorIndex, TensorSink};

use crate::error::Error;
use crate::layout::{GgufLayout, Placed};
use crate::rules::MAGIC;

/// A GGUF model (version 3), in one file or several, that grows beside its final
/// path. Its magic is zeros until `finish`, so that no loader takes an incomplete
/// file for a model.
#[derive(Debug)]
pub struct GgufSink {
    staged: StagedArtifact,
    tensors: Vec<Tensor>,
    completed: Vec<TensorIndex>,
}

#[derive(Debug)]
struct Tensor {
    placed: Placed,
    /// Bytes put so far; all of them if an earlier run finished the tensor.
    put: u64,
}

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
        let mut staged = StagedArtifact::create(artifact, fingerprint, options)?;
        for (file, mut header) in headers.into_iter().enumerate() {
            header[..MAGIC.len()].fill(0);
            staged.write_at(file, 0, &header)?;
        }
        let tensors = tensors.into_iter().map(|placed| Tensor { placed, put: 0 }).collect();
        let mut sink = Self { staged, tensors, completed: Vec::new() };
        sink.continue_earlier_run()?;
        Ok(sink)
    }

    /// Takes over what an interrupted run left. A fresh file is zeros already; in
    /// one that is continued the padding is written again.
    fn continue_earlier_run(&mut self) -> Result<(), Error> {
        let records = self.staged.completed();
        if records.is_empty() {
            return Ok(());
        }
        self.completed =
            records.iter().filter_map(|text| parse_record(text, &self.tensors)).collect();
        self.completed.sort_unstable();
        self.completed.dedup();
        for index in &self.completed {
            let tensor = &mut self.tensors[index.0];
            tensor.put = tensor.placed.bytes;
        }
        for Tensor { placed, .. } in &self.tensors {
            // Less than the alignment, so the cast is exact.
            let zeros = vec![0; placed.padding as usize];
            self.staged.write_at(placed.file, placed.offset + placed.bytes, &zeros)?;
        }
        Ok(())
    }
}

impl TensorSink for GgufSink {
    type Error = Error;

    /// # Panics
    /// If there is no such tensor, or the bytes reach past its end.
    fn put(&mut self, tensor: TensorIndex, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let tensor = &mut self.tensors[tensor.0];
        let length = bytes.len() as u64;
        let placed = &tensor.placed;
        let inside = offset.checked_add(length).is_some_and(|end| end <= placed.bytes);
        assert!(
            inside,
            "{length} bytes at {offset} of {} are outside its {}",
            placed.name, placed.bytes
        );
        self.staged.write_at(placed.file, placed.offset + offset, bytes)?;
        tensor.put = tensor.put.saturating_add(length);
        Ok(())
    }

    fn completed(&self) -> &[TensorIndex] {
        &self.completed
    }

    /// # Panics
    /// If bytes of the tensor are missing.
    fn record_complete(&mut self, tensor: TensorIndex) {
        self.tensors[tensor.0].assert_complete();
        self.staged.record(record(tensor, &self.tensors[tensor.0].placed.name));
    }

    fn checkpoint(&mut self) {
        self.staged.checkpoint();
    }

    /// # Panics
    /// If there is no such tensor, or the bytes reach past its end.
    fn read_back(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<bool, Error> {
        let placed = &self.tensors[tensor.0].placed;
        let end = offset.checked_add(out.len() as u64);
        assert!(end.is_some_and(|end| end <= placed.bytes), "bytes of {}", placed.name);
        self.staged.read_at(placed.file, placed.offset + offset, out)?;
        Ok(true)
    }

    fn keep(self) -> Result<(), Error> {
        Ok(self.staged.keep()?)
    }

    /// # Panics
    /// If bytes of a tensor are missing.
    fn finish(mut self) -> Result<(), Error> {
        self.tensors.iter().for_each(Tensor::assert_complete);
        for file in 0..self.staged.artifact().files().len() {
            self.staged.write_at(file, 0, &MAGIC)?;
        }
        Ok(self.staged.commit()?)
    }
}

impl Tensor {
    /// A file with bytes that nobody put would load, and be wrong.
    fn assert_complete(&self) {
        let Self { placed: Placed { name, bytes, .. }, put } = self;
        assert!(put >= bytes, "only {put} of {bytes} bytes of {name} were put");
    }
}

/// A tensor's journal record. Escaped, since a record is one line.
fn record(index: TensorIndex, name: &str) -> String {
    format!("{} {}", index.0, name.escape_default())
}

/// The tensor of a record, if the file has it.
fn parse_record(text: &str, tensors: &[Tensor]) -> Option<TensorIndex> {
    let index = TensorIndex(text.split_once(' ')?.0.parse().ok()?);
    let name = &tensors.get(index.0)?.placed.name;
    (record(index, name) == text).then_some(index)
}
