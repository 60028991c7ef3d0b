//! The values that a pickle builds. A value is small and copied freely; what is
//! large lies in the heap, by number. So a value that contains itself a million
//! times over, or a million deep, costs what its pickle has bytes.

use crate::globals::Global;

/// One value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A number that no tensor needs.
    Float,
    /// Bytes, which no tensor needs.
    Bytes,
    Text(Span),
    Tuple(Span),
    List(u32),
    Dict(u32),
    Global(Global),
    Storage(u32),
    Tensor(u32),
}

/// A part of the heap's texts or of its tuples' items.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    start: u32,
    length: u32,
}

/// A dictionary's entries in the order they came; of equal keys all.
#[derive(Debug, Default)]
pub(crate) struct Dict {
    pub(crate) entries: Vec<(Value, Value)>,
    /// Made by `collections.OrderedDict`, which may have attributes.
    pub(crate) is_ordered: bool,
}

/// A call that made something: noted, and looked into when it is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// What was called; of a storage what made the reference.
    pub(crate) function: Global,
    pub(crate) arguments: Span,
    /// The opcode's offset.
    pub(crate) at: u64,
}

/// Everything that values refer to.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    text: String,
    items: Vec<Value>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Dict>,
    storages: Vec<Call>,
    tensors: Vec<Call>,
}

/// Sizes are bounded by the limits of the machine, far below 2^32.
fn span(start: usize, end: usize) -> Span {
    let number = |size| u32::try_from(size).unwrap_or(u32::MAX);
    Span { start: number(start), length: number(end - start) }
}

fn range(Span { start, length }: Span) -> std::ops::Range<usize> {
    start as usize..start as usize + length as usize
}

fn push<T>(all: &mut Vec<T>, new: T) -> u32 {
    all.push(new);
    u32::try_from(all.len() - 1).unwrap_or(u32::MAX)
}

impl Heap {
    pub(crate) fn add_text(&mut self, text: &str) -> Value {
        let start = self.text.len();
        self.text.push_str(text);
        Value::Text(span(start, self.text.len()))
    }

    pub(crate) fn text(&self, text: Span) -> &str {
        &self.text[range(text)]
    }

    pub(crate) fn add_tuple(&mut self, items: impl IntoIterator<Item = Value>) -> Value {
        let start = self.items.len();
        self.items.extend(items);
        Value::Tuple(span(start, self.items.len()))
    }

    pub(crate) fn items(&self, tuple: Span) -> &[Value] {
        &self.items[range(tuple)]
    }

    pub(crate) fn add_list(&mut self) -> Value {
        Value::List(push(&mut self.lists, Vec::new()))
    }

    pub(crate) fn add_dict(&mut self, is_ordered: bool) -> Value {
        Value::Dict(push(&mut self.dicts, Dict { entries: Vec::new(), is_ordered }))
    }

    pub(crate) fn add_storage(&mut self, call: Call) -> Value {
        Value::Storage(push(&mut self.storages, call))
    }

    pub(crate) fn add_tensor(&mut self, call: Call) -> Value {
        Value::Tensor(push(&mut self.tensors, call))
    }

    pub(crate) fn dict(&self, number: u32) -> &Dict {
        &self.dicts[number as usize]
    }

    pub(crate) fn dict_mut(&mut self, number: u32) -> &mut Dict {
        &mut self.dicts[number as usize]
    }

    pub(crate) fn list(&self, number: u32) -> &[Value] {
        &self.lists[number as usize]
    }

    pub(crate) fn list_mut(&mut self, number: u32) -> &mut Vec<Value> {
        &mut self.lists[number as usize]
    }

    pub(crate) fn storage(&self, number: u32) -> Call {
        self.storages[number as usize]
    }

    pub(crate) fn storages(&self) -> &[Call] {
        &self.storages
    }

    pub(crate) fn tensor(&self, number: u32) -> Call {
        self.tensors[number as usize]
    }

    /// How many things there are that a value refers to by number.
    pub(crate) fn objects(&self) -> usize {
        self.lists.len() + self.dicts.len() + self.storages.len() + self.tensors.len()
    }
}

impl Value {
    /// What kind of value it is, for a message.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "a whole number",
            Self::Float => "a float",
            Self::Bytes => "bytes",
            Self::Text(_) => "a text",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a class or function",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}
