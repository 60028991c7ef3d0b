//! From the values of a pickle to tensors: which dictionary is the state_dict, and
//! what each of its tensors is made of.

use std::collections::{HashMap, HashSet};

use qz_shards::{check_tensor, shown};
use qz_tensor::{DataType, MAX_RANK, Shape, SizeError, SourceFile, TensorInfo};

use crate::error::{Error, Fault};
use crate::globals::Global;
use crate::heap::{Call, Dict, Span, Value};
use crate::machine::Unpickled;
use crate::strided::Strided;

/// Keys under which training programs put the state_dict.
const WRAPPERS: &[&str] = &["state_dict", "model_state_dict", "model", "module"];

/// Where the bytes of a storage lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StorageData {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The storages of a file by key.
pub(crate) type Storages = HashMap<String, StorageData>;

/// What the pickle says of a storage.
#[derive(Clone, Copy)]
pub(crate) struct StorageCall<'a> {
    pub(crate) key: &'a str,
    /// None for untyped bytes.
    pub(crate) data_type: Option<DataType>,
    /// Elements; of an untyped one bytes.
    pub(crate) elements: u64,
}

impl StorageCall<'_> {
    pub(crate) fn element_bytes(&self) -> u64 {
        self.data_type.map_or(1, |data_type| data_type.block_bytes() as u64)
    }

    pub(crate) fn bytes(&self) -> u128 {
        u128::from(self.elements).saturating_mul(self.element_bytes().into())
    }
}

/// A tensor and, if its elements do not lie in a row, how they do.
pub(crate) type Found = (TensorInfo, Option<Strided>);

/// A pickle with the file it is from.
pub(crate) struct State<'a> {
    pub(crate) file: &'a SourceFile,
    pub(crate) pickle: &'a Unpickled,
    /// Where the pickle begins.
    pub(crate) at: u64,
}

impl State<'_> {
    /// The tensors of the state_dict, in its order.
    pub(crate) fn tensors(&self, storages: &Storages) -> Result<Vec<Found>, Error> {
        let dict = self.state_dict()?;
        let mut names = HashSet::new();
        let mut found = Vec::new();
        for (key, value) in &dict.entries {
            let Value::Text(name) = *key else {
                return Err(self.no_state_dict(format!("a key is {}", key.kind())));
            };
            let name = self.pickle.heap.text(name);
            let Value::Tensor(tensor) = *value else {
                let what = format!("\"{}\" is {}, not a tensor", shown(name), value.kind());
                return Err(self.no_state_dict(what));
            };
            let call = self.pickle.heap.tensor(tensor);
            let tensor = check_tensor(name)
                .map_err(Fault::from)
                .and_then(|()| match names.insert(name) {
                    true => self.tensor(name, call, storages),
                    false => Err(Fault::DuplicateTensor),
                })
                .map_err(|fault| Error::at(self.file.path(), call.at, fault).inside(name))?;
            found.push(tensor);
        }
        Ok(found)
    }

    fn no_state_dict(&self, what: String) -> Error {
        Error::at(self.file.path(), self.at, Fault::NoStateDict(what))
    }

    /// The result if it has tensors, else the one dictionary of tensors in it.
    fn state_dict(&self) -> Result<&Dict, Error> {
        let root = match self.pickle.root {
            Value::Dict(root) => self.pickle.heap.dict(root),
            other => return Err(self.no_state_dict(format!("the pickle is {}", other.kind()))),
        };
        if root.entries.is_empty() || has_tensor(root) {
            return Ok(root);
        }
        let nested = root.entries.iter().filter_map(|(key, value)| match (key, value) {
            (Value::Text(key), Value::Dict(dict)) => {
                let dict = self.pickle.heap.dict(*dict);
                has_tensor(dict).then(|| (self.pickle.heap.text(*key), dict))
            }
            _ => None,
        });
        // Few are shown, so few are kept.
        let nested: Vec<(&str, &Dict)> = nested.take(10).collect();
        match nested[..] {
            [(key, dict)] if WRAPPERS.contains(&key) => Ok(dict),
            [] => Err(self.no_state_dict("the dictionary has no tensors".to_owned())),
            _ => {
                let keys: Vec<String> =
                    nested.iter().map(|(key, _)| format!("\"{}\"", shown(key))).collect();
                Err(self.no_state_dict(format!(
                    "the dictionary has tensors below {}; expected the tensors themselves, or one \
                     such key of {}",
                    keys.join(", "),
                    WRAPPERS.join(", ")
                )))
            }
        }
    }

    fn tensor(&self, name: &str, call: Call, storages: &Storages) -> Result<Found, Fault> {
        let arguments = self.arguments(call)?;
        let storage = self.storage(arguments.storage)?;
        let data_type = match (arguments.data_type, storage.data_type) {
            (Some(data_type), None) | (None, Some(data_type)) => data_type,
            (Some(_), Some(_)) => return Err(Fault::Arguments("two element types".to_owned())),
            (None, None) => return Err(Fault::Arguments("no element type".to_owned())),
        };
        let data = storages
            .get(storage.key)
            .ok_or_else(|| Fault::MissingStorage(format!("\"{}\"", shown(storage.key))))?;
        if u128::from(data.bytes) != storage.bytes() {
            let (key, expected, found) = (shown(storage.key), storage.bytes(), data.bytes);
            return Err(Fault::StorageSize { key, expected, found });
        }
        let element_bytes = data_type.block_bytes() as u64;
        let elements = data.bytes.checked_div(element_bytes).unwrap_or(0);
        let View { offset, shape, strides } = arguments.view;
        check_inside(offset, &shape, &strides, elements)?;
        check_apart(&shape, &strides)?;
        let size_fault = |source| Fault::Size { shape: shape.clone(), source };
        let checked = Shape::new(&shape).map_err(size_fault)?;
        let bytes = checked.byte_size(data_type).map_err(size_fault)?;
        let strided = Strided::new(&shape, &strides, data_type.block_bytes());
        // Inside the storage, which is inside the file.
        let offset = data.offset.saturating_add(offset.saturating_mul(element_bytes));
        let file = self.file.path().clone();
        let name = name.into();
        Ok((TensorInfo { name, data_type, shape: checked, file, offset, bytes }, strided))
    }

    fn arguments(&self, call: Call) -> Result<Arguments, Fault> {
        let values = self.pickle.heap.items(call.arguments);
        let (first, rest) = values.split_at(values.len().min(4));
        let [Value::Storage(storage), offset, shape, strides] = *first else {
            return Err(Fault::Arguments(format!("{} arguments", values.len())));
        };
        // Behind them: requires_grad, hooks, the element type in version 3, and what
        // is rarely there.
        let (data_type, metadata) = match (call.function, rest) {
            (Global::RebuildTensor, []) => (None, None),
            (Global::RebuildTensorV2, [_, _]) => (None, None),
            (Global::RebuildTensorV2, [_, _, metadata]) => (None, Some(metadata)),
            (Global::RebuildTensorV3, [_, _, Value::Global(Global::DataType(data_type))]) => {
                (Some(*data_type), None)
            }
            (
                Global::RebuildTensorV3,
                [_, _, Value::Global(Global::DataType(data_type)), metadata],
            ) => (Some(*data_type), Some(metadata)),
            _ => return Err(Fault::Arguments(format!("{} arguments", values.len()))),
        };
        match metadata {
            None | Some(Value::None) => {}
            Some(Value::Dict(dict)) if self.pickle.heap.dict(*dict).entries.is_empty() => {}
            // Conjugation and negation that were put off.
            Some(_) => return Err(Fault::Unsupported("metadata")),
        }
        let shape = self.numbers(shape, "sizes")?;
        let strides = self.numbers(strides, "strides")?;
        if shape.len() != strides.len() {
            let what = format!("{} sizes and {} strides", shape.len(), strides.len());
            return Err(Fault::Arguments(what));
        }
        let offset = number(offset, "offset")?;
        Ok(Arguments { storage, data_type, view: View { offset, shape, strides } })
    }

    fn numbers(&self, value: Value, what: &str) -> Result<Vec<u64>, Fault> {
        let Value::Tuple(items) = value else {
            return Err(Fault::Arguments(format!("{} as {what}", value.kind())));
        };
        let items = self.pickle.heap.items(items);
        if items.len() > MAX_RANK {
            let source = SizeError::Rank(items.len());
            return Err(Fault::Size { shape: Vec::new(), source });
        }
        items.iter().map(|item| number(*item, what)).collect()
    }

    /// What the pickle says of the storage with this number.
    fn storage(&self, number: u32) -> Result<StorageCall<'_>, Fault> {
        self.storage_call(self.pickle.heap.storage(number))
    }

    /// What `call`, which names a storage, says of it: after the word and the class
    /// its key, the device it was on, how many elements; in older files also what it
    /// is a view of.
    pub(crate) fn storage_call(&self, call: Call) -> Result<StorageCall<'_>, Fault> {
        let wrong = || Fault::Arguments("a storage with unknown arguments".to_owned());
        let Global::Storage(data_type) = call.function else { return Err(wrong()) };
        let items = self.pickle.heap.items(call.arguments);
        let (key, elements) = match items {
            [_, _, Value::Text(key), Value::Text(_), elements]
            | [_, _, Value::Text(key), Value::Text(_), elements, Value::None] => (*key, *elements),
            [_, _, _, _, _, Value::Tuple(_)] => {
                return Err(Fault::Unsupported("a storage that is a view of another"));
            }
            _ => return Err(wrong()),
        };
        let elements = self::number(elements, "elements of its storage")?;
        Ok(StorageCall { key: self.text(key), data_type, elements })
    }

    pub(crate) fn text(&self, text: Span) -> &str {
        self.pickle.heap.text(text)
    }
}

/// What a tensor is made of.
struct Arguments {
    storage: u32,
    /// In version 3, whose storages have none.
    data_type: Option<DataType>,
    view: View,
}

/// The part of its storage that a tensor is, in elements.
struct View {
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

fn has_tensor(dict: &Dict) -> bool {
    dict.entries.iter().any(|(_, value)| matches!(value, Value::Tensor(_)))
}

fn number(value: Value, what: &str) -> Result<u64, Fault> {
    match value {
        Value::Int(number) => {
            u64::try_from(number).map_err(|_| Fault::Arguments(format!("{number} as {what}")))
        }
        other => Err(Fault::Arguments(format!("{} as {what}", other.kind()))),
    }
}

/// Checks that every element lies before the storage's end.
fn check_inside(offset: u64, shape: &[u64], strides: &[u64], elements: u64) -> Result<(), Fault> {
    let outside = |last| Err(Fault::OutsideStorage { last, elements });
    if shape.contains(&0) {
        return if offset <= elements { Ok(()) } else { outside(offset.into()) };
    }
    let last = shape.iter().zip(strides).fold(u128::from(offset), |last, (size, stride)| {
        let steps = u128::from(size.saturating_sub(1));
        last.saturating_add(steps.saturating_mul((*stride).into()))
    });
    if last < u128::from(elements) { Ok(()) } else { outside(last) }
}

/// Checks that no two elements lie in one place: each dimension steps over all that
/// those with smaller strides reach.
fn check_apart(shape: &[u64], strides: &[u64]) -> Result<(), Fault> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut steps: Vec<(u64, u64)> = strides.iter().copied().zip(shape.iter().copied()).collect();
    steps.sort_unstable();
    let mut reach = 0u64;
    for (stride, size) in steps.into_iter().filter(|(_, size)| *size > 1) {
        if stride <= reach {
            let (shape, strides) = (shape.to_vec(), strides.to_vec());
            return Err(Fault::OverlappingStrides { shape, strides });
        }
        // Inside the storage: the sum has been checked.
        reach = reach.saturating_add(size.saturating_sub(1).saturating_mul(stride));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_end_inside_their_storage() {
        let check = |offset: u64, shape: &[u64], strides: &[u64], expected: bool| {
            let found = check_inside(offset, shape, strides, 12).is_ok();
            assert_eq!(found, expected, "{offset} {shape:?} {strides:?}");
        };
        check(0, &[3, 4], &[4, 1], true);
        check(1, &[3, 4], &[4, 1], false);
        check(0, &[4, 3], &[1, 4], true);
        check(11, &[], &[], true);
        check(12, &[], &[], false);
        check(12, &[0], &[1], true);
        check(13, &[0], &[1], false);
        let most = i64::MAX as u64;
        check(most, &[most; 8], &[most; 8], false);
    }

    #[test]
    fn views_do_not_overlap_themselves() {
        let check = |shape: &[u64], strides: &[u64], expected: bool| {
            assert_eq!(check_apart(shape, strides).is_ok(), expected, "{shape:?} {strides:?}");
        };
        check(&[3, 4], &[4, 1], true);
        check(&[4, 3], &[1, 4], true);
        check(&[3, 2], &[4, 1], true);
        check(&[1, 4], &[0, 1], true);
        check(&[0, 4], &[0, 0], true);
        check(&[2, 4], &[0, 1], false);
        check(&[3, 4], &[3, 1], false);
        check(&[2, 2], &[1, 1], false);
        check(&[4], &[0], false);
    }
}
