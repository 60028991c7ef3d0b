//! What header and index share: strict JSON whose errors are faults with a place.
//!
//! `serde_json` knows where it stands but carries errors of its own only. A
//! visitor that finds a broken rule leaves the fault in a [`Stash`] and fails
//! with an empty error; [`parse`] puts the two together.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Fault, shown};

/// A broken rule in a JSON text.
pub(crate) struct Broken {
    /// Bytes from the start of the text: at the fault or the end of the item
    /// that has it.
    pub(crate) offset: usize,
    /// The tensor it is about.
    pub(crate) name: Option<String>,
    pub(crate) fault: Fault,
}

/// Where visitors leave what they found.
#[derive(Default)]
pub(crate) struct Stash {
    fault: RefCell<Option<Fault>>,
    name: RefCell<Option<String>>,
}

impl Stash {
    /// Keeps `fault`; the error stops the parser.
    pub(crate) fn fail<E: de::Error>(&self, fault: Fault) -> E {
        *self.fault.borrow_mut() = Some(fault);
        E::custom("")
    }

    /// For `map_err`: notes that the error lies in tensor `name`.
    pub(crate) fn inside<E>(&self, name: &str) -> impl Fn(E) -> E {
        move |error| {
            *self.name.borrow_mut() = Some(name.to_owned());
            error
        }
    }
}

/// Parses a whole text.
pub(crate) fn parse<'de, S: DeserializeSeed<'de>>(
    text: &'de str,
    stash: &Stash,
    seed: S,
) -> Result<S::Value, Broken> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = seed.deserialize(&mut deserializer);
    parsed.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        let offset = place_of(text, &error);
        let fault = stash.fault.take().unwrap_or_else(|| fault_of(text, offset, &error));
        Broken { offset, name: stash.name.take(), fault }
    })
}

/// The parser gives line and column, both from 1, columns in bytes.
fn place_of(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let line_start: usize = lines_before.map(str::len).sum();
    (line_start + error.column().saturating_sub(1)).min(text.len())
}

fn fault_of(text: &str, offset: usize, error: &serde_json::Error) -> Fault {
    let rest = text.as_bytes().get(offset..).unwrap_or_default();
    if !rest.is_empty() && rest.iter().all(|byte| *byte == 0) {
        return Fault::NulPadding;
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    match error.classify() {
        // The parser has no other way to tell.
        _ if message.contains("recursion limit") => Fault::Depth,
        serde_json::error::Category::Data => Fault::Field(shown(message)),
        _ => Fault::Json(shown(message)),
    }
}

/// An object's key, borrowed where it has no escapes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key<'de>(pub(crate) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Any value, read and dropped. Unlike `serde`'s own it counts the depth.
pub(crate) struct Skip;

impl<'de> Deserialize<'de> for Skip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Skip)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = Skip;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_str<E>(self, _: &str) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_unit<E>(self) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Skip, A::Error> {
        while items.next_element::<Skip>()?.is_some() {}
        Ok(Skip)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Skip, A::Error> {
        while entries.next_entry::<Key<'_>, Skip>()?.is_some() {}
        Ok(Skip)
    }
}
