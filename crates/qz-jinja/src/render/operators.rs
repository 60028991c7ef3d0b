//! Operators, slices and indexes.

use std::cmp::Ordering;

use crate::ast::{Comparison, Operator};
use crate::budget::Budget;
use crate::error::{Error, Result, fail};
use crate::value::{SequenceKind, Value};

use super::formats;

pub(super) fn negative(value: &Value) -> Result<Value> {
    match value {
        Value::Float(number) => Ok(Value::Float(-number)),
        other => match other.as_integer() {
            Some(number) => number.checked_neg().map(Value::Integer).ok_or_else(too_large),
            None => other.refuse("there is no negative of"),
        },
    }
}

pub(super) fn positive(value: &Value) -> Result<Value> {
    match value {
        Value::Float(number) => Ok(Value::Float(*number)),
        other => match other.as_integer() {
            Some(number) => Ok(Value::Integer(number)),
            None => other.refuse("there is no number in"),
        },
    }
}

fn too_large() -> Error {
    Error::new("a number has more than 64 bits")
}

pub(super) fn binary(
    operator: Operator,
    left: &Value,
    right: &Value,
    budget: &Budget,
) -> Result<Value> {
    for side in [left, right] {
        if let Value::Undefined(_) = side {
            return side.refuse("");
        }
    }
    if let (Some(left), Some(right)) = (left.as_integer(), right.as_integer()) {
        return integers(operator, left, right);
    }
    if let (Some(left), Some(right)) = (left.as_float(), right.as_float()) {
        return floats(operator, left, right);
    }
    match (operator, left, right) {
        (Operator::Add, Value::Text(left), Value::Text(right)) => {
            budget.text(left.len().saturating_add(right.len()))?;
            Ok(Value::Text([&**left, &**right].concat().into()))
        }
        (Operator::Add, Value::Sequence(one), Value::Sequence(other))
            if one.kind == other.kind && one.kind != SequenceKind::Iterator =>
        {
            budget.slots(one.items.len().saturating_add(other.items.len()))?;
            let items = one.items.iter().chain(&other.items).cloned().collect();
            match one.kind {
                SequenceKind::Tuple => Value::tuple(items, budget),
                _ => Value::list(items, budget),
            }
        }
        (Operator::Multiply, value, count) | (Operator::Multiply, count, value)
            if count.as_integer().is_some() && value.as_float().is_none() =>
        {
            repeated(value, count.as_integer().unwrap_or(0), budget)
        }
        (Operator::Remainder, Value::Text(format), values) => {
            formats::percent(format, values, budget)
        }
        _ => {
            let (left, right) = (left.kind(), right.kind());
            fail!("{operator:?} does not go with {left} and {right}")
        }
    }
}

fn repeated(value: &Value, count: i64, budget: &Budget) -> Result<Value> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    match value {
        Value::Text(text) => {
            budget.text(text.len().saturating_mul(count))?;
            Ok(Value::Text(text.repeat(if text.is_empty() { 0 } else { count }).into()))
        }
        Value::Sequence(one) if one.kind != SequenceKind::Iterator => {
            let length = one.items.len().saturating_mul(count);
            budget.slots(length)?;
            let items = one.items.iter().cycle().take(length).cloned().collect();
            match one.kind {
                SequenceKind::Tuple => Value::tuple(items, budget),
                _ => Value::list(items, budget),
            }
        }
        other => other.refuse("there is no product of"),
    }
}

fn integers(operator: Operator, left: i64, right: i64) -> Result<Value> {
    let result = match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => left.checked_mul(right),
        Operator::Divide | Operator::FloorDivide | Operator::Remainder if right == 0 => {
            return fail!("a division by zero");
        }
        Operator::Divide => return Ok(Value::Float(left as f64 / right as f64)),
        Operator::FloorDivide => left.checked_div(right).map(|quotient| {
            let inexact = left % right != 0 && (left < 0) != (right < 0);
            quotient - i64::from(inexact)
        }),
        Operator::Remainder => left
            .checked_rem(right)
            .map(|rest| if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest }),
        Operator::Power if right < 0 => return floats(operator, left as f64, right as f64),
        Operator::Power => u32::try_from(right).ok().and_then(|right| left.checked_pow(right)),
    };
    result.map(Value::Integer).ok_or_else(too_large)
}

fn floats(operator: Operator, left: f64, right: f64) -> Result<Value> {
    let divides =
        matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder);
    if divides && right == 0.0 {
        return fail!("a division by zero");
    }
    Ok(Value::Float(match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide => left / right,
        Operator::FloorDivide => (left / right).floor(),
        Operator::Remainder => left - right * (left / right).floor(),
        Operator::Power => libm::pow(left, right),
    }))
}

pub(super) fn compare(
    operator: Comparison,
    left: &Value,
    right: &Value,
    budget: &Budget,
) -> Result<bool> {
    let order = |wanted: fn(Ordering) -> bool| {
        left.order(right, budget).map(|order| order.is_some_and(wanted))
    };
    match operator {
        Comparison::Equal => left.equals(right, budget),
        Comparison::NotEqual => left.equals(right, budget).map(|equal| !equal),
        Comparison::Less => order(Ordering::is_lt),
        Comparison::LessOrEqual => order(Ordering::is_le),
        Comparison::Greater => order(Ordering::is_gt),
        Comparison::GreaterOrEqual => order(Ordering::is_ge),
        Comparison::In => right.contains(left, budget),
        Comparison::NotIn => right.contains(left, budget).map(|found| !found),
    }
}

/// An index that may count from the end.
pub(super) fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    let index = if index < 0 { index.checked_add(length)? } else { index };
    (0..length).contains(&index).then_some(index as usize)
}

pub(super) fn letter(text: &str, index: i64, budget: &Budget) -> Result<Option<Value>> {
    budget.scan(text.len())?;
    let length = if text.is_ascii() { text.len() } else { text.chars().count() };
    let letter = place(index, length).and_then(|index| match text.is_ascii() {
        true => text.get(index..index + 1).map(str::to_owned),
        false => text.chars().nth(index).map(String::from),
    });
    letter.map(|letter| Value::text(letter, budget)).transpose()
}

/// `object[start:stop:step]`.
pub(super) fn slice(
    object: &Value,
    [start, stop, step]: [Option<i64>; 3],
    budget: &Budget,
) -> Result<Value> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return fail!("a slice's step is zero");
    }
    match object {
        Value::Text(text) => {
            budget.spend(text.len().saturating_mul(4))?;
            let letters: Vec<char> = text.chars().collect();
            let places = places(letters.len(), start, stop, step);
            Value::text(places.map(|at| letters[at]).collect::<String>(), budget)
        }
        Value::Sequence(sequence) if sequence.kind != SequenceKind::Iterator => {
            let places = places(sequence.items.len(), start, stop, step);
            budget.slots(places.len())?;
            let items = places.map(|at| sequence.items[at].clone()).collect();
            match sequence.kind {
                SequenceKind::Tuple => Value::tuple(items, budget),
                _ => Value::list(items, budget),
            }
        }
        Value::Undefined(_) => object.refuse(""),
        _ => Ok(Value::undefined("a slice")),
    }
}

/// The places that a slice means, in order.
fn places(
    length: usize,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl ExactSizeIterator<Item = usize> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |bound: Option<i64>, default: i64| match bound {
        None => default,
        Some(bound) if bound < 0 => bound.saturating_add(length).max(lowest),
        Some(bound) => bound.min(highest),
    };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (bound(start, first), bound(stop, last));
    let distance = if step > 0 { stop - start } else { start - stop };
    let width = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
    let count = usize::try_from(distance).map_or(0, |distance| distance.div_ceil(width));
    (0..count).map(move |index| {
        let moved = (index as i64).saturating_mul(step);
        usize::try_from(start.saturating_add(moved)).unwrap_or(0)
    })
}
