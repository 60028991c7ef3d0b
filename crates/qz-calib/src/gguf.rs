//! Importance matrices as GGUF files: tensors `NAME.in_sum2` with a sum of
//! squares per column (and expert) and `NAME.counts` with a count per expert
//! (llama.cpp, common/imatrix-loader.cpp, tools/imatrix/imatrix.cpp).

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use std::collections::BTreeMap;
use std::path::Path;

use qz_gguf::GgufFile;
use qz_tensor::{Array, DataType, Location, TensorIndex, TensorInfo, TensorSource, Value};

use crate::error::{Error, Fault};
use crate::importance::{Contents, Entry};

const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

/// More experts than any model has; bounds what is read at once.
const MAX_COUNTS: u64 = 1 << 20;

/// More tokens than anything was computed on. Sums of such counts do not wrap.
const MAX_COUNT: f32 = (1u64 << 48) as f32;

/// The tensors that make one entry.
#[derive(Default)]
struct Pair {
    sums: Option<usize>,
    counts: Option<usize>,
}

pub(crate) fn read(path: &Path) -> Result<Contents, Error> {
    let file = GgufFile::open(path)?;
    let mut pairs: BTreeMap<&str, Pair> = BTreeMap::new();
    for (position, info) in file.tensors().iter().enumerate() {
        if let Some(name) = info.name.strip_suffix(".in_sum2") {
            pairs.entry(name).or_default().sums = Some(position);
        } else if let Some(name) = info.name.strip_suffix(".counts") {
            pairs.entry(name).or_default().counts = Some(position);
        }
    }
    if pairs.is_empty() {
        return Err(refusal(path, &file));
    }
    let metadata = file.metadata();
    let missing = |key: &str| Error::Malformed {
        location: Location::file(path).tensor(key),
        fault: Fault::MissingKey,
    };
    let number = |key: &str| metadata.unsigned(key).ok_or_else(|| missing(key));
    let Some(Value::Array(Array::String(datasets))) = metadata.get(DATASETS) else {
        return Err(missing(DATASETS));
    };
    number(CHUNK_SIZE)?;
    let chunks = u32::try_from(number(CHUNK_COUNT)?).map_err(|_| missing(CHUNK_COUNT))?;
    let entries = pairs
        .iter()
        .map(|(name, pair)| Ok(((*name).to_owned(), entry(path, &file, name, pair)?)))
        .collect::<Result<_, Error>>()?;
    Ok(Contents { entries, datasets: datasets.iter().map(str::to_owned).collect(), chunks })
}

/// A GGUF file that holds no sums: says what it is, if it says so itself.
fn refusal(path: &Path, file: &GgufFile) -> Error {
    let fault = match file.metadata().string("general.type") {
        Some(kind) if kind != "imatrix" => Fault::OtherType(kind.to_owned()),
        _ => Fault::NoEntries,
    };
    Error::Malformed { location: Location::file(path), fault }
}

fn entry(path: &Path, file: &GgufFile, name: &str, pair: &Pair) -> Result<Entry, Error> {
    let malformed = |fault| Error::Malformed { location: Location::file(path).tensor(name), fault };
    let tensor = |place: Option<usize>| file.tensors().get(place?);
    let (Some(sums), Some(info)) = (tensor(pair.sums), tensor(pair.counts)) else {
        return Err(malformed(Fault::Unpaired));
    };
    for info in [sums, info] {
        if info.data_type != DataType::F32 {
            return Err(malformed(Fault::NotF32(info.data_type)));
        }
    }
    let (values, number) = (sums.shape.elements(), info.shape.elements());
    let is_even = (1..=MAX_COUNTS).contains(&number) && values.is_multiple_of(number);
    if values == 0 || !is_even {
        return Err(malformed(Fault::Uneven { values, counts: number }));
    }
    let divisors = divisors(file, TensorIndex(counts_of(pair)), info)?
        .map_err(|count| malformed(Fault::Count(count)))?;
    Ok(Entry { offset: sums.offset, values, divisors })
}

fn counts_of(pair: &Pair) -> usize {
    pair.counts.unwrap_or_default()
}

/// The counts as the reference rounds them; `Err` holds one that is no number.
fn divisors(
    file: &GgufFile,
    index: TensorIndex,
    info: &TensorInfo,
) -> Result<Result<Vec<Option<f32>>, f32>, Error> {
    // At most MAX_COUNTS numbers.
    let mut bytes = vec![0; info.bytes as usize];
    file.read(index, 0, &mut bytes)?;
    let counts = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let divisor = |count: f32| {
        let rounded = count.round();
        if count.is_finite() && count <= MAX_COUNT {
            Ok((rounded > 0.0).then_some(rounded))
        } else {
            Err(count)
        }
    };
    Ok(counts.map(divisor).collect())
}
