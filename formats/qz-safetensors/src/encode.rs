//! Where every byte of a model's files goes: shards, headers, the index.

use std::cmp::Ordering;
use std::ops::Range;
use std::path::{Path, PathBuf};

use qz_shards::{MAX_SHARDS, ShardFile, check_tensor, find_alike};
use qz_tensor::{Artifact, ArtifactFile, Location, PlacedTensor, SideFile, SinkTensor};
use serde_json::{Map, Value, json};

use crate::error::{Error, Fault};
use crate::file::SafetensorsFile;
use crate::header::MAX_HEADER;

/// Bytes of a shard's data, as transformers 5 has it (`save_pretrained`,
/// `max_shard_size`). A larger tensor gets a shard of its own.
pub const DEFAULT_SHARD_SIZE: u64 = 50_000_000_000;

/// Headers are filled up with spaces to a multiple of this, as the `safetensors`
/// package does, so that data begins where any element type may.
const ALIGNMENT: usize = 8;

/// Every file of a model folder, laid out.
#[derive(Debug)]
pub struct SafetensorsLayout {
    pub(crate) artifact: Artifact,
    /// The first bytes of each file; all of a file that holds no weights.
    pub(crate) starts: Vec<Vec<u8>>,
    /// The files with weights.
    pub(crate) weights: Range<usize>,
    pub(crate) tensors: Vec<PlacedTensor>,
}

impl SafetensorsLayout {
    /// Lays out a folder at `target` with these tensors and, beside them, these
    /// files. No file of weights has more than `shard_size` bytes of data, unless
    /// one tensor alone has. Among the files is one at least: the first is what a
    /// folder must have to be replaced.
    ///
    /// # Errors
    /// If safetensors cannot hold a name, type or shape.
    pub fn new(
        target: &Path,
        tensors: &[SinkTensor],
        files: Vec<SideFile>,
        shard_size: u64,
    ) -> Result<Self, Error> {
        let layout = layout(target, tensors, shard_size)?;
        let weights = files.len()..files.len() + layout.shards.len();
        let mut entries = Vec::new();
        let mut starts = Vec::new();
        let mut add = |name: String, size: u64, start: Vec<u8>| {
            entries.push(ArtifactFile { name, size });
            starts.push(start);
        };
        for SideFile { name, content } in files {
            add(name, content.len() as u64, content);
        }
        for ShardLayout { name, start, size } in layout.shards {
            add(name, size, start);
        }
        if let Some(index) = layout.index {
            add(SafetensorsFile::INDEX_NAME.to_owned(), index.len() as u64, index);
        }
        let placed = |(tensor, place): (&SinkTensor, &Place)| PlacedTensor {
            name: tensor.name.clone(),
            file: weights.start + place.shard,
            offset: place.offset,
            bytes: place.bytes,
        };
        let tensors = tensors.iter().zip(&layout.places).map(placed).collect();
        Ok(Self { artifact: Artifact::folder(target, entries), starts, weights, tensors })
    }

    /// The final paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        (0..self.artifact.files().len()).map(|file| self.artifact.path_of(file)).collect()
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.artifact.size()
    }
}

/// The files of weights, laid out.
struct Layout {
    shards: Vec<ShardLayout>,
    /// `model.safetensors.index.json`, if there are several shards.
    index: Option<Vec<u8>>,
    /// Of each tensor, in the caller's order.
    places: Vec<Place>,
}

/// One file of weights.
struct ShardLayout {
    name: String,
    /// Length and header, as they stand at the beginning of the file.
    start: Vec<u8>,
    /// Bytes of the whole file.
    size: u64,
}

/// Where a tensor's data lies.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    shard: usize,
    /// From the start of the file.
    offset: u64,
    bytes: u64,
}

/// Lays out `tensors` in files of `folder` with at most `shard_size` bytes of data
/// each. Tensors are in the natural order of their names.
fn layout(folder: &Path, tensors: &[SinkTensor], shard_size: u64) -> Result<Layout, Error> {
    let sizes = check(folder, tensors)?;
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|a, b| natural_order(&tensors[*a].name, &tensors[*b].name));
    let parts = split(&order, &sizes, shard_size);
    if parts.len() > MAX_SHARDS {
        let fault = Box::new(qz_shards::Fault::TooManyShards);
        let location = Location::file(folder);
        return Err(qz_shards::Error::Malformed { location, fault }.into());
    }
    let mut places = vec![Place::default(); tensors.len()];
    let mut shards = Vec::with_capacity(parts.len());
    for (shard, part) in parts.iter().enumerate() {
        let name = match parts.len() {
            1 => SafetensorsFile::SINGLE_NAME.to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
        };
        let mut bytes = 0;
        for position in part {
            places[*position] = Place { shard, offset: bytes, bytes: sizes[*position] };
            bytes += sizes[*position];
        }
        let start = start_of_file(&folder.join(&name), tensors, part, &places)?;
        for position in part {
            places[*position].offset += start.len() as u64;
        }
        shards.push(ShardLayout { name, size: start.len() as u64 + bytes, start });
    }
    let index = (shards.len() > 1).then(|| index(tensors, &order, &places, &shards));
    Ok(Layout { shards, index, places })
}

/// Checks names and types; returns the sizes.
fn check(folder: &Path, tensors: &[SinkTensor]) -> Result<Vec<u64>, Error> {
    let fail = |tensor: &SinkTensor, fault| Error::Malformed {
        location: Location::file(folder).tensor(&tensor.name),
        fault: Box::new(fault),
    };
    let mut sizes = Vec::with_capacity(tensors.len());
    let mut total = 0u64;
    for tensor in tensors {
        check_tensor(&tensor.name).map_err(|fault| fail(tensor, fault.into()))?;
        if tensor.data_type.spec().safetensors.is_none() {
            return Err(fail(tensor, Fault::UnknownType(tensor.data_type.name().to_owned())));
        }
        let overflow = |source| {
            let shape = tensor.shape.dimensions().to_vec();
            fail(tensor, Fault::Size { shape, source })
        };
        let bytes = tensor.shape.byte_size(tensor.data_type).map_err(overflow)?;
        total = total
            .checked_add(bytes)
            .filter(|total| *total < 1 << 62)
            .ok_or_else(|| overflow(qz_tensor::SizeError::Overflow))?;
        sizes.push(bytes);
    }
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    match find_alike(&names) {
        Some((first, second)) if names[first] == names[second] => {
            Err(fail(&tensors[second], Fault::DuplicateTensor))
        }
        Some((first, second)) => {
            let fault = Box::new(qz_shards::Fault::AlikeName(names[first].to_owned()));
            let location = Location::file(folder).tensor(names[second]);
            Err(qz_shards::Error::Malformed { location, fault }.into())
        }
        None => Ok(sizes),
    }
}

/// Cuts the order where the next tensor would be too much for a shard. There is
/// always one shard.
fn split(order: &[usize], sizes: &[u64], shard_size: u64) -> Vec<Vec<usize>> {
    let mut shards = vec![Vec::new()];
    let mut bytes = 0u64;
    for position in order {
        let size = sizes[*position];
        let is_full = bytes + size > shard_size;
        match shards.last_mut() {
            Some(last) if last.is_empty() || !is_full => {
                last.push(*position);
                bytes += size;
            }
            _ => {
                shards.push(vec![*position]);
                bytes = size;
            }
        }
    }
    shards
}

/// Length and header of a file. The places count from the end of the header.
fn start_of_file(
    path: &Path,
    tensors: &[SinkTensor],
    part: &[usize],
    places: &[Place],
) -> Result<Vec<u8>, Error> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for position in part {
        let (tensor, place) = (&tensors[*position], places[*position]);
        let entry = json!({
            "dtype": tensor.data_type.spec().safetensors,
            "shape": tensor.shape.dimensions(),
            "data_offsets": [place.offset, place.offset + place.bytes],
        });
        header.insert(tensor.name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    let length = text.len() as u64;
    if length > MAX_HEADER {
        let fault = Box::new(Fault::HeaderTooLong(length));
        return Err(Error::Malformed { location: Location::file(path), fault });
    }
    Ok([&length.to_le_bytes()[..], &text].concat())
}

fn index(
    tensors: &[SinkTensor],
    order: &[usize],
    places: &[Place],
    shards: &[ShardLayout],
) -> Vec<u8> {
    let bytes: u64 = places.iter().map(|place| place.bytes).sum();
    let weights: u64 = tensors.iter().map(|tensor| tensor.shape.elements()).sum();
    let entry = |position: &usize| {
        let shard = places[*position].shard;
        (tensors[*position].name.clone(), json!(shards[shard].name))
    };
    let map: Map<String, Value> = order.iter().map(entry).collect();
    let index = json!({
        "metadata": {"total_parameters": weights, "total_size": bytes},
        "weight_map": map,
    });
    // Strings and numbers always serialize.
    let mut text = serde_json::to_vec_pretty(&index).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Names with their numbers as numbers: layer 10 comes after layer 9.
fn natural_order(a: &str, b: &str) -> Ordering {
    let parts = |name: &str| -> Vec<(u128, String)> {
        name.split('.')
            .map(|part| match part.parse() {
                Ok(number) => (number, String::new()),
                Err(_) => (u128::MAX, part.to_owned()),
            })
            .collect()
    };
    parts(a).cmp(&parts(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let check = |sorted: &[&str]| {
            let mut names = sorted.to_vec();
            names.reverse();
            names.sort_by(|a, b| natural_order(a, b));
            assert_eq!(names, sorted);
        };
        check(&["a.2.w", "a.10.w", "a.10.x", "a.b"]);
        check(&["lm_head.weight", "model.embed_tokens.weight", "model.layers.0.w", "model.norm.w"]);
        check(&["a.07", "a.7"]);
    }

    #[test]
    fn shards_hold_what_fits() {
        let check = |sizes: &[u64], limit: u64, expected: &[&[usize]]| {
            let order: Vec<usize> = (0..sizes.len()).collect();
            assert_eq!(split(&order, sizes, limit), expected, "{sizes:?} in {limit}");
        };
        check(&[], 10, &[&[]]);
        check(&[4, 4, 2], 10, &[&[0, 1, 2]]);
        check(&[4, 4, 3], 10, &[&[0, 1], &[2]]);
        check(&[40, 4, 40, 4], 10, &[&[0], &[1], &[2], &[3]]);
        check(&[0, 0, 11, 0], 10, &[&[0, 1], &[2], &[3]]);
    }
}
