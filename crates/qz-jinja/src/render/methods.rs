//! Methods of Python's strings, lists and dictionaries. Those that change something are
//! refused, as in the sandbox.

use crate::budget::Budget;
use crate::error::{Result, fail};
use crate::value::{Sequence, SequenceKind, Value};

use super::call::Given;
use super::text_methods;

const OF_MAPS: &[&str] =
    &["items", "keys", "values", "get", "copy", "pop", "popitem", "update", "setdefault", "clear"];

const OF_LISTS: &[&str] = &[
    "index", "count", "copy", "append", "extend", "insert", "pop", "remove", "reverse", "sort",
    "clear",
];

pub(super) fn known(object: &Value, name: &str) -> bool {
    match object {
        Value::Text(_) => text_methods::NAMES.contains(&name),
        Value::Map(_) => OF_MAPS.contains(&name),
        Value::Sequence(one) => match one.kind {
            SequenceKind::List => OF_LISTS.contains(&name),
            SequenceKind::Tuple => matches!(name, "index" | "count"),
            SequenceKind::Iterator => false,
        },
        _ => false,
    }
}

pub(super) fn call(object: &Value, name: &str, given: Given, budget: &Budget) -> Result<Value> {
    budget.step()?;
    match object {
        Value::Text(text) => {
            budget.scan(text.len())?;
            text_methods::call(text, name, given, budget)
        }
        Value::Map(map) => {
            let entries = map.entries();
            let none = given.positional.is_empty() && given.named.is_empty();
            match name {
                "get" => {
                    let [key, default] = given.bind("get", ["key", "default"])?;
                    let Some(key) = key else { return fail!("get needs a key") };
                    let found = map.get(&key, budget)?.cloned();
                    Ok(found.or(default).unwrap_or(Value::None))
                }
                "copy" if none => Ok(object.clone()),
                "items" if none => {
                    budget.slots(entries.len().saturating_mul(4))?;
                    let pair = |(key, value): &(Value, Value)| {
                        Value::tuple(vec![key.clone(), value.clone()], budget)
                    };
                    Value::iterator(entries.iter().map(pair).collect::<Result<_>>()?, budget)
                }
                "keys" | "values" if none => {
                    budget.slots(entries.len())?;
                    let one = |(key, value): &(Value, Value)| match name {
                        "keys" => key.clone(),
                        _ => value.clone(),
                    };
                    Value::iterator(entries.iter().map(one).collect(), budget)
                }
                "items" | "keys" | "values" | "copy" => fail!("{name} takes no values"),
                other => fail!("{other:?} would change a dict, and nothing may be changed"),
            }
        }
        Value::Sequence(sequence) => of_list(object, sequence, name, given, budget),
        other => fail!("{} has no method {name:?}", other.kind()),
    }
}

fn of_list(
    object: &Value,
    sequence: &Sequence,
    name: &str,
    given: Given,
    budget: &Budget,
) -> Result<Value> {
    match name {
        "copy" => Ok(object.clone()),
        "count" | "index" => {
            let [item] = given.bind(name, ["value"])?;
            let item = item.unwrap_or(Value::None);
            let mut count = 0;
            for (index, one) in sequence.items.iter().enumerate() {
                if one.equals(&item, budget)? {
                    if name == "index" {
                        return Ok(Value::Integer(i64::try_from(index).unwrap_or(i64::MAX)));
                    }
                    count += 1;
                }
            }
            if name == "index" {
                return fail!("the list has no such item");
            }
            Ok(Value::Integer(count))
        }
        other => fail!("{other:?} would change a list, and nothing may be changed"),
    }
}
