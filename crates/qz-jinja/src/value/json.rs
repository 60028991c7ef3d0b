//! JSON as Python's `json.dumps` writes it.

use std::fmt::Write;

use super::text::{PIECE, push, python_float};
use super::{Sequence, Value};
use crate::budget::Budget;
use crate::error::Result;

/// How it is to look.
pub(crate) struct JsonStyle {
    /// What each level is indented by.
    pub(crate) indent: Option<String>,
    pub(crate) item_separator: String,
    pub(crate) key_separator: String,
    pub(crate) sort_keys: bool,
    pub(crate) ensure_ascii: bool,
}

pub(crate) fn to_json(value: &Value, style: &JsonStyle, budget: &Budget) -> Result<String> {
    let mut writer = Writer { style, budget, out: String::new() };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    style: &'a JsonStyle,
    budget: &'a Budget,
    out: String,
}

impl Writer<'_> {
    fn push(&mut self, text: &str) -> Result<()> {
        push(&mut self.out, text, self.budget)
    }

    fn line(&mut self, level: usize) -> Result<()> {
        let Some(indent) = &self.style.indent else { return Ok(()) };
        self.budget.text(self.out.len().saturating_add(indent.len().saturating_mul(level)))?;
        let line = format!("\n{}", indent.repeat(level));
        self.push(&line)
    }

    fn value(&mut self, value: &Value, level: usize) -> Result<()> {
        self.budget.step()?;
        match value {
            Value::None => self.push("null"),
            Value::Bool(true) => self.push("true"),
            Value::Bool(false) => self.push("false"),
            Value::Integer(number) => self.push(&number.to_string()),
            Value::Float(number) => self.push(&float(*number)),
            Value::Text(text) => self.text(text),
            Value::Sequence(sequence) => self.list(sequence, level),
            Value::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries().len());
                self.budget.slots(map.entries().len())?;
                for (key, value) in map.entries() {
                    let key = match key {
                        Value::Text(text) => text.to_string(),
                        Value::None => "null".to_owned(),
                        Value::Bool(bool) => bool.to_string(),
                        Value::Integer(number) => number.to_string(),
                        Value::Float(number) => float(*number),
                        other => return other.refuse("a key of JSON cannot be"),
                    };
                    entries.push((key, value));
                }
                if self.style.sort_keys {
                    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
                }
                self.map(&entries, level)
            }
            Value::Undefined(name) => {
                let problem = format!("undefined {name:?} cannot be written as JSON");
                Err(crate::error::Error::new(problem))
            }
            other => other.refuse("there is no JSON for"),
        }
    }

    fn list(&mut self, sequence: &Sequence, level: usize) -> Result<()> {
        self.push("[")?;
        for (index, item) in sequence.items.iter().enumerate() {
            if index > 0 {
                push(&mut self.out, &self.style.item_separator, self.budget)?;
            }
            self.line(level + 1)?;
            self.value(item, level + 1)?;
        }
        if !sequence.items.is_empty() {
            self.line(level)?;
        }
        self.push("]")
    }

    fn map(&mut self, entries: &[(String, &Value)], level: usize) -> Result<()> {
        self.push("{")?;
        for (index, (key, value)) in entries.iter().enumerate() {
            if index > 0 {
                push(&mut self.out, &self.style.item_separator, self.budget)?;
            }
            self.line(level + 1)?;
            self.text(key)?;
            push(&mut self.out, &self.style.key_separator, self.budget)?;
            self.value(value, level + 1)?;
        }
        if !entries.is_empty() {
            self.line(level)?;
        }
        self.push("}")
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let mut all = String::new();
        all.push('"');
        for letter in text.chars() {
            if all.len() >= PIECE {
                self.push(&all)?;
                all.clear();
            }
            match letter {
                '"' => all.push_str("\\\""),
                '\\' => all.push_str("\\\\"),
                '\n' => all.push_str("\\n"),
                '\r' => all.push_str("\\r"),
                '\t' => all.push_str("\\t"),
                '\u{8}' => all.push_str("\\b"),
                '\u{c}' => all.push_str("\\f"),
                _ if letter < ' '
                    || self.style.ensure_ascii && !letter.is_ascii()
                    || letter == '\u{7f}' && self.style.ensure_ascii =>
                {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        // Writing to a string does not fail.
                        let _ = write!(all, "\\u{unit:04x}");
                    }
                }
                _ => all.push(letter),
            }
        }
        all.push('"');
        self.push(&all)
    }
}

fn float(number: f64) -> String {
    match number {
        _ if number.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => python_float(number),
    }
}
