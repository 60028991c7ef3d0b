//! Importance matrices in memory: read, added to each other, written as llama-imatrix
//! writes them (llama.cpp, tools/imatrix/imatrix.cpp).

use std::collections::BTreeMap;
use std::path::Path;

use qz_gguf::GgufSink;
use qz_tensor::{
    Artifact, DataType, Location, Metadata, OutputOptions, Shape, SinkTensor, StagedArtifact,
    TensorIndex, TensorSink, Value,
};

use crate::error::{Error, Fault};
use crate::importance::ImportanceMatrix;
use crate::moments::Moments;

/// The sums of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorSums {
    /// For each column, of each expert in turn: the sum of squares.
    pub squares: Vec<f32>,
    /// For each expert: rows that were summed. One number for a tensor without experts.
    pub counts: Vec<u64>,
}

/// An importance matrix in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceSums {
    /// By GGUF name.
    pub tensors: BTreeMap<String, TensorSums>,
    /// The texts it was computed on.
    pub datasets: Vec<String>,
}

impl TensorSums {
    /// Of each expert's moments; of one for a tensor without experts.
    pub fn of(experts: &[Moments]) -> Self {
        Self {
            squares: experts.iter().flat_map(Moments::squares).map(|sum| sum as f32).collect(),
            counts: experts.iter().map(Moments::rows).collect(),
        }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.squares.len() / self.counts.len().max(1)
    }

    /// Adds others' sums; false if they are of another shape.
    #[must_use]
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.counts.is_empty() {
            self.clone_from(other);
            return true;
        }
        if self.squares.len() != other.squares.len() {
            return false;
        }
        // A single count stands for every expert: older files have no more.
        let counts = self.counts.len().max(other.counts.len());
        let spread = |own: &[u64]| match own {
            [one] => Some(vec![*one; counts]),
            many => (many.len() == counts).then(|| many.to_vec()),
        };
        let (Some(mut sum), Some(others)) = (spread(&self.counts), spread(&other.counts)) else {
            return false;
        };
        sum.iter_mut().zip(others).for_each(|(count, other)| {
            // Each is below 2^63.
            *count = count.saturating_add(other);
        });
        self.counts = sum;
        self.squares.iter_mut().zip(&other.squares).for_each(|(sum, other)| *sum += other);
        true
    }
}

impl ImportanceSums {
    /// Adds what is in a file. A legacy file has means instead of sums, and chunks instead
    /// of tokens; it is taken to be of chunks of `chunk_size` tokens.
    ///
    /// # Errors
    /// If the file cannot be read, is no importance matrix, or has a tensor of another
    /// shape.
    pub fn add_file(&mut self, path: &Path, chunk_size: u32) -> Result<(), Error> {
        let file = ImportanceMatrix::open(path)?;
        for name in file.names() {
            let sums = file.sums(name, chunk_size)?;
            let sum = self.tensors.entry(name.to_owned()).or_default();
            let fault = if !sum.merge(&sums) {
                Some(Fault::OtherShape)
            } else {
                let infinite = sum.squares.iter().position(|sum| !sum.is_finite());
                let value = |index: usize| (index as u64, sum.squares[index]);
                infinite.map(value).map(|(index, value)| Fault::NonFinite { index, value })
            };
            if let Some(fault) = fault {
                let location = Location::file(path).tensor(name);
                return Err(Error::Malformed { location, fault });
            }
        }
        self.datasets.extend_from_slice(file.datasets());
        Ok(())
    }

    /// Chunks that were seen, as llama-imatrix counts: the most rows of a matrix, divided.
    pub fn chunks(&self, chunk_size: u32) -> u32 {
        let most = self.tensors.values().flat_map(|sums| &sums.counts).max();
        u32::try_from(most.copied().unwrap_or(0) / u64::from(chunk_size.max(1))).unwrap_or(u32::MAX)
    }

    /// Writes a GGUF file.
    ///
    /// # Errors
    /// If the path is taken and may not be replaced, or the disk refuses.
    pub fn write_gguf(
        &self,
        path: &Path,
        chunk_size: u32,
        options: OutputOptions,
    ) -> Result<(), Error> {
        let shapes =
            self.tensors.iter().map(|(name, sums)| (name, sums.counts.len(), sums.width()));
        let tensors: Vec<SinkTensor> =
            shapes.flat_map(|(name, experts, width)| entry_tensors(name, experts, width)).collect();
        let metadata = metadata(&self.datasets, self.chunks(chunk_size), chunk_size);
        let mut sink = GgufSink::create(path, &metadata, &tensors, "sums", options)?;
        for (position, sums) in self.tensors.values().enumerate() {
            sink.put(TensorIndex(2 * position), 0, &to_bytes(sums.squares.iter().copied()))?;
            let counts = sums.counts.iter().map(|count| *count as f32);
            sink.put(TensorIndex(2 * position + 1), 0, &to_bytes(counts))?;
        }
        Ok(sink.finish()?)
    }

    /// Writes a legacy file, and gives its size; it has no place for more than the last text's name, and a
    /// mean for what has no count.
    ///
    /// # Errors
    /// As [`Self::write_gguf`].
    pub fn write_legacy(
        &self,
        path: &Path,
        chunk_size: u32,
        options: OutputOptions,
    ) -> Result<u64, Error> {
        let counted =
            |(_, sums): &(&String, &TensorSums)| sums.counts.iter().any(|count| *count > 0);
        let entries: Vec<_> = self.tensors.iter().filter(counted).collect();
        let mut bytes = Vec::new();
        let number = |bytes: &mut Vec<u8>, number: u64| {
            bytes.extend(i32::try_from(number).unwrap_or(i32::MAX).to_le_bytes());
        };
        number(&mut bytes, entries.len() as u64);
        for (name, sums) in entries {
            number(&mut bytes, name.len() as u64);
            bytes.extend_from_slice(name.as_bytes());
            let most = sums.counts.iter().max().copied().unwrap_or(0);
            let calls = most.div_ceil(u64::from(chunk_size.max(1)));
            number(&mut bytes, calls);
            number(&mut bytes, sums.squares.len() as u64);
            let experts = sums.squares.chunks_exact(sums.width().max(1)).zip(&sums.counts);
            for (squares, count) in experts {
                let mean = |square: &f32| if *count == 0 { 1.0 } else { square / *count as f32 };
                bytes.extend(to_bytes(squares.iter().map(|square| mean(square) * calls as f32)));
            }
        }
        number(&mut bytes, u64::from(self.chunks(chunk_size)));
        let dataset = self.datasets.last().map_or("", String::as_str);
        number(&mut bytes, dataset.len() as u64);
        bytes.extend_from_slice(dataset.as_bytes());
        let artifact = Artifact::file(path, bytes.len() as u64);
        let mut staged = StagedArtifact::create(artifact, "sums", options)?;
        staged.write_at(0, 0, &bytes)?;
        staged.commit()?;
        Ok(bytes.len() as u64)
    }
}

/// The two tensors of an entry.
pub fn entry_tensors(name: &str, experts: usize, width: usize) -> [SinkTensor; 2] {
    let (experts, width) = (experts as u64, width as u64);
    let stacked = |width: u64| if experts > 1 { vec![experts, width] } else { vec![width] };
    [
        tensor(format!("{name}.in_sum2"), stacked(width)),
        tensor(format!("{name}.counts"), stacked(1)),
    ]
}

/// A tensor of f32 numbers; dimensions outermost first.
pub fn tensor(name: String, dimensions: Vec<u64>) -> SinkTensor {
    let shape = Shape::new(dimensions).expect("sizes of a model that was opened");
    SinkTensor { name, data_type: DataType::F32, shape }
}

/// What llama-imatrix says about a file.
pub fn metadata(datasets: &[String], chunks: u32, chunk_size: u32) -> Metadata {
    [
        ("general.type", Value::from("imatrix")),
        ("imatrix.datasets", datasets.to_vec().into()),
        ("imatrix.chunk_count", chunks.into()),
        ("imatrix.chunk_size", chunk_size.into()),
    ]
    .into_iter()
    .collect()
}

/// Numbers as they are stored.
pub fn to_bytes(numbers: impl Iterator<Item = f32>) -> Vec<u8> {
    numbers.flat_map(f32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests;
