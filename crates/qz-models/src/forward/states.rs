//! The hidden states of all tokens between two layers.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

/// Rows of numbers, in memory or in a file without a name.
pub(super) struct States {
    width: usize,
    place: Place,
}

enum Place {
    Memory(Vec<f32>),
    File { file: File, bytes: Vec<u8> },
}

impl States {
    /// Room for `rows` rows; in a file in `folder` if they take more than `limit` bytes.
    pub(super) fn new(rows: usize, width: usize, limit: u64, folder: &Path) -> io::Result<Self> {
        let elements = rows * width;
        let place = if elements as u64 * 4 <= limit {
            Place::Memory(vec![0.0; elements])
        } else {
            Place::File { file: tempfile::tempfile_in(folder)?, bytes: Vec::new() }
        };
        Ok(Self { width, place })
    }

    pub(super) fn read(&mut self, rows: Range<usize>, out: &mut [f32]) -> io::Result<()> {
        self.read_numbers(rows.start * self.width..rows.end * self.width, out)
    }

    fn read_numbers(&mut self, range: Range<usize>, out: &mut [f32]) -> io::Result<()> {
        match &mut self.place {
            Place::Memory(numbers) => out.copy_from_slice(&numbers[range]),
            Place::File { file, bytes } => {
                bytes.resize(range.len() * 4, 0);
                file.seek(SeekFrom::Start(range.start as u64 * 4))?;
                file.read_exact(bytes)?;
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
        }
        Ok(())
    }

    /// Calls `work` with rows, where they are if they are in memory.
    pub(super) fn with<T>(
        &mut self,
        rows: Range<usize>,
        work: impl FnOnce(&[f32]) -> T,
    ) -> io::Result<T> {
        self.with_numbers(rows.start * self.width..rows.end * self.width, work)
    }

    /// The same with numbers, counted over all rows.
    pub(super) fn with_numbers<T>(
        &mut self,
        range: Range<usize>,
        work: impl FnOnce(&[f32]) -> T,
    ) -> io::Result<T> {
        if let Place::Memory(numbers) = &self.place {
            return Ok(work(&numbers[range]));
        }
        let mut numbers = vec![0.0; range.len()];
        self.read_numbers(range, &mut numbers)?;
        Ok(work(&numbers))
    }

    /// Writes whole rows from row `first` on.
    pub(super) fn write(&mut self, first: usize, numbers: &[f32]) -> io::Result<()> {
        self.write_numbers(first * self.width, numbers)
    }

    /// Writes from a number on, counted over all rows.
    pub(super) fn write_numbers(&mut self, start: usize, numbers: &[f32]) -> io::Result<()> {
        match &mut self.place {
            Place::Memory(all) => all[start..start + numbers.len()].copy_from_slice(numbers),
            Place::File { file, bytes } => {
                bytes.clear();
                bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
                file.seek(SeekFrom::Start(start as u64 * 4))?;
                file.write_all(bytes)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for limit in [0, u64::MAX] {
            let mut states = States::new(5, 3, limit, folder.path()).expect("room");
            assert_eq!(matches!(states.place, Place::File { .. }), limit == 0);
            let rows: Vec<f32> = (0..15u8).map(f32::from).collect();
            states.write(2, &rows[6..]).expect("written");
            states.write(0, &rows[..6]).expect("written");
            let mut out = [0.0; 6];
            states.read(1..3, &mut out).expect("read");
            assert_eq!(out, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
            assert_eq!(states.with(1..3, <[f32]>::to_vec).expect("read"), out);
        }
    }
}
