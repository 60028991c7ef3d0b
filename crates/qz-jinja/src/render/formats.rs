//! Texts with places for values: `%`, braces, and dates.

use crate::budget::Budget;
use crate::error::{Result, fail};
use crate::value::{SequenceKind, Value, push};

use super::call::Given;

/// The widest field.
const MAX_WIDTH: usize = 10_000;

/// `format % values`.
pub(super) fn percent(format: &str, values: &Value, budget: &Budget) -> Result<Value> {
    let several = match values {
        Value::Sequence(one) if one.kind == SequenceKind::Tuple => Some(&one.items),
        _ => None,
    };
    let mut next = 0;
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        push(&mut out, &rest[..at], budget)?;
        rest = &rest[at + 1..];
        let mut value = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let (Some(end), Value::Map(map)) = (inner.find(')'), values) else {
                return fail!("the format needs a dict");
            };
            let key = Value::text(&inner[..end], budget)?;
            value = map.get(&key, budget)?.cloned();
            if value.is_none() {
                return fail!("the format asks for {:?}, which is not there", &inner[..end]);
            }
            rest = &inner[end + 1..];
        }
        let end = rest.find(|letter: char| !"#0- +.123456789".contains(letter));
        let Some(end) = end else { return fail!("a format does not end") };
        let (options, kind) = (&rest[..end], rest[end..].chars().next().unwrap_or('%'));
        rest = &rest[end + kind.len_utf8()..];
        if kind == '%' {
            push(&mut out, "%", budget)?;
            continue;
        }
        let value = match (value, several) {
            (Some(value), _) => value,
            (None, Some(several)) => match several.get(next) {
                Some(value) => value.clone(),
                None => return fail!("the format asks for more values"),
            },
            (None, None) if next == 0 => values.clone(),
            (None, None) => return fail!("the format asks for more values"),
        };
        next += 1;
        field(&value, options, kind, &mut out, budget)?;
    }
    push(&mut out, rest, budget)?;
    if several.is_some_and(|several| next < several.len()) {
        return fail!("the format asks for fewer values");
    }
    Value::text(out, budget)
}

/// One value in its field.
fn field(
    value: &Value,
    options: &str,
    kind: char,
    out: &mut String,
    budget: &Budget,
) -> Result<()> {
    let flags = options.len() - options.trim_start_matches(['#', '0', '-', ' ', '+']).len();
    let (flags, size) = options.split_at(flags);
    let (width, precision) = match size.split_once('.') {
        Some((width, precision)) => (width, Some(precision.parse().unwrap_or(0))),
        None => (size, None),
    };
    let width: usize = width.parse().unwrap_or(0);
    if width.max(precision.unwrap_or(0)) > MAX_WIDTH {
        return fail!("a format's field is wider than {MAX_WIDTH}");
    }
    let mut text = String::new();
    let number = || value.as_float().map_or_else(|| value.refuse("there is no number in"), Ok);
    let integer = || match value {
        Value::Float(number) => Ok(*number as i64),
        other => other.as_integer().map_or_else(|| value.refuse("there is no number in"), Ok),
    };
    match kind {
        's' => value.write(&mut text, budget)?,
        'r' | 'a' => value.write_repr(&mut text, budget)?,
        'd' | 'i' | 'u' => text = integer()?.to_string(),
        'x' => text = format!("{:x}", integer()?),
        'X' => text = format!("{:X}", integer()?),
        'o' => text = format!("{:o}", integer()?),
        'f' | 'F' => text = format!("{:.*}", precision.unwrap_or(6), number()?),
        'e' => text = scientific(number()?, precision.unwrap_or(6)),
        'g' => text = format!("{}", number()?),
        'c' => value.write(&mut text, budget)?,
        other => return fail!("a format of kind {other:?}"),
    }
    if let (Some(most), 's' | 'r') = (precision, kind) {
        text = text.chars().take(most).collect();
    }
    let numeric = !matches!(kind, 's' | 'r' | 'a' | 'c');
    if numeric && flags.contains('+') && !text.starts_with('-') {
        text.insert(0, '+');
    }
    let missing = width.saturating_sub(text.chars().count());
    if flags.contains('-') {
        text.extend(std::iter::repeat_n(' ', missing));
    } else if numeric && flags.contains('0') {
        let sign = usize::from(text.starts_with(['-', '+']));
        text.insert_str(sign, &"0".repeat(missing));
    } else {
        text.insert_str(0, &" ".repeat(missing));
    }
    push(out, &text, budget)
}

fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        None => text,
    }
}

/// `'{} {0} {name}'.format(…)`: places without formats of their own.
pub(super) fn braces(format: &str, given: &Given, budget: &Budget) -> Result<Value> {
    let mut out = String::new();
    let mut next = 0;
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        push(&mut out, &rest[..at], budget)?;
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            push(&mut out, brace, budget)?;
            rest = after;
            continue;
        }
        let (true, Some((name, after))) = (brace == "{", rest.split_once('}')) else {
            return fail!("a brace without its other");
        };
        rest = after;
        let (name, specification) = name.split_once(':').unwrap_or((name, ""));
        let (name, repr) = match name.strip_suffix("!r") {
            Some(name) => (name, true),
            None => (name.strip_suffix("!s").unwrap_or(name), false),
        };
        let value = match (name, name.parse::<usize>()) {
            ("", _) => {
                next += 1;
                given.positional.get(next - 1)
            }
            (_, Ok(number)) => given.positional.get(number),
            (name, Err(_)) => {
                given.named.iter().find(|(known, _)| **known == *name).map(|(_, value)| value)
            }
        };
        let Some(value) = value else { return fail!("the format asks for {name:?}") };
        match specification {
            "" if repr => value.write_repr(&mut out, budget)?,
            "" => value.write(&mut out, budget)?,
            other => {
                let kind = other.chars().last().filter(|kind| "sdfexXo".contains(*kind));
                let options = kind.map_or(other, |kind| &other[..other.len() - kind.len_utf8()]);
                let default = if value.as_float().is_some() { 'd' } else { 's' };
                if !options.chars().all(|one| "0123456789.+-".contains(one)) {
                    return fail!("the format {other:?} is not known");
                }
                field(value, options, kind.unwrap_or(default), &mut out, budget)?;
            }
        }
    }
    push(&mut out, rest, budget)?;
    Value::text(out, budget)
}

/// Dates as `strftime` writes them, on the one day that texts are made on: they must not
/// change from day to day. It was a Wednesday.
pub(super) fn date(format: &str, budget: &Budget) -> Result<Value> {
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        push(&mut out, &rest[..at], budget)?;
        let after = &rest[at + 1..];
        let unpadded = after.starts_with('-');
        let letter = after[usize::from(unpadded)..].chars().next();
        let shown = match letter {
            Some('Y') => "2025",
            Some('y') => "25",
            Some('C') => "20",
            Some('m' | 'd' | 'u' | 'V' | 'U' | 'W') if unpadded => match letter {
                Some('u') => "3",
                Some('U' | 'W') => "0",
                _ => "1",
            },
            Some('m' | 'd' | 'V') => "01",
            Some('e') => " 1",
            Some('j') => {
                if unpadded {
                    "1"
                } else {
                    "001"
                }
            }
            Some('B') => "January",
            Some('b' | 'h') => "Jan",
            Some('A') => "Wednesday",
            Some('a') => "Wed",
            Some('u' | 'w') => "3",
            Some('H' | 'M' | 'S' | 'U' | 'W') => {
                if unpadded {
                    "0"
                } else {
                    "00"
                }
            }
            Some('I') => "12",
            Some('p') => "AM",
            Some('f') => "000000",
            Some('F') => "2025-01-01",
            Some('D' | 'x') => "01/01/25",
            Some('T' | 'X') => "00:00:00",
            Some('R') => "00:00",
            Some('c') => "Wed Jan  1 00:00:00 2025",
            Some('z' | 'Z') => "",
            Some('n') => "\n",
            Some('t') => "\t",
            Some('%') => "%",
            _ => {
                push(&mut out, "%", budget)?;
                rest = after;
                continue;
            }
        };
        push(&mut out, shown, budget)?;
        rest = &after[usize::from(unpadded) + 1..];
    }
    push(&mut out, rest, budget)?;
    Value::text(out, budget)
}
