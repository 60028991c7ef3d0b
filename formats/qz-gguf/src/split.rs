//! Models in several files: the keys and names that hold a set together, and
//! where one file ends and the next begins.
//!
//! Facts are from llama.cpp: `src/llama.cpp` (`llama_split_path`),
//! `src/llama-model-loader.cpp` (the keys), `tools/gguf-split/gguf-split.cpp`
//! (where files end, in what order the keys are written).

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::path::{Path, PathBuf};

use qz_tensor::{Metadata, Value};

use crate::error::Fault;

/// The keys of a file's place in its set.
pub(crate) const NUMBER_KEY: &str = "split.no";
pub(crate) const COUNT_KEY: &str = "split.count";
pub(crate) const TENSORS_KEY: &str = "split.tensors.count";

/// Most files of a set: its keys are 16-bit numbers.
pub const MAX_PARTS: u64 = u16::MAX as u64;

/// A file's place in a set of files that together hold one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Which file of the set, from 0.
    pub number: u64,
    /// How many files the set has.
    pub count: u64,
    /// How many tensors the whole set has, if the file says.
    pub tensors: Option<u64>,
}

impl Split {
    /// The place that `metadata` names, if the set has more than one file. A merged
    /// file keeps the keys, with a count of 0.
    pub(crate) fn of(metadata: &Metadata) -> Result<Option<Self>, (&'static str, Fault)> {
        let unsigned = |key| match metadata.get(key) {
            None => Ok(None),
            Some(value) => match metadata.unsigned(key) {
                Some(number) => Ok(Some(number)),
                None => Err((key, Fault::SplitKey(format!("{:?}", value.kind())))),
            },
        };
        let Some(count) = unsigned(COUNT_KEY)?.filter(|count| *count > 1) else { return Ok(None) };
        if count > MAX_PARTS {
            return Err((COUNT_KEY, Fault::TooManyParts(count)));
        }
        let number = unsigned(NUMBER_KEY)?.ok_or((NUMBER_KEY, Fault::SplitKeyMissing))?;
        if number >= count {
            return Err((NUMBER_KEY, Fault::SplitOutside { number, count }));
        }
        Ok(Some(Self { number, count, tensors: unsigned(TENSORS_KEY)? }))
    }

    /// What a file's name ends with.
    fn suffix(self) -> String {
        format!("-{:05}-of-{:05}.gguf", self.number.saturating_add(1), self.count)
    }

    /// The path of the set's file `number`, beside `path`, which is this one's.
    /// `None` if that is not named as a file of a set is.
    pub(crate) fn sibling(self, path: &Path, number: u64) -> Option<PathBuf> {
        let name = path.file_name()?.to_str()?;
        let prefix = name.strip_suffix(&*self.suffix())?;
        Some(path.with_file_name(format!("{prefix}{}", Self { number, ..self }.suffix())))
    }
}

/// A file name without what makes it one of a set, or without `.gguf`.
pub fn base_name(name: &str) -> &str {
    const PLACE: usize = "-00001-of-00001".len();
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    let Some((base, place)) =
        stem.len().checked_sub(PLACE).and_then(|at| stem.split_at_checked(at))
    else {
        return stem;
    };
    let mut parts = place.split('-');
    let is_number = |part: Option<&str>| {
        part.is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_place = parts.next() == Some("")
        && is_number(parts.next())
        && parts.next() == Some("of")
        && is_number(parts.next())
        && parts.next().is_none()
        && !base.is_empty();
    if is_place { base } else { stem }
}

/// Where a model in several files is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitOptions {
    /// Most bytes of tensors in a file. A larger tensor gets a file of its own.
    pub max_bytes: Option<NonZeroU64>,
    /// Most tensors in a file.
    pub max_tensors: Option<NonZeroU32>,
    /// The first file holds the metadata alone.
    pub first_without_tensors: bool,
}

impl SplitOptions {
    /// The tensors of each file, for tensors of these sizes.
    pub(crate) fn divide(&self, sizes: impl Iterator<Item = u64>) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        if self.first_without_tensors {
            parts.push(0..0);
        }
        let (mut begin, mut bytes) = (0, 0u64);
        let mut count = 0;
        for (end, size) in sizes.enumerate() {
            // The reference counts so, whatever the file's alignment.
            let size = size.saturating_add(31) & !31;
            let is_full =
                self.max_tensors.is_some_and(|most| end.abs_diff(begin) >= most.get() as usize)
                    || self.max_bytes.is_some_and(|most| bytes.saturating_add(size) > most.get());
            if is_full && end > begin {
                parts.push(begin..end);
                (begin, bytes) = (end, 0);
            }
            bytes = bytes.saturating_add(size);
            count = end.saturating_add(1);
        }
        parts.push(begin..count);
        parts
    }
}

/// A set of one model: what is written into which file.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Range<usize>,
}

/// The parts of a set beside `target`, which names it: `NAME.gguf` gives
/// `NAME-00001-of-0000N.gguf`. All metadata is in the first.
pub(crate) fn parts(
    target: &Path,
    metadata: &Metadata,
    divided: Vec<Range<usize>>,
) -> Result<Vec<Part>, Fault> {
    let count = divided.len() as u64;
    let too_many = |_| Fault::TooManyParts(count);
    let whole = u16::try_from(count).map_err(too_many)?;
    let total = divided.last().map_or(0, |last| last.end);
    let total = i32::try_from(total).map_err(|_| Fault::TooManyTensors(total as u64))?;
    let name = target.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    let prefix = name.strip_suffix(".gguf").unwrap_or(&name);
    let part = |(number, tensors): (u16, Range<usize>)| {
        let mut metadata = if number == 0 { metadata.clone() } else { Metadata::new() };
        // In the order in which the reference sets them last.
        for (key, value) in [
            (NUMBER_KEY, Value::U16(number)),
            (TENSORS_KEY, Value::I32(total)),
            (COUNT_KEY, Value::U16(whole)),
        ] {
            metadata.remove(key);
            metadata.set(key, value);
        }
        let place = Split { number: number.into(), count, tensors: None };
        Part { name: format!("{prefix}{}", place.suffix()), metadata, tensors }
    };
    Ok((0..whole).zip(divided).map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, expected: &str| assert_eq!(base_name(name), expected);
        check("a-00002-of-00003.gguf", "a");
        check("a-b-00002-of-00003", "a-b");
        check("a.gguf", "a");
        check("-00002-of-00003.gguf", "-00002-of-00003");
        check("a-0000x-of-00003.gguf", "a-0000x-of-00003");
        check("aé-00002-on-00003.gguf", "aé-00002-on-00003");
        check("ééééééééééé", "ééééééééééé");
        check("", "");
    }

    #[test]
    fn siblings() {
        let split = Split { number: 1, count: 3, tensors: None };
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(split.sibling(Path::new(path), 2), expected.map(PathBuf::from), "{path}");
        };
        check("d/a-00002-of-00003.gguf", Some("d/a-00003-of-00003.gguf"));
        check("d/a-00001-of-00003.gguf", None);
        check("d/a-00002-of-00004.gguf", None);
        check("d/a.gguf", None);
        check("d/..", None);
    }

    #[test]
    fn cuts() {
        let check = |bytes: u64, tensors: u32, empty: bool, sizes: &[u64], expected: &[usize]| {
            let options = SplitOptions {
                max_bytes: NonZeroU64::new(bytes),
                max_tensors: NonZeroU32::new(tensors),
                first_without_tensors: empty,
            };
            let parts = options.divide(sizes.iter().copied());
            let ends: Vec<usize> = parts.iter().map(|part| part.end).collect();
            assert_eq!(ends, expected, "{options:?} {sizes:?}");
        };
        check(0, 0, false, &[32; 5], &[5]);
        check(0, 2, false, &[32; 5], &[2, 4, 5]);
        check(0, 5, false, &[32; 5], &[5]);
        check(0, 2, true, &[32; 3], &[0, 2, 3]);
        check(64, 0, false, &[32; 5], &[2, 4, 5]);
        // Sizes count with their padding to 32.
        check(64, 0, false, &[33, 1], &[1, 2]);
        check(96, 0, false, &[33, 1], &[2]);
        // What is larger than the limit stands alone.
        check(64, 0, false, &[100, 32, 100, 32], &[1, 2, 3, 4]);
        check(64, 1, false, &[32; 2], &[1, 2]);
        check(u64::MAX, 0, false, &[u64::MAX, u64::MAX], &[2]);
        check(64, 0, false, &[], &[0]);
        check(64, 0, true, &[], &[0, 0]);
    }
}
