//! The hidden states of all tokens between two layers: on the device while they fit, and in a
//! file past that.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use qz_kernels::backend::Backend;

use crate::error::Error;

/// Rows of numbers, batch by batch.
pub(super) struct States<B: Backend> {
    /// The rows of each batch.
    batches: Vec<Range<usize>>,
    columns: usize,
    place: Place<B::Buffer>,
}

enum Place<Buffer> {
    Device(Vec<Option<Buffer>>),
    File(Spill),
}

impl<B: Backend> States<B> {
    /// Room for the rows of these batches; in a file in `folder` if they take more than `limit`
    /// bytes.
    pub(super) fn new(
        batches: Vec<Range<usize>>,
        columns: usize,
        limit: u64,
        folder: &Path,
    ) -> Result<Self, Error> {
        let rows: usize = batches.iter().map(Range::len).sum();
        let place = match Spill::is_needed(rows, columns, limit) {
            false => Place::Device(batches.iter().map(|_| None).collect()),
            true => Place::File(Spill::new(folder)?),
        };
        Ok(Self { batches, columns, place })
    }

    /// Keeps a batch's rows.
    pub(super) fn put(&mut self, backend: &B, batch: usize, rows: B::Buffer) -> Result<(), Error> {
        match &mut self.place {
            Place::Device(all) => all[batch] = Some(rows),
            Place::File(spill) => {
                let first = self.batches[batch].start * self.columns;
                spill.write(first, &backend.numbers(&rows)?)?;
            }
        }
        Ok(())
    }

    /// Makes room for other rows of a batch.
    pub(super) fn forget(&mut self, batch: usize) {
        if let Place::Device(all) = &mut self.place {
            all[batch] = None;
        }
    }

    /// A batch's rows. They are gone until others are put there.
    pub(super) fn take(&mut self, backend: &B, batch: usize) -> Result<B::Buffer, Error> {
        match &mut self.place {
            Place::Device(all) => Ok(all[batch].take().expect("rows that were put there")),
            Place::File(_) => self.copy(backend, batch),
        }
    }

    /// The same; they stay.
    pub(super) fn copy(&mut self, backend: &B, batch: usize) -> Result<B::Buffer, Error> {
        match &mut self.place {
            Place::Device(all) => {
                Ok(backend.copy(all[batch].as_ref().expect("rows that were put there"))?)
            }
            Place::File(spill) => {
                let Range { start, end } = self.batches[batch];
                spill.read(backend, start..end, self.columns)
            }
        }
    }

    /// All rows once more, in another file where these are in one.
    pub(super) fn copied(&mut self, backend: &B, folder: &Path) -> Result<Self, Error> {
        let limit = match self.place {
            Place::Device(_) => u64::MAX,
            Place::File(_) => 0,
        };
        let mut copy = Self::new(self.batches.clone(), self.columns, limit, folder)?;
        for batch in 0..self.batches.len() {
            copy.put(backend, batch, self.copy(backend, batch)?)?;
        }
        Ok(copy)
    }

    /// Some rows, counted over all batches, in any order.
    pub(super) fn gather(&mut self, backend: &B, rows: &[usize]) -> Result<B::Buffer, Error> {
        let of = |row: usize| self.batches.partition_point(|batch| batch.end <= row);
        let mut parts = Vec::new();
        for rows in rows.chunk_by(|a, b| of(*a) == of(*b)) {
            match &mut self.place {
                Place::Device(all) => {
                    let batch = self.batches.partition_point(|batch| batch.end <= rows[0]);
                    let first = self.batches[batch].start;
                    let own: Vec<usize> = rows.iter().map(|row| row - first).collect();
                    let from = all[batch].as_ref().expect("rows that were put there");
                    parts.push(backend.gather(from, &own)?);
                }
                Place::File(spill) => {
                    for row in rows {
                        parts.push(spill.read(backend, *row..row + 1, self.columns)?);
                    }
                }
            }
        }
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => Ok(backend.stack(&parts.iter().collect::<Vec<_>>())?),
        }
    }
}

/// Numbers in a file without a name.
pub(super) struct Spill {
    folder: PathBuf,
    file: File,
    bytes: Vec<u8>,
}

impl Spill {
    /// True if so many numbers take more than `limit` bytes.
    pub(super) fn is_needed(rows: usize, columns: usize, limit: u64) -> bool {
        rows as u64 * columns as u64 * 4 > limit
    }

    pub(super) fn new(folder: &Path) -> Result<Self, Error> {
        let folder = folder.to_owned();
        match tempfile::tempfile_in(&folder) {
            Ok(file) => Ok(Self { folder, file, bytes: Vec::new() }),
            Err(source) => Err(Error::Spill { folder, source }),
        }
    }

    fn checked<T>(&self, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|source| Error::Spill { folder: self.folder.clone(), source })
    }

    /// Writes from a number on.
    pub(super) fn write(&mut self, first: usize, numbers: &[f32]) -> Result<(), Error> {
        self.bytes.clear();
        self.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        let sought = self.file.seek(SeekFrom::Start(first as u64 * 4));
        let written = sought.and_then(|_| self.file.write_all(&self.bytes));
        self.checked(written)
    }

    /// Rows of so many columns, counted from the file's beginning.
    fn read<B: Backend>(
        &mut self,
        backend: &B,
        rows: Range<usize>,
        columns: usize,
    ) -> Result<B::Buffer, Error> {
        self.read_from(backend, rows.start * columns, rows.len(), columns)
    }

    /// Rows from a number on.
    pub(super) fn read_from<B: Backend>(
        &mut self,
        backend: &B,
        first: usize,
        rows: usize,
        columns: usize,
    ) -> Result<B::Buffer, Error> {
        self.bytes.resize(rows * columns * 4, 0);
        let sought = self.file.seek(SeekFrom::Start(first as u64 * 4));
        let read = sought.and_then(|_| self.file.read_exact(&mut self.bytes));
        self.checked(read)?;
        let numbers = self.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        Ok(backend.buffer(columns, &numbers.collect::<Vec<f32>>())?)
    }
}

#[cfg(test)]
mod tests {
    use qz_kernels::backend::Shaped;
    use qz_kernels::backend::reference::ReferenceBackend;

    use super::*;

    #[test]
    fn rows_come_back_from_the_device_and_from_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let backend = ReferenceBackend;
        for limit in [59, 60] {
            let states = States::new(vec![0..2, 2..5], 3, limit, folder.path());
            let mut states = states.expect("room");
            assert_eq!(matches!(states.place, Place::File(_)), limit < 60);
            let rows: Vec<f32> = (0..15u8).map(f32::from).collect();
            for (batch, own) in [(1, &rows[6..]), (0, &rows[..6])] {
                let own = backend.buffer(3, own).expect("a buffer");
                states.put(&backend, batch, own).expect("kept");
            }
            let check = |found: Result<<ReferenceBackend as Backend>::Buffer, Error>, expected| {
                let found = found.expect("rows");
                assert_eq!((found.columns(), found.to_vec()), (3, expected));
            };
            check(states.copy(&backend, 1), rows[6..].to_vec());
            check(states.gather(&backend, &[4]), rows[12..].to_vec());
            let some = [&rows[3..9], &rows[..3]].concat();
            check(states.gather(&backend, &[1, 2, 0]), some);
            let mut copy = states.copied(&backend, folder.path()).expect("room");
            check(states.take(&backend, 0), rows[..6].to_vec());
            check(copy.copy(&backend, 0), rows[..6].to_vec());
        }
    }
}
