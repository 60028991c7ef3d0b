//! Values as text: `str` and `repr`.

use std::fmt::Write;

use super::{SequenceKind, Value};
use crate::budget::{Budget, MAX_TEXT};
use crate::error::{Result, fail};

/// What Python takes for white space.
pub(crate) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

impl Value {
    /// Appends the value as it is printed.
    pub(crate) fn write(&self, out: &mut String, budget: &Budget) -> Result<()> {
        match self {
            Self::Undefined(_) => Ok(()),
            Self::Text(text) => push(out, text, budget),
            other => other.write_repr(out, budget),
        }
    }

    /// The value as it is printed.
    pub(crate) fn printed(&self, budget: &Budget) -> Result<String> {
        let mut out = String::new();
        self.write(&mut out, budget)?;
        Ok(out)
    }

    /// Appends the value as Python would read it.
    pub(crate) fn write_repr(&self, out: &mut String, budget: &Budget) -> Result<()> {
        budget.step()?;
        match self {
            Self::Undefined(_) => push(out, "Undefined", budget),
            Self::None => push(out, "None", budget),
            Self::Bool(true) => push(out, "True", budget),
            Self::Bool(false) => push(out, "False", budget),
            Self::Integer(number) => push(out, &number.to_string(), budget),
            Self::Float(number) => push(out, &python_float(*number), budget),
            Self::Text(text) => quoted(text, out, budget),
            Self::Sequence(sequence) => {
                let (open, close) = match sequence.kind {
                    SequenceKind::Tuple => ("(", ")"),
                    SequenceKind::List | SequenceKind::Iterator => ("[", "]"),
                };
                push(out, open, budget)?;
                for (index, item) in sequence.items.iter().enumerate() {
                    push(out, if index > 0 { ", " } else { "" }, budget)?;
                    item.write_repr(out, budget)?;
                }
                let single = sequence.kind == SequenceKind::Tuple && sequence.items.len() == 1;
                push(out, if single { "," } else { "" }, budget)?;
                push(out, close, budget)
            }
            Self::Map(map) => {
                push(out, "{", budget)?;
                for (index, (key, value)) in map.entries().iter().enumerate() {
                    push(out, if index > 0 { ", " } else { "" }, budget)?;
                    key.write_repr(out, budget)?;
                    push(out, ": ", budget)?;
                    value.write_repr(out, budget)?;
                }
                push(out, "}", budget)
            }
            // Python prints addresses; a template that prints one is mistaken.
            other => other.refuse("there is no text for"),
        }
    }
}

pub(crate) fn push(out: &mut String, text: &str, budget: &Budget) -> Result<()> {
    if out.len() + text.len() > MAX_TEXT {
        return fail!("the template makes a text of more than {MAX_TEXT} bytes");
    }
    budget.spend(text.len())?;
    out.push_str(text);
    Ok(())
}

/// Text with escapes is made in pieces, each of which is paid for.
pub(super) const PIECE: usize = 4096;

fn quoted(text: &str, out: &mut String, budget: &Budget) -> Result<()> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut all = String::new();
    all.push(quote);
    for letter in text.chars() {
        if all.len() >= PIECE {
            push(out, &all, budget)?;
            all.clear();
        }
        match letter {
            '\n' => all.push_str("\\n"),
            '\r' => all.push_str("\\r"),
            '\t' => all.push_str("\\t"),
            '\\' => all.push_str("\\\\"),
            _ if letter == quote => {
                all.push('\\');
                all.push(letter);
            }
            _ if letter.is_ascii() && !letter.is_ascii_control() => all.push(letter),
            _ if unprintable(letter) => {
                // Writing to a string does not fail.
                let _ = match u32::from(letter) {
                    code @ ..0x100 => write!(all, "\\x{code:02x}"),
                    code @ ..0x10000 => write!(all, "\\u{code:04x}"),
                    code => write!(all, "\\U{code:08x}"),
                };
            }
            _ => all.push(letter),
        }
    }
    all.push(quote);
    push(out, &all, budget)
}

fn unprintable(letter: char) -> bool {
    letter.is_control()
        || letter.is_whitespace() && letter != ' '
        || matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}')
}

/// A number as Python prints it.
pub(crate) fn python_float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}
