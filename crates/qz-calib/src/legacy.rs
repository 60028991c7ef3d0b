//! Importance matrices as llama-imatrix wrote them before it used GGUF
//! (llama.cpp, common/imatrix-loader.cpp), little-endian and unaligned:
//!
//! | what | type |
//! |---|---|
//! | number of entries | i32 |
//! | of each: length of the name, name | i32, bytes |
//! | calls, number of values | i32, i32 |
//! | values: mean squares, times the calls | f32 each |
//! | then, or nothing: chunks | i32 |
//! | length of the text's name, name | i32, bytes |

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use std::collections::BTreeMap;

use qz_tensor::{Location, SourceFile};

use crate::error::{Error, Fault};
use crate::importance::{Contents, Entry};

/// GGUF allows 63 bytes; a longer name is another kind of file.
const MAX_NAME: i32 = 1024;

pub(crate) fn read(file: &SourceFile) -> Result<Contents, Error> {
    let mut cursor = Cursor { file, offset: 0, tensor: None };
    let mut entries = BTreeMap::new();
    for _ in 0..cursor.length("the number of entries", 1, i32::MAX)? {
        let (name, entry) = cursor.entry()?;
        entries.insert(name, entry);
    }
    cursor.tensor = None;
    let (chunks, datasets) = cursor.trailer()?;
    Ok(Contents { entries, datasets, chunks })
}

struct Cursor<'a> {
    file: &'a SourceFile,
    offset: u64,
    /// The entry being read, for messages.
    tensor: Option<String>,
}

impl Cursor<'_> {
    fn malformed(&self, fault: Fault) -> Error {
        let location = Location::file(self.file.path().as_ref()).offset(self.offset);
        let location = Location { tensor: self.tensor.clone(), ..location };
        Error::Malformed { location, fault }
    }

    fn left(&self) -> u64 {
        self.file.len().saturating_sub(self.offset)
    }

    fn need(&self, wanted: u64) -> Result<(), Error> {
        let left = self.left();
        if wanted > left { Err(self.malformed(Fault::Truncated { wanted, left })) } else { Ok(()) }
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, Error> {
        self.need(length as u64)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(self.offset, &mut bytes)?;
        self.offset = self.offset.saturating_add(length as u64);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<i32, Error> {
        let bytes = self.bytes(size_of::<i32>())?;
        Ok(bytes.as_chunks().0.first().map_or(0, |bytes| i32::from_le_bytes(*bytes)))
    }

    fn length(&mut self, what: &'static str, least: i32, most: i32) -> Result<u32, Error> {
        let start = self.offset;
        let length = self.number()?;
        if !(least..=most).contains(&length) {
            self.offset = start;
            return Err(self.malformed(Fault::Length { what, length }));
        }
        Ok(length.unsigned_abs())
    }

    fn text(&mut self, what: &'static str, least: i32, most: i32) -> Result<String, Error> {
        let length = self.length(what, least, most)?;
        let bytes = self.bytes(length as usize)?;
        // The reference reads C strings.
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8(text.to_vec()).map_err(|_| self.malformed(Fault::Name))
    }

    fn entry(&mut self) -> Result<(String, Entry), Error> {
        self.tensor = None;
        let name = self.text("a name's length", 1, MAX_NAME)?;
        self.tensor = Some(name.clone());
        let calls = self.number()?;
        let values = u64::from(self.length("the number of values", 1, i32::MAX)?);
        let bytes = values.saturating_mul(size_of::<f32>() as u64);
        self.need(bytes)?;
        let offset = self.offset;
        self.offset = offset.saturating_add(bytes);
        // Without calls the values stand as they are.
        let divisor = if calls > 0 { calls as f32 } else { 1.0 };
        Ok((name, Entry { offset, values, divisors: vec![Some(divisor)] }))
    }

    /// Chunks and data set, where the file goes on; older files do not.
    fn trailer(&mut self) -> Result<(u32, Vec<String>), Error> {
        if self.left() == 0 {
            return Ok((0, Vec::new()));
        }
        let chunks = u32::try_from(self.number()?).unwrap_or(0);
        if self.left() == 0 {
            return Ok((chunks, Vec::new()));
        }
        // A path; bounded by the file's own length.
        let dataset = self.text("the data set's length", 0, i32::MAX)?;
        Ok((chunks, if dataset.is_empty() { Vec::new() } else { vec![dataset] }))
    }
}
