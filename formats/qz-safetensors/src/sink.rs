//! A model folder being written.

use std::path::Path;

use qz_tensor::{
    Artifact, ArtifactFile, OutputOptions, SideFile, SinkTensor, StagedArtifact, TensorIndex,
    TensorSink,
};

use crate::encode::{Layout, Place, ShardLayout, layout, record};
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
    /// Of each shard, the first file being the first shard.
    lengths: Vec<(usize, [u8; LENGTH_BYTES])>,
}

#[derive(Debug)]
struct Tensor {
    name: String,
    /// The file of the artifact.
    file: usize,
    place: Place,
    /// Bytes put so far; all of them if an earlier run finished the tensor.
    put: u64,
}

impl SafetensorsSink {
    /// Begins a folder with these tensors and, beside them, these files; types,
    /// shapes and places are fixed from here on. No file of weights has more than
    /// `shard_size` bytes of data, unless one tensor alone has. Among the files is
    /// one at least, the first of which a folder must have to be replaced.
    /// `fingerprint` (one line) names the inputs and the recipe: an interrupted run
    /// with the same one is continued.
    ///
    /// # Errors
    /// If safetensors cannot hold a name, type or shape, if the target may not be
    /// replaced, or if the disk refuses or lacks the room.
    pub fn create(
        target: &Path,
        tensors: &[SinkTensor],
        files: &[SideFile],
        shard_size: u64,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Self, Error> {
        let layout = layout(target, tensors, shard_size)?;
        let artifact = Artifact::folder(target, artifact_files(&layout, files));
        let mut staged = StagedArtifact::create(artifact, fingerprint, options)?;
        for (file, side) in files.iter().enumerate() {
            staged.write_at(file, 0, &side.content)?;
        }
        let first = files.len();
        let mut lengths = Vec::with_capacity(layout.shards.len());
        for (position, ShardLayout { start, .. }) in layout.shards.iter().enumerate() {
            let (length, header) = start.split_at(LENGTH_BYTES);
            staged.write_at(first + position, 0, &[0; LENGTH_BYTES])?;
            staged.write_at(first + position, LENGTH_BYTES as u64, header)?;
            lengths.push((first + position, length.try_into().unwrap_or_default()));
        }
        if let Some(index) = &layout.index {
            staged.write_at(first + layout.shards.len(), 0, index)?;
        }
        let of = |(tensor, place): (&SinkTensor, &Place)| Tensor {
            name: tensor.name.clone(),
            file: first + place.shard,
            place: *place,
            put: 0,
        };
        let tensors = tensors.iter().zip(&layout.places).map(of).collect();
        let mut sink = Self { staged, tensors, completed: Vec::new(), lengths };
        sink.continue_earlier_run();
        Ok(sink)
    }

    /// Bytes of all files of the folder that `create` would begin.
    ///
    /// # Errors
    /// If safetensors cannot hold a name, type or shape.
    pub fn size_of(
        target: &Path,
        tensors: &[SinkTensor],
        files: &[SideFile],
        shard_size: u64,
    ) -> Result<u64, Error> {
        let layout = layout(target, tensors, shard_size)?;
        Ok(artifact_files(&layout, files).iter().map(|file| file.size).sum())
    }

    fn continue_earlier_run(&mut self) {
        let tensors = &self.tensors;
        let known = |text: &String| {
            let index = TensorIndex(text.split_once(' ')?.0.parse().ok()?);
            (record(index, &tensors.get(index.0)?.name) == *text).then_some(index)
        };
        let mut completed: Vec<TensorIndex> =
            self.staged.completed().iter().filter_map(known).collect();
        completed.sort_unstable();
        completed.dedup();
        for index in &completed {
            let tensor = &mut self.tensors[index.0];
            tensor.put = tensor.place.bytes;
        }
        self.completed = completed;
    }

    /// The tensors that an interrupted run finished, in order. They need not be
    /// put again.
    pub fn completed(&self) -> &[TensorIndex] {
        &self.completed
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.staged.artifact().size()
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

    /// Leaves the unfinished folder for a later run to continue.
    ///
    /// # Errors
    /// If the disk refuses the flush.
    pub fn keep(self) -> Result<(), Error> {
        Ok(self.staged.keep()?)
    }
}

impl TensorSink for SafetensorsSink {
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
        self.staged.write_at(tensor.file, place.offset + offset, bytes)?;
        tensor.put = tensor.put.saturating_add(length);
        Ok(())
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
        let Self { name, place, put, .. } = self;
        assert!(*put >= place.bytes, "only {put} of {} bytes of {name} were put", place.bytes);
    }
}

/// Side files first, then shards, then the index.
fn artifact_files(layout: &Layout, files: &[SideFile]) -> Vec<ArtifactFile> {
    let file = |name: &str, size: u64| ArtifactFile { name: name.to_owned(), size };
    let sides = files.iter().map(|side| file(&side.name, side.content.len() as u64));
    let shards = layout.shards.iter().map(|shard| file(&shard.name, shard.size));
    let index = layout.index.iter().map(|index| file(crate::model::INDEX_NAME, index.len() as u64));
    sides.chain(shards).chain(index).collect()
}
