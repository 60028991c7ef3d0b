//! Global functions, the objects that they make, and what a loop says of itself.

use std::sync::Arc;

use crate::budget::Budget;
use crate::error::{Result, fail};
use crate::value::{Loop, Sequence, Value};

use super::call::Given;
use super::{Renderer, formats};

pub(super) const GLOBALS: &[&str] =
    &["range", "dict", "namespace", "joiner", "cycler", "raise_exception", "strftime_now"];

/// What changes while a template is rendered.
pub(super) enum Object {
    Namespace(Vec<(Arc<str>, Value)>),
    Joiner { separator: Value, used: bool },
    Cycler { items: Arc<Sequence>, at: usize },
}

/// As in Jinja's sandbox.
const MAX_RANGE: usize = 100_000;

pub(super) fn call(renderer: &mut Renderer<'_>, name: &str, given: Given) -> Result<Value> {
    match name {
        "range" => range(given, &renderer.budget),
        "dict" => Value::map(entries(given, &renderer.budget)?, &renderer.budget),
        "namespace" => {
            let entries = entries(given, &renderer.budget)?;
            let mut variables = Vec::with_capacity(entries.len());
            for (name, value) in entries {
                let Some(name) = name.as_text() else { return name.refuse("a name cannot be") };
                variables.push((name.clone(), value));
            }
            object(renderer, Object::Namespace(variables))
        }
        "joiner" => {
            let [separator] = given.bind("joiner", ["sep"])?;
            let separator = separator.unwrap_or(Value::Text(", ".into()));
            object(renderer, Object::Joiner { separator, used: false })
        }
        "cycler" => {
            if given.positional.is_empty() {
                return fail!("cycler takes at least one value");
            }
            let items = Value::tuple(given.positional, &renderer.budget)?;
            let items = items.items(&renderer.budget)?;
            object(renderer, Object::Cycler { items, at: 0 })
        }
        "raise_exception" => {
            let [message] = given.bind("raise_exception", ["message"])?;
            let message = message.unwrap_or(Value::undefined("message"));
            let mut text = message.printed(&renderer.budget)?;
            text.truncate(text.floor_char_boundary(1000));
            fail!("{text}")
        }
        "strftime_now" => {
            let [format] = given.bind("strftime_now", ["format"])?;
            match format {
                Some(Value::Text(format)) => formats::date(&format, &renderer.budget),
                other => other.unwrap_or(Value::None).refuse("a format of dates cannot be"),
            }
        }
        other => fail!("unknown function {other:?}"),
    }
}

fn object(renderer: &mut Renderer<'_>, object: Object) -> Result<Value> {
    renderer.budget.slots(4)?;
    renderer.objects.push(object);
    Ok(Value::Object(renderer.objects.len() - 1))
}

/// What `dict` and `namespace` are given: a dictionary or pairs, and names.
fn entries(given: Given, budget: &Budget) -> Result<Vec<(Value, Value)>> {
    let mut all = Vec::new();
    if given.positional.len() > 1 {
        return fail!("dict takes one value, not {}", given.positional.len());
    }
    for value in given.positional {
        if let Value::Map(map) = &value {
            budget.slots(map.entries().len().saturating_mul(2))?;
            all.extend(map.entries().iter().cloned());
            continue;
        }
        for pair in &value.items(budget)?.items {
            let pair = pair.items(budget)?;
            let [key, value] = &pair.items[..] else {
                return fail!("dict takes pairs, not {} values", pair.items.len());
            };
            budget.slots(2)?;
            all.push((key.clone(), value.clone()));
        }
    }
    all.extend(given.named.into_iter().map(|(name, value)| (Value::Text(name), value)));
    Ok(all)
}

fn range(given: Given, budget: &Budget) -> Result<Value> {
    let mut numbers = Vec::with_capacity(3);
    for value in &given.positional {
        match value.as_integer() {
            Some(number) => numbers.push(number),
            None => return value.refuse("range takes no"),
        }
    }
    let (start, stop, step) = match numbers[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] if step != 0 => (start, stop, step),
        _ => return fail!("range takes one to three numbers, the last not zero"),
    };
    let distance = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let width = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
    let count = usize::try_from(distance).map_or(0, |distance| distance.div_ceil(width));
    if count > MAX_RANGE {
        return fail!("a range of {count} numbers, more than {MAX_RANGE}");
    }
    budget.slots(count)?;
    let number = |index: usize| start.saturating_add((index as i64).saturating_mul(step));
    Value::list((0..count).map(|index| Value::Integer(number(index))).collect(), budget)
}

impl Renderer<'_> {
    /// A joiner's and a cycler's calls; a namespace has none but its variables'.
    pub(super) fn call_object(&mut self, number: usize, name: &str, given: Given) -> Result<Value> {
        let found = self.objects.get_mut(number);
        match (found, name) {
            (Some(Object::Joiner { separator, used }), "") => {
                let first = !std::mem::replace(used, true);
                Ok(if first { Value::Text("".into()) } else { separator.clone() })
            }
            (Some(Object::Cycler { items, at }), "next") => {
                let value = items.items[*at].clone();
                *at = (*at + 1) % items.items.len();
                Ok(value)
            }
            (Some(Object::Cycler { at, .. }), "reset") => {
                *at = 0;
                Ok(Value::None)
            }
            _ => {
                drop(given);
                fail!("a namespace has no method {name:?}")
            }
        }
    }
}

pub(super) fn loop_attribute(state: &Loop, name: &str, budget: &Budget) -> Result<Option<Value>> {
    let length = state.items.items.len();
    let number = |number: usize| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let item = |index: Option<usize>, name| {
        let found = index.and_then(|index| state.items.items.get(index)).cloned();
        found.unwrap_or(Value::undefined(name))
    };
    budget.step()?;
    Ok(Some(match name {
        "index" => number(state.index + 1),
        "index0" => number(state.index),
        "revindex" => number(length - state.index),
        "revindex0" => number(length - state.index - 1),
        "first" => Value::Bool(state.index == 0),
        "last" => Value::Bool(state.index + 1 == length),
        "length" => number(length),
        "depth" => number(state.level + 1),
        "depth0" => number(state.level),
        "previtem" => item(state.index.checked_sub(1), "previtem"),
        "nextitem" => item(Some(state.index + 1), "nextitem"),
        _ => return Ok(None),
    }))
}
