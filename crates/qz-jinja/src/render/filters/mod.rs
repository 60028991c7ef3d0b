//! Filters: `value | name`.

mod lists;
mod texts;

use crate::error::{Result, fail};
use crate::value::{JsonStyle, Value, to_json};

use super::Renderer;
use super::call::Given;

const NAMES: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

pub(super) fn known(name: &str) -> bool {
    NAMES.contains(&name)
}

pub(super) fn apply(
    renderer: &mut Renderer<'_>,
    name: &str,
    value: Value,
    given: Given,
) -> Result<Value> {
    renderer.budget.step()?;
    match name {
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => {
            lists::each(renderer, name, &value, given)
        }
        "batch" | "slice" | "dictsort" | "first" | "last" | "groupby" | "items" | "list"
        | "max" | "min" | "reverse" | "sort" | "sum" | "unique" | "join" => {
            lists::whole(renderer, name, value, given)
        }
        "attr" => {
            let [attribute] = given.bind("attr", ["name"])?;
            match attribute {
                // Entries of dictionaries are no attributes.
                Some(Value::Text(name)) => match value {
                    Value::Map(_) if !super::methods::known(&value, &name) => {
                        Ok(Value::Undefined(name))
                    }
                    value => renderer.attribute(&value, &name),
                },
                _ => fail!("attr needs a name"),
            }
        }
        "count" | "length" => {
            let [] = given.bind(name, [])?;
            length(&value, &renderer.budget)
        }
        "d" | "default" => {
            let [default, also_false] = given.bind(name, ["default_value", "boolean"])?;
            let also_false = also_false.is_some_and(|one| one.is_true());
            let missing = matches!(value, Value::Undefined(_)) || also_false && !value.is_true();
            Ok(if missing { default.unwrap_or(Value::Text("".into())) } else { value })
        }
        "tojson" => {
            let style = json_style(given)?;
            let text = to_json(&value, &style, &renderer.budget)?;
            Value::text(text, &renderer.budget)
        }
        "abs" | "int" | "float" | "round" => number(name, &value, given),
        _ if known(name) => texts::apply(name, &value, given, &renderer.budget),
        other => fail!("no filter named {other:?}"),
    }
}

fn length(value: &Value, budget: &crate::budget::Budget) -> Result<Value> {
    let length = match value {
        Value::Undefined(_) => 0,
        Value::Text(text) => {
            budget.scan(text.len())?;
            text.chars().count()
        }
        Value::Map(map) => map.entries().len(),
        // Python's views of dictionaries have a length, its other iterators have none.
        Value::Sequence(sequence) => sequence.items.len(),
        other => return other.refuse("there is no length of"),
    };
    Ok(Value::Integer(i64::try_from(length).unwrap_or(i64::MAX)))
}

/// As transformers defines `tojson`.
fn json_style(given: Given) -> Result<JsonStyle> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = given.bind("tojson", names)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text.to_string()),
        Some(value) => match value.as_integer() {
            Some(width @ ..=1000) => Some(" ".repeat(usize::try_from(width).unwrap_or(0))),
            _ => return value.refuse("tojson does not indent by"),
        },
    };
    let separator = |value: &Value| match value {
        Value::Text(text) => Ok(text.to_string()),
        other => other.refuse("a separator cannot be"),
    };
    let (item_separator, key_separator) = match separators {
        None | Some(Value::None) if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None | Some(Value::None) => (", ".to_owned(), ": ".to_owned()),
        Some(Value::Sequence(pair)) if pair.items.len() == 2 => {
            (separator(&pair.items[0])?, separator(&pair.items[1])?)
        }
        Some(other) => return other.refuse("separators are two strings, not"),
    };
    let set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    Ok(JsonStyle {
        indent,
        item_separator,
        key_separator,
        sort_keys: set(sort_keys),
        ensure_ascii: set(ensure_ascii),
    })
}

fn number(name: &str, value: &Value, given: Given) -> Result<Value> {
    match name {
        "abs" => {
            let [] = given.bind(name, [])?;
            match value {
                Value::Float(number) => Ok(Value::Float(number.abs())),
                other => match other.as_integer().and_then(i64::checked_abs) {
                    Some(number) => Ok(Value::Integer(number)),
                    None => other.refuse("there is no absolute value of"),
                },
            }
        }
        "int" => {
            let [default, base] = given.bind(name, ["default", "base"])?;
            let base = base.as_ref().and_then(Value::as_integer).unwrap_or(10);
            let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
            let found = match value {
                Value::Float(number) => number.is_finite().then_some(*number as i64),
                Value::Text(text) => {
                    let text = text.trim();
                    let digits = text.replace('_', "");
                    let digits = match (base, digits.get(..2)) {
                        (Some(16), Some("0x" | "0X"))
                        | (Some(8), Some("0o" | "0O"))
                        | (Some(2), Some("0b" | "0B")) => digits[2..].to_owned(),
                        _ => digits,
                    };
                    let whole = base.and_then(|base| i64::from_str_radix(&digits, base).ok());
                    let number = || digits.parse::<f64>().ok().filter(|number| number.is_finite());
                    whole.or_else(|| number().map(|number| number as i64))
                }
                Value::Undefined(_) => return value.refuse(""),
                other => other.as_integer(),
            };
            Ok(found.map(Value::Integer).or(default).unwrap_or(Value::Integer(0)))
        }
        "float" => {
            let [default] = given.bind(name, ["default"])?;
            let found = match value {
                Value::Text(text) => text.trim().replace('_', "").parse().ok(),
                Value::Undefined(_) => return value.refuse(""),
                other => other.as_float(),
            };
            Ok(found.map(Value::Float).or(default).unwrap_or(Value::Float(0.0)))
        }
        _ => {
            let [precision, method] = given.bind(name, ["precision", "method"])?;
            let precision = precision.as_ref().and_then(Value::as_integer).unwrap_or(0);
            let precision = i32::try_from(precision.clamp(-300, 300)).unwrap_or(0);
            let Some(number) = value.as_float() else {
                return value.refuse("there is nothing to round in");
            };
            let scale = 10f64.powi(precision);
            let rounded = match method.as_ref().and_then(Value::as_text).map(|text| &**text) {
                None | Some("common") if value.as_integer().is_some() && precision >= 0 => {
                    return Ok(value.clone());
                }
                None | Some("common") if precision >= 0 => {
                    // Digits are rounded as they would be printed, which is exact.
                    let digits = usize::try_from(precision).unwrap_or(0);
                    format!("{number:.digits$}").parse().unwrap_or(number)
                }
                None | Some("common") => (number * scale).round_ties_even() / scale,
                Some("ceil") => (number * scale).ceil() / scale,
                Some("floor") => (number * scale).floor() / scale,
                Some(other) => return fail!("round does not know {other:?}"),
            };
            Ok(Value::Float(rounded))
        }
    }
}
