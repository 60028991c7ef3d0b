//! Values, as Python has them. Lists and dictionaries never change, so no value contains
//! itself; what changes (namespaces, cyclers) is a number in a table of the rendering.

mod compare;
mod json;
mod text;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::budget::{Budget, MAX_VALUE_DEPTH};
use crate::error::{Result, fail};

pub(crate) use json::{JsonStyle, to_json};
pub(crate) use text::{is_space, push};

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, with the name that was asked for.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Arc<str>),
    Sequence(Arc<Sequence>),
    Map(Arc<Dictionary>),
    /// A method that is not called yet.
    Method(Arc<(Value, Arc<str>)>),
    Loop(Arc<Loop>),
    /// A namespace, joiner or cycler, by number.
    Object(usize),
    /// A macro, by number.
    Macro(usize),
    /// A global function, by name.
    Function(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SequenceKind {
    List,
    Tuple,
    /// What filters and dictionaries give: to be looped over, or made a list.
    Iterator,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) kind: SequenceKind,
    pub(crate) items: Vec<Value>,
    depth: u16,
}

#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    entries: Vec<(Value, Value)>,
    texts: HashMap<Arc<str>, usize>,
    depth: u16,
}

/// A loop at one of its items.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) items: Arc<Sequence>,
    pub(crate) index: usize,
    /// Loops of the same statement around it.
    pub(crate) level: usize,
    /// The loop in the rendering's table, if its body may call it.
    pub(crate) recursive: Option<usize>,
}

impl Value {
    pub(crate) fn text(text: impl AsRef<str>, budget: &Budget) -> Result<Self> {
        budget.text(text.as_ref().len())?;
        Ok(Self::Text(text.as_ref().into()))
    }

    pub(crate) fn undefined(name: &str) -> Self {
        Self::Undefined(name.into())
    }

    pub(crate) fn list(items: Vec<Value>, budget: &Budget) -> Result<Self> {
        Self::sequence(SequenceKind::List, items, budget)
    }

    pub(crate) fn tuple(items: Vec<Value>, budget: &Budget) -> Result<Self> {
        Self::sequence(SequenceKind::Tuple, items, budget)
    }

    pub(crate) fn iterator(items: Vec<Value>, budget: &Budget) -> Result<Self> {
        Self::sequence(SequenceKind::Iterator, items, budget)
    }

    fn sequence(kind: SequenceKind, items: Vec<Value>, budget: &Budget) -> Result<Self> {
        budget.slots(items.len())?;
        Ok(Self::Sequence(Arc::new(sequence(kind, items)?)))
    }

    pub(crate) fn map(entries: Vec<(Value, Value)>, budget: &Budget) -> Result<Self> {
        let mut all = Dictionary::default();
        for (key, value) in entries {
            all.insert(key, value, budget)?;
        }
        Ok(Self::Map(Arc::new(all)))
    }

    fn depth(&self) -> u16 {
        match self {
            Self::Sequence(sequence) => sequence.depth,
            Self::Map(map) => map.depth,
            Self::Method(method) => method.0.depth().saturating_add(1),
            Self::Loop(one) => one.items.depth.saturating_add(1),
            _ => 0,
        }
    }

    pub(crate) fn method(&self, name: &Arc<str>) -> Result<Self> {
        inside(self.depth())?;
        Ok(Self::Method(Arc::new((self.clone(), name.clone()))))
    }

    /// A value of JSON, which was paid for when it was read.
    pub(crate) fn from_json(json: &Json) -> Result<Self> {
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(bool) => Self::Bool(*bool),
            Json::Number(number) => match number.as_i64() {
                Some(number) => Self::Integer(number),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(text.as_str().into()),
            Json::Array(items) => {
                let items = items.iter().map(Self::from_json).collect::<Result<_>>()?;
                Self::Sequence(Arc::new(sequence(SequenceKind::List, items)?))
            }
            Json::Object(entries) => {
                if let Some((_, number)) = qz_shards::json::tagged_float(entries) {
                    return Ok(Self::Float(number));
                }
                let mut all = Dictionary::default();
                for (key, value) in entries {
                    let key: Arc<str> = key.as_str().into();
                    let value = Self::from_json(value)?;
                    all.depth = all.depth.max(inside(value.depth())?);
                    all.texts.insert(key.clone(), all.entries.len());
                    all.entries.push((Self::Text(key), value));
                }
                Self::Map(Arc::new(all))
            }
        })
    }

    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(bool) => *bool,
            Self::Integer(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Sequence(sequence) => {
                sequence.kind == SequenceKind::Iterator || !sequence.items.is_empty()
            }
            Self::Map(map) => !map.entries.is_empty(),
            Self::Method(_) | Self::Loop(_) | Self::Object(_) | Self::Macro(_) => true,
            Self::Function(_) => true,
        }
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "undefined",
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Integer(_) => "an int",
            Self::Float(_) => "a float",
            Self::Text(_) => "a str",
            Self::Sequence(sequence) => match sequence.kind {
                SequenceKind::List => "a list",
                SequenceKind::Tuple => "a tuple",
                SequenceKind::Iterator => "an iterator",
            },
            Self::Map(_) => "a dict",
            Self::Loop(_) => "a loop",
            Self::Object(_) => "a namespace",
            Self::Method(_) | Self::Macro(_) | Self::Function(_) => "a function",
        }
    }

    /// Why something cannot be done with it.
    pub(crate) fn refuse<T>(&self, what: &str) -> Result<T> {
        match self {
            Self::Undefined(name) => fail!("'{name}' is undefined"),
            other => fail!("{what} {}", other.kind()),
        }
    }

    /// Its items, as a loop sees them.
    pub(crate) fn items(&self, budget: &Budget) -> Result<Arc<Sequence>> {
        let kind = SequenceKind::List;
        let items = match self {
            Self::Undefined(_) => Vec::new(),
            Self::Sequence(sequence) => return Ok(sequence.clone()),
            Self::Map(map) => {
                budget.slots(map.entries.len())?;
                map.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            Self::Text(text) => {
                budget.slots(text.len().saturating_mul(2))?;
                let mut buffer = [0; 4];
                text.chars().map(|one| Self::Text((*one.encode_utf8(&mut buffer)).into())).collect()
            }
            other => return other.refuse("nothing can be looped over in"),
        };
        Ok(Arc::new(sequence(kind, items)?))
    }

    pub(crate) fn as_text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer, as Python's indexes take them.
    pub(crate) fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Bool(bool) => Some(i64::from(*bool)),
            _ => None,
        }
    }

    pub(crate) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            other => other.as_integer().map(|number| number as f64),
        }
    }
}

fn sequence(kind: SequenceKind, items: Vec<Value>) -> Result<Sequence> {
    let deepest = items.iter().map(Value::depth).max().unwrap_or(0);
    Ok(Sequence { kind, items, depth: inside(deepest)? })
}

/// The depth of something around a value of this depth.
fn inside(depth: u16) -> Result<u16> {
    if depth >= MAX_VALUE_DEPTH {
        return fail!("lists and dictionaries are nested deeper than {MAX_VALUE_DEPTH} levels");
    }
    Ok(depth + 1)
}

impl Dictionary {
    pub(crate) fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }

    pub(crate) fn get(&self, key: &Value, budget: &Budget) -> Result<Option<&Value>> {
        Ok(self.position(key, budget)?.map(|at| &self.entries[at].1))
    }

    pub(crate) fn text(&self, key: &str) -> Option<&Value> {
        self.texts.get(key).map(|at| &self.entries[*at].1)
    }

    fn position(&self, key: &Value, budget: &Budget) -> Result<Option<usize>> {
        if let Value::Text(text) = key {
            return Ok(self.texts.get(&**text).copied());
        }
        for (at, (found, _)) in self.entries.iter().enumerate() {
            if found.equals(key, budget)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn insert(&mut self, key: Value, value: Value, budget: &Budget) -> Result<()> {
        if matches!(key, Value::Map(_))
            || matches!(&key, Value::Sequence(one) if one.kind == SequenceKind::List)
        {
            return key.refuse("a dictionary's key cannot be");
        }
        budget.slots(3)?;
        self.depth = self.depth.max(inside(value.depth().max(key.depth()))?);
        match self.position(&key, budget)? {
            Some(at) => self.entries[at].1 = value,
            None => {
                if let Value::Text(text) = &key {
                    self.texts.insert(text.clone(), self.entries.len());
                }
                self.entries.push((key, value));
            }
        }
        Ok(())
    }
}
