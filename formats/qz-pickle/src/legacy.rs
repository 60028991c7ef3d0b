//! Files of `torch.save` before PyTorch 1.6, or with
//! `_use_new_zipfile_serialization=False`: pickles one behind the other (a magic
//! number, a version, facts of the machine, the checkpoint, the storages' keys),
//! then each storage with its element count before it.
//!
//! Layout: `torch/serialization.py`, `_legacy_save` and `_legacy_load`.

use std::collections::HashMap;

use qz_shards::shown;
use qz_tensor::SourceFile;

use crate::cursor::Cursor;
use crate::error::{Error, Fault};
use crate::heap::Value;
use crate::machine::{self, MAX_PICKLE, Unpickled};
use crate::state::{Found, State, StorageData, Storages};

/// The pickle of the magic number 0x1950a86a20f9469cfc6c.
pub(crate) const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The one version there was.
const VERSION: i64 = 1001;

/// Reads the tensors of such a file.
pub(crate) fn read(file: &SourceFile) -> Result<Vec<Found>, Error> {
    let mut at = MAGIC.len() as u64;
    let (version, _) = next_pickle(file, &mut at)?;
    if !matches!(version.root, Value::Int(VERSION)) {
        let fault = Fault::OldLayout("a file of an unknown version of the older layout");
        return Err(Error::at(file.path(), MAGIC.len() as u64, fault));
    }
    let (machine, machine_at) = next_pickle(file, &mut at)?;
    if is_big_endian(&machine) {
        return Err(Error::at(file.path(), machine_at, Fault::BigEndian));
    }
    let (pickle, pickle_at) = next_pickle(file, &mut at)?;
    let (keys, keys_at) = next_pickle(file, &mut at)?;
    let state = State { file, pickle: &pickle, at: pickle_at };
    let storages = find_storages(&state, &keys, keys_at, at)?;
    state.tensors(&storages)
}

/// Runs the pickle at `at`, which moves behind it; returns where it was, too.
fn next_pickle(file: &SourceFile, at: &mut u64) -> Result<(Unpickled, u64), Error> {
    let start = *at;
    let end = file.len().min(start.saturating_add(MAX_PICKLE));
    let mut cursor = Cursor::new(file, start..end);
    let pickle = machine::run(&mut cursor).map_err(|error| match error {
        // Only a pickle that the limit cut is too long.
        Error::Malformed { location, fault }
            if end < file.len() && matches!(*fault, Fault::TruncatedPickle { .. }) =>
        {
            let fault = Box::new(Fault::PickleTooLong(file.len().saturating_sub(start)));
            Error::Malformed { location, fault }
        }
        error => error,
    })?;
    *at = cursor.position();
    Ok((pickle, start))
}

/// What the facts of the machine say of its byte order.
fn is_big_endian(machine: &Unpickled) -> bool {
    let Value::Dict(facts) = machine.root else { return false };
    machine.heap.dict(facts).entries.iter().any(|(key, value)| {
        matches!((key, value), (Value::Text(key), Value::Bool(false))
            if machine.heap.text(*key) == "little_endian")
    })
}

/// Where each storage lies: they come in the order of `keys`, from `at` on to the
/// end of the file.
fn find_storages(
    state: &State<'_>,
    keys: &Unpickled,
    keys_at: u64,
    mut at: u64,
) -> Result<Storages, Error> {
    let file = state.file;
    let fail = |at, fault| Error::at(file.path(), at, fault);
    let mut named = HashMap::new();
    for call in state.pickle.heap.storages() {
        let storage = state.storage_call(*call).map_err(|fault| fail(call.at, fault))?;
        named.insert(storage.key, storage);
    }
    let Value::List(keys_list) = keys.root else {
        let found = keys.root.kind();
        let fault = Fault::WrongValue { expected: "a list of the storages' keys", found };
        return Err(fail(keys_at, fault));
    };
    let mut storages = Storages::new();
    for key in keys.heap.list(keys_list) {
        let Value::Text(key) = *key else {
            let fault = Fault::WrongValue { expected: "a storage's key", found: key.kind() };
            return Err(fail(keys_at, fault));
        };
        let key = keys.heap.text(key);
        let Some(storage) = named.get(key) else {
            return Err(fail(keys_at, Fault::MissingStorage(format!("\"{}\"", shown(key)))));
        };
        let mut count = [0; 8];
        let left = file.len().saturating_sub(at);
        let missing = |needed| Fault::StorageMissing { key: shown(key), needed, left };
        if left < count.len() as u64 {
            return Err(fail(at, missing(8)));
        }
        file.read_exact_at(at, &mut count)?;
        let found = u64::from_le_bytes(count);
        if found != storage.elements {
            let found = found.saturating_mul(storage.element_bytes());
            let (key, expected) = (shown(key), storage.bytes());
            return Err(fail(at, Fault::StorageSize { key, expected, found }));
        }
        let needed = storage.bytes().saturating_add(8);
        let bytes = match u64::try_from(needed) {
            Ok(needed) if needed <= left => needed.saturating_sub(8),
            _ => return Err(fail(at, missing(needed))),
        };
        let offset = at.saturating_add(8);
        let data = StorageData { offset, bytes };
        if storages.insert(key.to_owned(), data).is_some() {
            return Err(fail(keys_at, Fault::DuplicateEntry(shown(key))));
        }
        at = offset.saturating_add(bytes);
    }
    match file.len().saturating_sub(at) {
        0 => Ok(storages),
        behind => Err(fail(at, Fault::TrailingBytes(behind))),
    }
}
