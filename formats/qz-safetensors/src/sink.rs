//! A model folder being written.

use qz_tensor::{OutputOptions, StagedArtifact, TensorIndex, TensorSink};

use crate::encode::{Placed, SafetensorsLayout};
use crate::error::Error;

/// Bytes of the length in front of a header.
const LENGTH_BYTES: usize = 8;

/// A folder of safetensors files with the files beside them, which shows at its
/// final path as a whole. The headers' lengths are zeros until `finish`, so that no
/// loader takes an incomplete file for weights.
#[derive(Debug)]
pub struct SafetensorsSink {
    staged: StagedArtifact,
    tensors: Vec<Tensor>,
    completed: Vec<TensorIndex>,
    /// The files with weights, and their headers' lengths.
    lengths: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug)]
struct Tensor {
    placed: Placed,
    /// Bytes put so far; all of them if an earlier run finished the tensor.
    put: u64,
}

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
        let mut staged = StagedArtifact::create(artifact, fingerprint, options)?;
        let mut lengths = Vec::with_capacity(weights.len());
        for (file, mut start) in starts.into_iter().enumerate() {
            if weights.contains(&file) {
                lengths.push((file, start[..LENGTH_BYTES].to_vec()));
                start[..LENGTH_BYTES].fill(0);
            }
            staged.write_at(file, 0, &start)?;
        }
        let tensors = tensors.into_iter().map(|placed| Tensor { placed, put: 0 }).collect();
        let mut sink = Self { staged, tensors, completed: Vec::new(), lengths };
        sink.continue_earlier_run();
        Ok(sink)
    }

    fn continue_earlier_run(&mut self) {
        let tensors = &self.tensors;
        let known = |text: &String| {
            let index = TensorIndex(text.split_once(' ')?.0.parse().ok()?);
            (record(index, &tensors.get(index.0)?.placed.name) == *text).then_some(index)
        };
        let mut completed: Vec<TensorIndex> =
            self.staged.completed().iter().filter_map(known).collect();
        completed.sort_unstable();
        completed.dedup();
        for index in &completed {
            let tensor = &mut self.tensors[index.0];
            tensor.put = tensor.placed.bytes;
        }
        self.completed = completed;
    }
}

impl TensorSink for SafetensorsSink {
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
        for (file, length) in &self.lengths {
            self.staged.write_at(*file, 0, length)?;
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
