//! Reading a file's header: a length, then a JSON object.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use qz_shards::json::{Key, Skip, Stash, TextFault, parse};
use qz_shards::{check_tensor, shown};
use qz_tensor::{
    DataType, MAX_RANK, Metadata, Shape, SizeError, SourceFile, TensorInfo, Texts, Value, recognise,
};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Fault};

/// Longest header in bytes (the format's own limit).
pub const MAX_HEADER: u64 = 100_000_000;

/// Bytes of the header's length.
const LENGTH_BYTES: u64 = 8;

/// The key that holds no tensor.
const METADATA_KEY: &str = "__metadata__";

/// What a header says. Nothing of it has been compared with the data yet.
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    /// In the order of the header; offsets count from `data_start`.
    pub(crate) tensors: Vec<TensorInfo>,
    /// Where the data begins, in bytes from the start of the file.
    pub(crate) data_start: u64,
}

/// Reads the header of `file`.
pub(crate) fn read(file: &SourceFile) -> Result<Header, Error> {
    let length = read_length(file)?;
    // At most MAX_HEADER, so the cast is exact.
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(LENGTH_BYTES, &mut bytes)?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let offset = LENGTH_BYTES.saturating_add(error.valid_up_to() as u64);
        Error::at(file.path(), offset, TextFault::Utf8("header").into())
    })?;
    let stash = Stash::default();
    let (metadata, tensors) = parse(text, &stash, HeaderSeed { path: file.path(), stash: &stash })
        .map_err(|broken| {
            let offset = LENGTH_BYTES.saturating_add(broken.offset as u64);
            Error::at(file.path(), offset, broken.fault).inside(broken.name)
        })?;
    Ok(Header { metadata, tensors, data_start: LENGTH_BYTES.saturating_add(length) })
}

/// True if bytes look like the beginning of a file.
pub(crate) fn is_start(bytes: &[u8]) -> bool {
    let Some((length, json)) = bytes.split_first_chunk::<8>() else { return false };
    (1..=MAX_HEADER).contains(&u64::from_le_bytes(*length)) && json.starts_with(b"{\"")
}

/// The header's length: not zero, allowed, and inside the file.
fn read_length(file: &SourceFile) -> Result<u64, Error> {
    // No longer than the file, so the cast is exact.
    let mut start = vec![0; file.len().min(64) as usize];
    file.read_exact_at(0, &mut start)?;
    let Some(length) = start.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        let fault = match recognise(&start) {
            Some(found) => Fault::NotSafetensors(found),
            None => Fault::TruncatedHeader { needed: LENGTH_BYTES, length: file.len() },
        };
        return Err(Error::at(file.path(), 0, fault));
    };
    let needed = length.saturating_add(LENGTH_BYTES);
    let fault = match length {
        1..=MAX_HEADER if needed <= file.len() => return Ok(length),
        1..=MAX_HEADER => Fault::TruncatedHeader { needed, length: file.len() },
        0 => recognise(&start).map_or(Fault::EmptyHeader, Fault::NotSafetensors),
        _ => recognise(&start).map_or(Fault::HeaderTooLong(length), Fault::NotSafetensors),
    };
    Err(Error::at(file.path(), 0, fault))
}

/// The whole header.
struct HeaderSeed<'s> {
    path: &'s Arc<Path>,
    stash: &'s Stash<Fault>,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = (Metadata, Vec<TensorInfo>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = (Metadata, Vec<TensorInfo>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header that is an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let Self { path, stash } = self;
        let mut metadata = None;
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        while let Some(key) = entries.next_key::<Key<'de>>()? {
            let name = &*key.0;
            let fail = |fault: Fault| stash.inside::<A::Error>(name)(stash.fail(fault));
            if name == METADATA_KEY {
                if metadata.is_some() {
                    return Err(fail(TextFault::DuplicateField(METADATA_KEY.to_owned()).into()));
                }
                metadata =
                    Some(entries.next_value_seed(StringsSeed(stash)).map_err(stash.inside(name))?);
                continue;
            }
            check_tensor(name).map_err(|invalid| fail(invalid.into()))?;
            let entry = entries.next_value_seed(EntrySeed(stash)).map_err(stash.inside(name))?;
            tensors.push(entry.tensor(path, name).map_err(fail)?);
            if !names.insert(key.clone()) {
                return Err(fail(Fault::DuplicateTensor));
            }
        }
        Ok((metadata.unwrap_or_default(), tensors))
    }
}

/// An object of strings.
struct StringsSeed<'s>(&'s Stash<Fault>);

impl<'de> DeserializeSeed<'de> for StringsSeed<'_> {
    type Value = Metadata;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Metadata, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StringsSeed<'_> {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata that is an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Metadata, A::Error> {
        let (mut keys, mut values) = (Texts::default(), Vec::new());
        while let Some((key, value)) = entries.next_entry::<String, String>()? {
            keys.push(&key);
            values.push(Value::String(value));
        }
        Metadata::from_unique(keys, values)
            .map_err(|key| self.0.fail(TextFault::DuplicateField(shown(&key))))
    }
}

/// What the header says of one tensor.
struct Entry {
    data_type: DataType,
    dimensions: Vec<u64>,
    begin: u64,
    end: u64,
}

impl Entry {
    fn tensor(self, path: &Arc<Path>, name: &str) -> Result<TensorInfo, Fault> {
        let Self { data_type, dimensions, begin, end } = self;
        let shape = Shape::new(&dimensions)
            .map_err(|source| Fault::Size { shape: dimensions.clone(), source })?;
        let expected = shape
            .byte_size(data_type)
            .map_err(|source| Fault::Size { shape: dimensions, source })?;
        let found = end.checked_sub(begin).ok_or(Fault::InvertedRange { begin, end })?;
        if found != expected {
            return Err(Fault::WrongSize { data_type, shape, expected, found });
        }
        let name = name.into();
        Ok(TensorInfo { name, data_type, shape, file: path.clone(), offset: begin, bytes: found })
    }
}

struct EntrySeed<'s>(&'s Stash<Fault>);

impl<'de> DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `dtype`, `shape` and `data_offsets`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Entry, A::Error> {
        let stash = self.0;
        let (mut data_type, mut dimensions, mut range) = (None, None, None);
        while let Some(Key(field)) = fields.next_key::<Key<'de>>()? {
            let twice = match &*field {
                "dtype" => {
                    let Key(name) = fields.next_value::<Key<'de>>()?;
                    let known = DataType::from_safetensors(&name).ok_or_else(|| {
                        stash.fail(Fault::UnknownType(format!("\"{}\"", shown(&name))))
                    })?;
                    data_type.replace(known).is_some()
                }
                "shape" => dimensions.replace(fields.next_value_seed(ShapeSeed(stash))?).is_some(),
                "data_offsets" => range.replace(fields.next_value::<[u64; 2]>()?).is_some(),
                _ => {
                    fields.next_value::<Skip>()?;
                    false
                }
            };
            if twice {
                return Err(stash.fail(TextFault::DuplicateField(field.into_owned())));
            }
        }
        let missing = |field| move || stash.fail(TextFault::MissingField(field));
        let data_type = data_type.ok_or_else(missing("dtype"))?;
        let dimensions = dimensions.ok_or_else(missing("shape"))?;
        let [begin, end] = range.ok_or_else(missing("data_offsets"))?;
        Ok(Entry { data_type, dimensions, begin, end })
    }
}

/// A list of dimensions, of which no more than can be used are kept.
struct ShapeSeed<'s>(&'s Stash<Fault>);

impl<'de> DeserializeSeed<'de> for ShapeSeed<'_> {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u64>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed<'_> {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<u64>, A::Error> {
        let mut shape = Vec::new();
        let mut rank = 0usize;
        while let Some(dimension) = items.next_element::<u64>()? {
            rank = rank.saturating_add(1);
            if rank <= MAX_RANK {
                shape.push(dimension);
            }
        }
        if rank > MAX_RANK {
            let source = SizeError::Rank(rank);
            return Err(self.0.fail(Fault::Size { shape, source }));
        }
        Ok(shape)
    }
}
