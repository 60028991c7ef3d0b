//! A GGUF file being written.

use std::path::{Path, PathBuf};

use qz_tensor::{
    Artifact, Location, Metadata, OutputOptions, SinkTensor, StagedArtifact, TensorIndex,
    TensorSink,
};

use crate::encode::{Layout, NamedFault, Place, layout};
use crate::error::Error;
use crate::rules::MAGIC;

/// A GGUF file (version 3) that grows beside its final path. Its magic is zeros
/// until `finish`, so that no loader takes an incomplete file for a model.
#[derive(Debug)]
pub struct GgufSink {
    staged: StagedArtifact,
    target: PathBuf,
    tensors: Vec<Tensor>,
    completed: Vec<TensorIndex>,
    size: u64,
}

#[derive(Debug)]
struct Tensor {
    name: String,
    place: Place,
    /// Bytes put so far; all of them if an earlier run finished the tensor.
    put: u64,
}

impl GgufSink {
    /// Begins a file with this metadata and these tensors, in this order; types,
    /// shapes and places are fixed from here on. The alignment is the metadata's
    /// `general.alignment`, else 32. `fingerprint` (one line) names the inputs and
    /// the recipe: an interrupted run with the same one is continued, and
    /// [`GgufSink::completed`] says which tensors it finished.
    ///
    /// # Errors
    /// If GGUF cannot hold a key, name, type or shape ([`crate::Fault`]), if the
    /// target may not be replaced, or if the disk refuses or lacks the room.
    pub fn create(
        target: &Path,
        metadata: &Metadata,
        tensors: &[SinkTensor],
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Self, Error> {
        let Layout { mut header, places, size } =
            layout(metadata, tensors).map_err(|(name, fault)| malformed(target, (name, fault)))?;
        let mut staged =
            StagedArtifact::create(Artifact::file(target, size), fingerprint, options)?;
        header[..MAGIC.len()].fill(0);
        staged.write_at(0, 0, &header)?;
        let tensors = tensors
            .iter()
            .zip(places)
            .map(|(tensor, place)| Tensor { name: tensor.name.clone(), place, put: 0 })
            .collect();
        let mut sink =
            Self { staged, target: target.to_owned(), tensors, completed: Vec::new(), size };
        sink.continue_earlier_run()?;
        Ok(sink)
    }

    /// Bytes of the file that `create` would begin, without touching the disk.
    ///
    /// # Errors
    /// If GGUF cannot hold a key, name, type or shape.
    pub fn size_of(
        target: &Path,
        metadata: &Metadata,
        tensors: &[SinkTensor],
    ) -> Result<u64, Error> {
        let layout = layout(metadata, tensors).map_err(|fault| malformed(target, fault))?;
        Ok(layout.size)
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
            tensor.put = tensor.place.bytes;
        }
        for Tensor { place, .. } in &self.tensors {
            // Less than the alignment, so the cast is exact.
            let zeros = vec![0; place.padding as usize];
            self.staged.write_at(0, place.offset + place.bytes, &zeros)?;
        }
        Ok(())
    }

    /// The tensors that an interrupted run finished, in order. They need not be
    /// put again.
    pub fn completed(&self) -> &[TensorIndex] {
        &self.completed
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Notes that all of a tensor has been put: a run that continues this one
    /// need not do it again.
    ///
    /// # Panics
    /// If bytes of the tensor are missing.
    pub fn record_complete(&mut self, tensor: TensorIndex) {
        self.tensors[tensor.0].assert_complete();
        self.staged.record(record(tensor, &self.tensors[tensor.0].name));
    }

    /// Leaves the unfinished file for a later run to continue.
    ///
    /// # Errors
    /// If the disk refuses the flush.
    pub fn keep(self) -> Result<(), Error> {
        Ok(self.staged.keep()?)
    }

    /// The final path.
    pub fn target(&self) -> &Path {
        &self.target
    }
}

impl TensorSink for GgufSink {
    type Error = Error;

    /// # Panics
    /// If there is no such tensor, or the bytes reach past its end.
    fn put(&mut self, tensor: TensorIndex, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let tensor = &mut self.tensors[tensor.0];
        let length = bytes.len() as u64;
        let place = tensor.place;
        let inside = offset.checked_add(length).is_some_and(|end| end <= place.bytes);
        assert!(
            inside,
            "{length} bytes at {offset} of {} are outside its {}",
            tensor.name, place.bytes
        );
        self.staged.write_at(0, place.offset + offset, bytes)?;
        tensor.put = tensor.put.saturating_add(length);
        Ok(())
    }

    /// # Panics
    /// If bytes of a tensor are missing.
    fn finish(mut self) -> Result<(), Error> {
        self.tensors.iter().for_each(Tensor::assert_complete);
        self.staged.write_at(0, 0, &MAGIC)?;
        Ok(self.staged.commit()?)
    }
}

impl Tensor {
    /// A file with bytes that nobody put would load, and be wrong.
    fn assert_complete(&self) {
        let Self { name, place, put } = self;
        assert!(*put >= place.bytes, "only {put} of {} bytes of {name} were put", place.bytes);
    }
}

fn malformed(target: &Path, (name, fault): NamedFault) -> Error {
    let location = Location { tensor: name, ..Location::file(target) };
    Error::Malformed { location, fault: Box::new(fault) }
}

/// A tensor's journal record. Escaped, since a record is one line.
fn record(index: TensorIndex, name: &str) -> String {
    format!("{} {}", index.0, name.escape_default())
}

/// The tensor of a record, if the file has it.
fn parse_record(text: &str, tensors: &[Tensor]) -> Option<TensorIndex> {
    let index = TensorIndex(text.split_once(' ')?.0.parse().ok()?);
    let name = &tensors.get(index.0)?.name;
    (record(index, name) == text).then_some(index)
}
