//! Tensors at fixed places of an artifact's files.

use crc32fast::Hasher;

use super::{Artifact, OutputError, OutputOptions, StagedArtifact};
use crate::tensor::{TensorIndex, TensorSink};

/// A tensor and its place in an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedTensor {
    /// Its name, for the journal and messages.
    pub name: String,
    /// The file of the artifact.
    pub file: usize,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
}

/// An artifact of tensors that grows. Each file may have first bytes that stay zeros until
/// all is complete, so that no loader takes an incomplete file for a model.
#[derive(Debug)]
pub struct StagedTensors {
    staged: StagedArtifact,
    tensors: Vec<Tensor>,
    completed: Vec<TensorIndex>,
    damaged: Vec<TensorIndex>,
    is_continued: bool,
    seals: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug)]
struct Tensor {
    placed: PlacedTensor,
    /// Bytes put so far; all of them if an earlier run finished the tensor.
    put: u64,
    /// What an earlier run noted of it.
    lost: u64,
    sum: RunningSum,
}

/// The checksum of a tensor whose bytes come in order.
#[derive(Debug, Default)]
struct RunningSum {
    hasher: Hasher,
    /// Where the next bytes must begin; `None` once some did not.
    next: Option<u64>,
}

/// A sink around [`StagedTensors`]. It is a [`TensorSink`] by that.
pub trait StagedSink: Send {
    /// What it fails with.
    type Error: From<OutputError>;

    /// The tensors.
    fn staged(&self) -> &StagedTensors;

    /// The tensors, to write them.
    fn staged_mut(&mut self) -> &mut StagedTensors;

    /// The tensors alone.
    fn into_staged(self) -> StagedTensors;
}

impl StagedTensors {
    /// Begins an artifact, or continues what an interrupted run with the same fingerprint
    /// (one line) left. `starts` are the first bytes of files; of those, as many as `sealed`
    /// says are written last.
    ///
    /// # Errors
    /// If the artifact may not be replaced, or if the disk refuses or lacks the room.
    pub fn begin(
        artifact: Artifact,
        starts: impl IntoIterator<Item = (Vec<u8>, usize)>,
        tensors: impl IntoIterator<Item = PlacedTensor>,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Self, OutputError> {
        let mut staged = StagedArtifact::create(artifact, fingerprint, options)?;
        let mut seals = Vec::new();
        for (file, (mut start, sealed)) in starts.into_iter().enumerate() {
            if sealed > 0 {
                seals.push((file, start[..sealed].to_vec()));
                start[..sealed].fill(0);
            }
            staged.write_at(file, 0, &start)?;
        }
        let begun = |placed| Tensor { placed, put: 0, lost: 0, sum: RunningSum::begin() };
        let tensors = tensors.into_iter().map(begun).collect();
        let is_continued = !staged.completed.is_empty();
        let (completed, damaged) = (Vec::new(), Vec::new());
        let mut all = Self { staged, tensors, completed, damaged, is_continued, seals };
        all.continue_earlier_run()?;
        Ok(all)
    }

    /// Takes over what an interrupted run finished, as far as its bytes are still what that
    /// run wrote.
    fn continue_earlier_run(&mut self) -> Result<(), OutputError> {
        let records = std::mem::take(&mut self.staged.completed);
        let mut finished: Vec<(TensorIndex, u32, u64)> =
            records.iter().filter_map(|text| self.parse_record(text)).collect();
        // Of a tensor that was computed again the last record holds.
        finished.reverse();
        finished.sort_by_key(|(index, ..)| *index);
        finished.dedup_by_key(|(index, ..)| *index);
        for (index, sum, lost) in finished {
            if self.stored_sum(index)? == sum {
                let tensor = &mut self.tensors[index.0];
                (tensor.put, tensor.lost) = (tensor.placed.bytes, lost);
                self.completed.push(index);
            } else {
                self.damaged.push(index);
            }
        }
        Ok(())
    }

    /// True if the files may hold bytes of an earlier run, not only zeros.
    pub fn is_continued(&self) -> bool {
        self.is_continued
    }

    /// Writes bytes of a file that belong to no tensor.
    ///
    /// # Errors
    /// If the disk refuses them.
    pub fn write_at(&mut self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), OutputError> {
        self.staged.write_at(file, offset, bytes)
    }

    fn put(&mut self, tensor: TensorIndex, offset: u64, bytes: &[u8]) -> Result<(), OutputError> {
        let Tensor { placed, put, sum, .. } = &mut self.tensors[tensor.0];
        let length = bytes.len() as u64;
        let inside = offset.checked_add(length).is_some_and(|end| end <= placed.bytes);
        assert!(
            inside,
            "{length} bytes at {offset} of {} are outside its {}",
            placed.name, placed.bytes
        );
        sum.add(offset, bytes);
        self.staged.write_at(placed.file, placed.offset + offset, bytes)?;
        *put = put.saturating_add(length);
        Ok(())
    }

    fn record_complete(&mut self, index: TensorIndex, lost: u64) {
        let tensor = &self.tensors[index.0];
        tensor.assert_complete();
        let sum = tensor.sum.finish(tensor.placed.bytes);
        // A tensor that cannot be read back is not recorded: a later run does it again.
        if let Some(sum) = sum.or_else(|| self.stored_sum(index).ok()) {
            self.staged.record(record(index, sum, lost, &self.tensors[index.0].placed.name));
        }
    }

    /// The checksum of a tensor as it is in its file.
    fn stored_sum(&self, index: TensorIndex) -> Result<u32, OutputError> {
        const AT_ONCE: u64 = 1 << 20;
        let PlacedTensor { file, offset, bytes, .. } = &self.tensors[index.0].placed;
        // At most what is read at once, so the casts are exact.
        let mut buffer = vec![0; AT_ONCE.min(*bytes) as usize];
        let mut hasher = Hasher::new();
        let mut done = 0;
        while done < *bytes {
            let part = &mut buffer[..AT_ONCE.min(bytes - done) as usize];
            self.staged.read_at(*file, offset + done, part)?;
            hasher.update(part);
            done += part.len() as u64;
        }
        Ok(hasher.finalize())
    }

    fn read(&self, index: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), OutputError> {
        let placed = &self.tensors[index.0].placed;
        let end = offset.checked_add(out.len() as u64);
        assert!(end.is_some_and(|end| end <= placed.bytes), "bytes of {}", placed.name);
        self.staged.read_at(placed.file, placed.offset + offset, out)
    }

    fn finish(mut self) -> Result<(), OutputError> {
        self.tensors.iter().for_each(Tensor::assert_complete);
        for (file, seal) in &self.seals {
            self.staged.write_at(*file, 0, seal)?;
        }
        self.staged.commit()
    }

    /// The tensor of a record, its checksum and its lost weights, if there is such a tensor.
    fn parse_record(&self, text: &str) -> Option<(TensorIndex, u32, u64)> {
        let mut words = text.split(' ');
        let index = TensorIndex(words.next()?.parse().ok()?);
        let sum = u32::from_str_radix(words.next()?, 16).ok()?;
        let lost = words.next()?.parse().ok()?;
        let name = &self.tensors.get(index.0)?.placed.name;
        (record(index, sum, lost, name) == text).then_some((index, sum, lost))
    }
}

/// A tensor's journal record. Escaped, since a record is one line.
fn record(index: TensorIndex, sum: u32, lost: u64, name: &str) -> String {
    format!("{} {sum:08x} {lost} {}", index.0, name.escape_default())
}

impl RunningSum {
    fn begin() -> Self {
        Self { hasher: Hasher::new(), next: Some(0) }
    }

    fn add(&mut self, offset: u64, bytes: &[u8]) {
        self.next = (self.next == Some(offset)).then(|| {
            self.hasher.update(bytes);
            offset + bytes.len() as u64
        });
    }

    /// The checksum of `bytes` bytes, if all of them came in order.
    fn finish(&self, bytes: u64) -> Option<u32> {
        (self.next == Some(bytes)).then(|| self.hasher.clone().finalize())
    }
}

impl Tensor {
    /// A file with bytes that nobody put would load, and be wrong.
    fn assert_complete(&self) {
        let Self { placed: PlacedTensor { name, bytes, .. }, put, .. } = self;
        assert!(put >= bytes, "only {put} of {bytes} bytes of {name} were put");
    }
}

impl<S: StagedSink> TensorSink for S {
    type Error = S::Error;

    /// # Panics
    /// If there is no such tensor, or the bytes reach past its end.
    fn put(&mut self, tensor: TensorIndex, offset: u64, bytes: &[u8]) -> Result<(), S::Error> {
        Ok(self.staged_mut().put(tensor, offset, bytes)?)
    }

    fn completed(&self) -> &[TensorIndex] {
        &self.staged().completed
    }

    fn damaged(&self) -> &[TensorIndex] {
        &self.staged().damaged
    }

    /// # Panics
    /// If bytes of the tensor are missing.
    fn record_complete(&mut self, tensor: TensorIndex, lost: u64) {
        self.staged_mut().record_complete(tensor, lost);
    }

    /// # Panics
    /// If there is no such tensor.
    fn lost(&self, tensor: TensorIndex) -> u64 {
        self.staged().tensors[tensor.0].lost
    }

    fn checkpoint(&mut self) {
        self.staged_mut().staged.checkpoint();
    }

    /// # Panics
    /// If there is no such tensor, or the bytes reach past its end.
    fn read_back(
        &self,
        tensor: TensorIndex,
        offset: u64,
        out: &mut [u8],
    ) -> Result<bool, S::Error> {
        self.staged().read(tensor, offset, out)?;
        Ok(true)
    }

    fn keep(self) -> Result<(), S::Error> {
        Ok(self.into_staged().staged.keep()?)
    }

    /// # Panics
    /// If bytes of a tensor are missing.
    fn finish(self) -> Result<(), S::Error> {
        Ok(self.into_staged().finish()?)
    }
}
