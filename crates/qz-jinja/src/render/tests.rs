//! Tests: `value is name`.

use crate::error::{Result, fail};
use crate::value::{SequenceKind, Value};

use super::call::Given;
use super::{Renderer, filters, operators};
use crate::ast::Comparison;

pub(super) fn known(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "boolean",
        "callable",
        "defined",
        "divisibleby",
        "escaped",
        "even",
        "false",
        "filter",
        "float",
        "in",
        "integer",
        "iterable",
        "lower",
        "mapping",
        "none",
        "number",
        "odd",
        "sameas",
        "sequence",
        "string",
        "test",
        "true",
        "undefined",
        "upper",
    ];
    NAMES.contains(&name) || comparison(name).is_some()
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        "eq" | "equalto" => Comparison::Equal,
        "ne" => Comparison::NotEqual,
        "lt" | "lessthan" => Comparison::Less,
        "le" => Comparison::LessOrEqual,
        "gt" | "greaterthan" => Comparison::Greater,
        "ge" => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

pub(super) fn apply(
    renderer: &Renderer<'_>,
    name: &str,
    value: &Value,
    given: Given,
) -> Result<bool> {
    let budget = &renderer.budget;
    budget.step()?;
    if let Some(operator) = comparison(name) {
        let [other] = given.bind(name, ["other"])?;
        let Some(other) = other else { return fail!("test {name:?} needs a value") };
        return operators::compare(operator, value, &other, budget);
    }
    let parameters = matches!(name, "divisibleby" | "in" | "sameas");
    let [other] = given.bind(name, ["other"])?;
    if parameters != other.is_some() {
        return fail!("test {name:?} {} a value", if parameters { "needs" } else { "takes no" });
    }
    let other = other.unwrap_or(Value::None);
    let divides = |by: i64| match value.as_integer() {
        Some(_) if by == 0 => fail!("a division by zero"),
        Some(number) => Ok(number.checked_rem(by) == Some(0)),
        None => value.refuse("there is no division of"),
    };
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Integer(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Map(_)),
        "iterable" => matches!(
            value,
            Value::Sequence(_) | Value::Map(_) | Value::Text(_) | Value::Undefined(_)
        ),
        "sequence" => match value {
            Value::Sequence(one) => one.kind != SequenceKind::Iterator,
            Value::Map(_) | Value::Text(_) | Value::Undefined(_) => true,
            _ => false,
        },
        "callable" => matches!(
            value,
            Value::Function(_)
                | Value::Macro(_)
                | Value::Method(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "escaped" => false,
        "even" => divides(2)?,
        "odd" => !divides(2)?,
        "divisibleby" => match other.as_integer() {
            Some(by) => divides(by)?,
            None => return other.refuse("there is no division by"),
        },
        "in" => other.contains(value, budget)?,
        "sameas" => {
            let same_kind = std::mem::discriminant(value) == std::mem::discriminant(&other);
            same_kind && value.equals(&other, budget)?
        }
        "lower" | "upper" => {
            let text = value.printed(budget)?;
            budget.scan(text.len())?;
            let upper = name == "upper";
            let wrong = |one: char| if upper { one.is_lowercase() } else { one.is_uppercase() };
            let right = |one: char| if upper { one.is_uppercase() } else { one.is_lowercase() };
            text.chars().any(right) && !text.chars().any(wrong)
        }
        "filter" => value.as_text().is_some_and(|name| filters::known(name)),
        "test" => value.as_text().is_some_and(|name| known(name)),
        other => return fail!("no test named {other:?}"),
    })
}
