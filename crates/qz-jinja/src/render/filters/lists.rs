//! Filters of lists and dictionaries.

use std::cmp::Ordering;

use crate::budget::Budget;
use crate::error::{Error, Result, fail};
use crate::value::{Value, push};

use super::super::call::Given;
use super::super::{Renderer, tests};

/// Filters that do something with each item.
pub(super) fn each(
    renderer: &mut Renderer<'_>,
    name: &str,
    value: &Value,
    mut given: Given,
) -> Result<Value> {
    let items = value.items(&renderer.budget)?;
    let mut kept = Vec::new();
    if name == "map" {
        let mapping = Mapping::new(&mut given)?;
        for item in &items.items {
            kept.push(mapping.apply(renderer, item)?);
        }
        return Value::iterator(kept, &renderer.budget);
    }
    let wanted = name.starts_with("select");
    let attribute = match name.ends_with("attr") {
        true if given.positional.is_empty() => return fail!("{name} needs an attribute"),
        true => Some(given.positional.remove(0)),
        false => None,
    };
    let test = match given.positional.is_empty() {
        true => None,
        false => match given.positional.remove(0) {
            Value::Text(test) => Some(test),
            other => return other.refuse("a test's name cannot be"),
        },
    };
    for item in &items.items {
        renderer.budget.step()?;
        let tested = match &attribute {
            Some(attribute) => renderer.path(item, attribute)?,
            None => item.clone(),
        };
        let holds = match &test {
            Some(test) => {
                renderer.budget.slots(given.positional.len())?;
                let given = Given { positional: given.positional.clone(), named: Vec::new() };
                tests::apply(renderer, test, &tested, given)?
            }
            None => tested.is_true(),
        };
        if holds == wanted {
            kept.push(item.clone());
        }
    }
    Value::iterator(kept, &renderer.budget)
}

/// What `map` does with each item.
enum Mapping {
    Attribute(Value, Option<Value>),
    Filter(std::sync::Arc<str>, Given),
}

impl Mapping {
    fn new(given: &mut Given) -> Result<Self> {
        let position = given.named.iter().position(|(name, _)| **name == *"attribute");
        if let (Some(at), true) = (position, given.positional.is_empty()) {
            let (_, attribute) = given.named.remove(at);
            let default = given.named.pop().filter(|(name, _)| **name == *"default");
            return Ok(Self::Attribute(attribute, default.map(|(_, default)| default)));
        }
        if given.positional.is_empty() {
            return fail!("map needs a filter or an attribute");
        }
        match given.positional.remove(0) {
            Value::Text(name) => Ok(Self::Filter(name, std::mem::take(given))),
            other => other.refuse("a filter's name cannot be"),
        }
    }

    fn apply(&self, renderer: &mut Renderer<'_>, item: &Value) -> Result<Value> {
        renderer.budget.step()?;
        match self {
            Self::Attribute(path, default) => {
                let found = renderer.path(item, path)?;
                Ok(match (found, default) {
                    (Value::Undefined(_), Some(default)) => default.clone(),
                    (found, _) => found,
                })
            }
            Self::Filter(name, given) => {
                renderer.budget.slots(given.positional.len() + given.named.len())?;
                let positional = given.positional.clone();
                let given = Given { positional, named: given.named.clone() };
                renderer.budget.enter()?;
                let value = super::apply(renderer, name, item.clone(), given)?;
                renderer.budget.leave();
                Ok(value)
            }
        }
    }
}

/// Filters of a list as a whole.
pub(super) fn whole(
    renderer: &mut Renderer<'_>,
    name: &str,
    value: Value,
    given: Given,
) -> Result<Value> {
    let budget = &renderer.budget;
    match name {
        "list" => {
            let [] = given.bind(name, [])?;
            let items = value.items(budget)?;
            Value::list(copied(&items.items, budget)?, budget)
        }
        "first" | "last" => {
            let [] = given.bind(name, [])?;
            let items = value.items(budget)?;
            let found = if name == "first" { items.items.first() } else { items.items.last() };
            Ok(found.cloned().unwrap_or_else(|| Value::undefined("the item of an empty list")))
        }
        "reverse" => {
            let [] = given.bind(name, [])?;
            if let Value::Text(text) = &value {
                budget.scan(text.len())?;
                return Value::text(text.chars().rev().collect::<String>(), budget);
            }
            let mut items = copied(&value.items(budget)?.items, budget)?;
            items.reverse();
            Value::iterator(items, budget)
        }
        "items" => {
            let [] = given.bind(name, [])?;
            match &value {
                Value::Undefined(_) => Value::iterator(Vec::new(), budget),
                Value::Map(_) => {
                    super::super::methods::call(&value, "items", Given::default(), budget)
                }
                other => other.refuse("there are no items in"),
            }
        }
        "join" => {
            let [separator, attribute] = given.bind(name, ["d", "attribute"])?;
            let separator = match &separator {
                Some(separator) => separator.printed(budget)?,
                None => String::new(),
            };
            let mut out = String::new();
            for (index, item) in value.items(budget)?.items.iter().enumerate() {
                budget.step()?;
                if index > 0 {
                    push(&mut out, &separator, budget)?;
                }
                match &attribute {
                    Some(path) => renderer.path(item, path)?.write(&mut out, budget)?,
                    None => item.write(&mut out, budget)?,
                }
            }
            Value::text(out, budget)
        }
        "sum" => {
            let [attribute, start] = given.bind(name, ["attribute", "start"])?;
            let mut sum = start.unwrap_or(Value::Integer(0));
            for item in &value.items(budget)?.items {
                let item = match &attribute {
                    Some(path) => renderer.path(item, path)?,
                    None => item.clone(),
                };
                let add = crate::ast::Operator::Add;
                sum = super::super::operators::binary(add, &sum, &item, budget)?;
            }
            Ok(sum)
        }
        "batch" | "slice" => {
            let [count, fill] = given.bind(name, ["count", "fill_with"])?;
            let count = count.as_ref().and_then(Value::as_integer);
            let count = count.and_then(|count| usize::try_from(count).ok());
            let Some(count) = count.filter(|count| *count > 0) else {
                return fail!("{name} needs a number above zero");
            };
            let items = value.items(budget)?;
            match name {
                "batch" => batches(&items.items, count, fill.as_ref(), budget),
                _ => slices(&items.items, count, fill.as_ref(), budget),
            }
        }
        "dictsort" => {
            let [sensitive, by, reverse] = given.bind(name, ["case_sensitive", "by", "reverse"])?;
            let Value::Map(_) = &value else { return value.refuse("dictsort sorts no") };
            let pairs = super::super::methods::call(&value, "items", Given::default(), budget)?;
            let by_value = by.as_ref().and_then(Value::as_text).is_some_and(|by| **by == *"value");
            let keyed = Keys {
                paths: vec![Value::Integer(i64::from(by_value))],
                sensitive: sensitive.is_some_and(|one| one.is_true()),
            };
            let reverse = reverse.is_some_and(|one| one.is_true());
            Value::list(sorted(renderer, &pairs, &keyed, reverse)?, budget)
        }
        "sort" => {
            let [reverse, sensitive, attribute] =
                given.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let keyed =
                Keys::new(attribute.as_ref(), sensitive.is_some_and(|one| one.is_true()), budget)?;
            let reverse = reverse.is_some_and(|one| one.is_true());
            Value::list(sorted(renderer, &value, &keyed, reverse)?, budget)
        }
        "min" | "max" => {
            let [sensitive, attribute] = given.bind(name, ["case_sensitive", "attribute"])?;
            let keyed =
                Keys::new(attribute.as_ref(), sensitive.is_some_and(|one| one.is_true()), budget)?;
            let sorted = sorted(renderer, &value, &keyed, name == "max")?;
            let first = sorted.into_iter().next();
            Ok(first.unwrap_or_else(|| Value::undefined("the item of an empty list")))
        }
        "unique" => {
            let [sensitive, attribute] = given.bind(name, ["case_sensitive", "attribute"])?;
            let keyed =
                Keys::new(attribute.as_ref(), sensitive.is_some_and(|one| one.is_true()), budget)?;
            let mut seen: Vec<Vec<Value>> = Vec::new();
            let mut kept = Vec::new();
            for item in &value.items(budget)?.items {
                let keys = keyed.of(renderer, item)?;
                let mut known = false;
                for one in &seen {
                    known = known || equal(one, &keys, budget)?;
                }
                if !known {
                    budget.slots(keys.len())?;
                    seen.push(keys);
                    kept.push(item.clone());
                }
            }
            Value::iterator(kept, budget)
        }
        _ => {
            let [attribute, default, sensitive] =
                given.bind(name, ["attribute", "default", "case_sensitive"])?;
            let Some(path) = attribute else { return fail!("groupby needs an attribute") };
            groups(renderer, &value, path, default, sensitive.is_some_and(|one| one.is_true()))
        }
    }
}

fn copied(items: &[Value], budget: &Budget) -> Result<Vec<Value>> {
    budget.slots(items.len())?;
    Ok(items.to_vec())
}

fn batches(items: &[Value], count: usize, fill: Option<&Value>, budget: &Budget) -> Result<Value> {
    let mut all = Vec::new();
    for batch in items.chunks(count) {
        let mut batch = copied(batch, budget)?;
        if let Some(fill) = fill {
            let missing = count - batch.len();
            budget.slots(missing)?;
            batch.extend(std::iter::repeat_n(fill.clone(), missing));
        }
        all.push(Value::list(batch, budget)?);
    }
    Value::iterator(all, budget)
}

fn slices(items: &[Value], count: usize, fill: Option<&Value>, budget: &Budget) -> Result<Value> {
    budget.slots(count)?;
    let (size, longer) = (items.len() / count, items.len() % count);
    let mut all = Vec::new();
    let mut start = 0;
    for index in 0..count {
        let length = size + usize::from(index < longer);
        let mut slice = copied(&items[start..start + length], budget)?;
        start += length;
        if index >= longer && longer > 0 {
            slice.extend(fill.cloned());
        }
        all.push(Value::list(slice, budget)?);
    }
    Value::iterator(all, budget)
}

/// What items are ordered by.
struct Keys {
    paths: Vec<Value>,
    sensitive: bool,
}

impl Keys {
    fn new(attribute: Option<&Value>, sensitive: bool, budget: &Budget) -> Result<Self> {
        let paths = match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Text(text)) => {
                let parts = text.split(',').map(|part| Value::text(part, budget));
                parts.collect::<Result<_>>()?
            }
            Some(other) => vec![other.clone()],
        };
        Ok(Self { paths, sensitive })
    }

    fn of(&self, renderer: &Renderer<'_>, item: &Value) -> Result<Vec<Value>> {
        let budget = &renderer.budget;
        budget.slots(self.paths.len() + 1)?;
        let folded = |value: Value| match value {
            Value::Text(text) if !self.sensitive => Value::text(text.to_lowercase(), budget),
            other => Ok(other),
        };
        if self.paths.is_empty() {
            return Ok(vec![folded(item.clone())?]);
        }
        self.paths.iter().map(|path| folded(renderer.path(item, path)?)).collect()
    }
}

fn equal(one: &[Value], other: &[Value], budget: &Budget) -> Result<bool> {
    for (one, other) in one.iter().zip(other) {
        if !one.equals(other, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Items in order; equal ones keep theirs, also when reversed.
fn sorted(
    renderer: &Renderer<'_>,
    value: &Value,
    keys: &Keys,
    reverse: bool,
) -> Result<Vec<Value>> {
    let budget = &renderer.budget;
    let items = value.items(budget)?;
    budget.slots(items.items.len().saturating_mul(2))?;
    let keyed = items.items.iter().map(|item| Ok((keys.of(renderer, item)?, item.clone())));
    let mut keyed = keyed.collect::<Result<Vec<_>>>()?;
    let mut failure: Option<Error> = None;
    keyed.sort_by(|(one, _), (other, _)| {
        for (one, other) in one.iter().zip(other) {
            if failure.is_some() {
                break;
            }
            match one.order(other, budget) {
                Ok(Some(Ordering::Equal) | None) => {}
                Ok(Some(order)) => return if reverse { order.reverse() } else { order },
                Err(error) => failure = Some(error),
            }
        }
        Ordering::Equal
    });
    match failure {
        Some(failure) => Err(failure),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

fn groups(
    renderer: &Renderer<'_>,
    value: &Value,
    path: Value,
    default: Option<Value>,
    sensitive: bool,
) -> Result<Value> {
    let budget = &renderer.budget;
    let keys = Keys { paths: vec![path], sensitive };
    let mut groups: Vec<(Vec<Value>, Value, Vec<Value>)> = Vec::new();
    for item in sorted(renderer, value, &keys, false)? {
        let mut key = keys.of(renderer, &item)?;
        if let (Some(Value::Undefined(_)), Some(default)) = (key.first(), &default) {
            key = vec![default.clone()];
        }
        budget.slots(4)?;
        match groups.last_mut() {
            Some((last, _, items)) if equal(last, &key, budget)? => items.push(item),
            _ => {
                let mut shown = renderer.path(&item, &keys.paths[0])?;
                if let (Value::Undefined(_), Some(default)) = (&shown, &default) {
                    shown = default.clone();
                }
                groups.push((key, shown, vec![item]));
            }
        }
    }
    let group = |(_, key, items): (_, Value, Vec<Value>)| {
        Value::tuple(vec![key, Value::list(items, budget)?], budget)
    };
    Value::list(groups.into_iter().map(group).collect::<Result<_>>()?, budget)
}
