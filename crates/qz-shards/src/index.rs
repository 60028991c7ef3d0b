//! The index of a sharded checkpoint: which shard holds which tensor.

use std::collections::{HashMap, HashSet};
use std::fmt;

use qz_tensor::{SourceFile, TensorInfo, recognise};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::error::{Error, Fault};
use crate::json::{Key, Skip, Stash, TextFault, parse, with_tagged_floats, without_mark};
use crate::names::check_shard;

/// Longest index in bytes. The largest known one has about ten million.
pub const MAX_INDEX: u64 = 100_000_000;

/// Most shards of one model: all are held open. The largest known models have
/// a few hundred.
pub const MAX_SHARDS: usize = 4096;

/// Which shard holds which tensor.
#[derive(Default)]
pub(crate) struct Index {
    /// Shard names, each once, sorted.
    pub(crate) shards: Vec<String>,
    /// For each tensor the position of its shard in `shards`.
    pub(crate) tensors: HashMap<String, usize>,
}

/// Reads an index.
pub(crate) fn read(file: &SourceFile) -> Result<Index, Error> {
    if file.len() > MAX_INDEX {
        return Err(Error::at(file.path(), 0, Fault::IndexTooLong(file.len())));
    }
    // At most MAX_INDEX, so the cast is exact.
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(0, &mut bytes)?;
    let own = without_mark(&bytes);
    let begin = bytes.len() - own.len();
    let text = str::from_utf8(own).map_err(|error| {
        let offset = begin + error.valid_up_to();
        Error::at(file.path(), offset as u64, TextFault::Utf8("index").into())
    })?;
    let parsed = |text: &str| {
        let stash = Stash::default();
        parse(text, &stash, IndexSeed(&stash))
    };
    // Only a text that is not JSON is looked through for what Python writes.
    let index = parsed(text).or_else(|broken| match with_tagged_floats(own) {
        Some(text) => str::from_utf8(&text).map_or(Err(broken), parsed),
        None => Err(broken),
    });
    let index = index.map_err(|broken| {
        let fault = match (&broken.fault, recognise(&bytes)) {
            (Fault::Text(TextFault::Json(_)), Some(found)) => Fault::NotAnIndex(found),
            _ => broken.fault,
        };
        Error::at(file.path(), (begin + broken.offset) as u64, fault).inside(broken.name)
    })?;
    Ok(index.sorted())
}

impl Index {
    /// The tensors that lie in the shards which the index names for them; `shards` are
    /// the tensors of each.
    pub(crate) fn holders<'t>(
        &self,
        shards: impl Iterator<Item = &'t [TensorInfo]>,
    ) -> HashSet<String> {
        let of_shard = |(number, own): (usize, &'t [TensorInfo])| {
            own.iter().filter(move |tensor| self.tensors.get(&*tensor.name) == Some(&number))
        };
        shards.enumerate().flat_map(of_shard).map(|tensor| tensor.name.to_string()).collect()
    }

    fn sorted(mut self) -> Self {
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        order.sort_unstable_by(|a, b| self.shards[*a].cmp(&self.shards[*b]));
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, old)| place[*old] = new);
        self.tensors.values_mut().for_each(|shard| *shard = place[*shard]);
        self.shards.sort_unstable();
        self
    }
}

struct IndexSeed<'s>(&'s Stash<Fault>);

impl<'de> DeserializeSeed<'de> for IndexSeed<'_> {
    type Value = Index;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Index, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for IndexSeed<'_> {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an index that is an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Index, A::Error> {
        let mut index = None;
        while let Some(Key(field)) = fields.next_key::<Key<'de>>()? {
            if field != "weight_map" {
                fields.next_value::<Skip>()?;
            } else if index.replace(fields.next_value_seed(WeightMapSeed(self.0))?).is_some() {
                return Err(self.0.fail(TextFault::DuplicateField(field.into_owned())));
            }
        }
        index.ok_or_else(|| self.0.fail(TextFault::MissingField("weight_map")))
    }
}

struct WeightMapSeed<'s>(&'s Stash<Fault>);

impl<'de> DeserializeSeed<'de> for WeightMapSeed<'_> {
    type Value = Index;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Index, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMapSeed<'_> {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a `weight_map` that is an object of shard names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Index, A::Error> {
        let stash = self.0;
        let mut index = Index::default();
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some(name) = entries.next_key::<String>()? {
            let Key(shard) = entries.next_value::<Key<'de>>().map_err(stash.inside(&name))?;
            let fail = |fault| stash.inside::<A::Error>(&name)(stash.fail(fault));
            let place = match places.get(&*shard) {
                Some(place) => *place,
                None => {
                    check_shard(&shard).map_err(fail)?;
                    if index.shards.len() == MAX_SHARDS {
                        return Err(fail(Fault::TooManyShards));
                    }
                    let place = index.shards.len();
                    index.shards.push(shard.clone().into_owned());
                    places.insert(shard.into_owned(), place);
                    place
                }
            };
            if index.tensors.contains_key(&name) {
                return Err(fail(Fault::DuplicateTensor));
            }
            index.tensors.insert(name, place);
        }
        Ok(index)
    }
}
