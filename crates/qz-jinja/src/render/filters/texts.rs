//! Filters of texts. Other values are printed first, as Jinja does.

use crate::budget::Budget;
use crate::error::{Result, fail};
use crate::value::{Value, is_space, push};

use super::super::call::Given;
use super::super::{formats, text_methods};

pub(super) fn apply(name: &str, value: &Value, given: Given, budget: &Budget) -> Result<Value> {
    let text = match value {
        Value::Text(text) => text.clone(),
        other if name == "pprint" => {
            let mut out = String::new();
            other.write_repr(&mut out, budget)?;
            out.into()
        }
        other => other.printed(budget)?.into(),
    };
    budget.scan(text.len())?;
    match name {
        "string" | "safe" => {
            let [] = given.bind(name, [])?;
            Ok(Value::Text(text))
        }
        "pprint" => {
            let mut out = String::new();
            value.write_repr(&mut out, budget)?;
            Value::text(out, budget)
        }
        "upper" | "lower" => text_methods::call(&text, name, given, budget),
        "capitalize" => {
            budget.text(text.len())?;
            Value::text(text_methods::capitalized(&text), budget)
        }
        "title" => {
            budget.text(text.len())?;
            Value::text(titled(&text), budget)
        }
        "trim" => {
            let [letters] = given.bind(name, ["chars"])?;
            let positional = letters.into_iter().collect();
            text_methods::call(&text, "strip", Given { positional, named: Vec::new() }, budget)
        }
        "center" => {
            let [width] = given.bind(name, ["width"])?;
            let width = width.as_ref().and_then(Value::as_integer).unwrap_or(80);
            text_methods::centered(&text, width, budget)
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let (Some(old), Some(new)) = (old, new) else {
                return fail!("replace needs two strings");
            };
            let count = count.as_ref().and_then(Value::as_integer).unwrap_or(-1);
            let (old, new) = (old.printed(budget)?, new.printed(budget)?);
            text_methods::replace(&text, &old, &new, count, budget)
        }
        "format" => {
            if !given.named.is_empty() {
                let named = given.named.into_iter();
                let entries = named.map(|(name, value)| (Value::Text(name), value)).collect();
                return formats::percent(&text, &Value::map(entries, budget)?, budget);
            }
            formats::percent(&text, &Value::tuple(given.positional, budget)?, budget)
        }
        "e" | "escape" | "forceescape" => {
            let [] = given.bind(name, [])?;
            escaped(&text, budget)
        }
        "indent" => {
            let [width, first, blank] = given.bind(name, ["width", "first", "blank"])?;
            let set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
            indented(&text, width.unwrap_or(Value::Integer(4)), set(first), set(blank), budget)
        }
        "truncate" => {
            let names = ["length", "killwords", "end", "leeway"];
            let [length, killwords, end, leeway] = given.bind(name, names)?;
            let number = |value: Option<Value>, default: i64| {
                let number = value.as_ref().and_then(Value::as_integer).unwrap_or(default);
                usize::try_from(number).unwrap_or(0)
            };
            let end = end.map_or(Ok("...".to_owned()), |end| end.printed(budget))?;
            let kill = killwords.is_some_and(|one| one.is_true());
            truncated(&text, number(length, 255), kill, &end, number(leeway, 5), budget)
        }
        "urlencode" => {
            let [] = given.bind(name, [])?;
            let mut out = String::new();
            for byte in text.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte as char),
                    b'_' | b'.' | b'-' | b'~' | b'/' => out.push(byte as char),
                    other => push(&mut out, &format!("%{other:02X}"), budget)?,
                }
            }
            Value::text(out, budget)
        }
        "wordcount" => {
            let [] = given.bind(name, [])?;
            let words = text.split(|one: char| !(one == '_' || one.is_alphanumeric()));
            let count = words.filter(|word| !word.is_empty()).count();
            Ok(Value::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
        }
        other => fail!("no filter named {other:?}"),
    }
}

/// Words begin after white space and opening brackets.
fn titled(text: &str) -> String {
    let begins = |one: char| is_space(one) || matches!(one, '-' | '(' | '{' | '[' | '<');
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for letter in text.chars() {
        match inside {
            true => out.extend(letter.to_lowercase()),
            false => out.extend(letter.to_uppercase()),
        }
        inside = !begins(letter);
    }
    out
}

fn escaped(text: &str, budget: &Budget) -> Result<Value> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        push(&mut out, &rest[..at], budget)?;
        let shown = match rest.as_bytes()[at] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&#34;",
            _ => "&#39;",
        };
        push(&mut out, shown, budget)?;
        rest = &rest[at + 1..];
    }
    push(&mut out, rest, budget)?;
    Value::text(out, budget)
}

fn indented(text: &str, width: Value, first: bool, blank: bool, budget: &Budget) -> Result<Value> {
    let indent = match &width {
        Value::Text(text) => text.to_string(),
        other => {
            let width = other.as_integer().unwrap_or(0);
            let width = usize::try_from(width).unwrap_or(0);
            budget.text(width)?;
            " ".repeat(width)
        }
    };
    let mut out = String::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            push(&mut out, "\n", budget)?;
        }
        let wanted = if index == 0 { first } else { blank || !line.is_empty() };
        if wanted {
            push(&mut out, &indent, budget)?;
        }
        push(&mut out, line, budget)?;
    }
    Value::text(out, budget)
}

fn truncated(
    text: &str,
    length: usize,
    kill_words: bool,
    end: &str,
    leeway: usize,
    budget: &Budget,
) -> Result<Value> {
    if text.chars().count() <= length.saturating_add(leeway) {
        return Value::text(text, budget);
    }
    let kept = length.saturating_sub(end.chars().count());
    let cut: String = text.chars().take(kept).collect();
    let cut = match (kill_words, cut.rsplit_once(' ')) {
        (false, Some((before, _))) => before,
        _ => &cut,
    };
    budget.text(cut.len().saturating_add(end.len()))?;
    Value::text([cut, end].concat(), budget)
}
