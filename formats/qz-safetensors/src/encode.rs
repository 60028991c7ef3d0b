//! Where every byte of a model's files goes: shards, headers, the index.

use std::cmp::Ordering;
use std::path::Path;

use qz_tensor::{Location, SinkTensor, TensorIndex};
use serde_json::{Map, Value, json};

use crate::error::{Error, Fault};
use crate::header::MAX_HEADER;
use crate::index::MAX_SHARDS;
use crate::model::SINGLE_NAME;
use crate::names::{check_tensor, find_alike};

/// Bytes of a shard's data, as transformers 5 has it (`save_pretrained`,
/// `max_shard_size`). A larger tensor gets a shard of its own.
pub const DEFAULT_SHARD_SIZE: u64 = 50_000_000_000;

/// Headers are filled up with spaces to a multiple of this, as the `safetensors`
/// package does, so that data begins where any element type may.
const ALIGNMENT: usize = 8;

/// The files of a model, laid out.
pub(crate) struct Layout {
    pub(crate) shards: Vec<ShardLayout>,
    /// `model.safetensors.index.json`, if there are several shards.
    pub(crate) index: Option<Vec<u8>>,
    /// Of each tensor, in the caller's order.
    pub(crate) places: Vec<Place>,
}

/// One file of weights.
pub(crate) struct ShardLayout {
    pub(crate) name: String,
    /// Length and header, as they stand at the beginning of the file.
    pub(crate) start: Vec<u8>,
    /// Bytes of the whole file.
    pub(crate) size: u64,
}

/// Where a tensor's data lies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    /// From the start of the file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Lays out `tensors` in files of `folder` with at most `shard_size` bytes of data
/// each. Tensors are in the natural order of their names.
pub(crate) fn layout(
    folder: &Path,
    tensors: &[SinkTensor],
    shard_size: u64,
) -> Result<Layout, Error> {
    let sizes = check(folder, tensors)?;
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|a, b| natural_order(&tensors[*a].name, &tensors[*b].name));
    let parts = split(&order, &sizes, shard_size);
    if parts.len() > MAX_SHARDS {
        return Err(Error::new(folder, Fault::TooManyShards));
    }
    let mut places = vec![Place::default(); tensors.len()];
    let mut shards = Vec::with_capacity(parts.len());
    for (shard, part) in parts.iter().enumerate() {
        let name = match parts.len() {
            1 => SINGLE_NAME.to_owned(),
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
        check_tensor(&tensor.name).map_err(|fault| fail(tensor, fault))?;
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
            Err(fail(&tensors[second], Fault::CaseOnly(names[first].to_owned())))
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
        return Err(Error::new(path, Fault::HeaderTooLong(length)));
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

/// A tensor's journal record. Escaped, since a record is one line.
pub(crate) fn record(index: TensorIndex, name: &str) -> String {
    format!("{} {}", index.0, name.escape_default())
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
