//! The methods of Python's strings.

use crate::budget::Budget;
use crate::error::{Result, fail};
use crate::value::{Value, is_space, push};

use super::call::Given;
use super::formats;

pub(super) const NAMES: &[&str] = &[
    "strip",
    "lstrip",
    "rstrip",
    "upper",
    "lower",
    "casefold",
    "title",
    "capitalize",
    "swapcase",
    "startswith",
    "endswith",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "replace",
    "split",
    "rsplit",
    "splitlines",
    "join",
    "partition",
    "rpartition",
    "removeprefix",
    "removesuffix",
    "isdigit",
    "isdecimal",
    "isnumeric",
    "isalpha",
    "isalnum",
    "isspace",
    "isupper",
    "islower",
    "istitle",
    "isascii",
    "isidentifier",
    "zfill",
    "center",
    "ljust",
    "rjust",
    "format",
    "expandtabs",
];

/// The caller has paid for reading the text once.
pub(super) fn call(text: &str, name: &str, given: Given, budget: &Budget) -> Result<Value> {
    let letters = |test: fn(char) -> bool| Value::Bool(!text.is_empty() && text.chars().all(test));
    match name {
        "strip" | "lstrip" | "rstrip" => strip(text, name, given, budget),
        "startswith" | "endswith" => affix(text, name, given, budget),
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, given, budget),
        "replace" => {
            let [old, new, count] = given.bind("replace", ["old", "new", "count"])?;
            let (old, new) = (text_of(old.as_ref(), name)?, text_of(new.as_ref(), name)?);
            let count = count.as_ref().and_then(Value::as_integer).unwrap_or(-1);
            replace(text, old, new, count, budget)
        }
        "split" | "rsplit" => split(text, name == "rsplit", given, budget),
        "splitlines" => {
            let [keep] = given.bind("splitlines", ["keepends"])?;
            lines(text, keep.is_some_and(|keep| keep.is_true()), budget)
        }
        "join" => {
            let [items] = given.bind("join", ["iterable"])?;
            let Some(items) = items else { return fail!("join needs a list") };
            let mut out = String::new();
            for (index, item) in items.items(budget)?.items.iter().enumerate() {
                let Some(item) = item.as_text() else {
                    return item.refuse("join takes strings, not");
                };
                if index > 0 {
                    push(&mut out, text, budget)?;
                }
                push(&mut out, item, budget)?;
            }
            Value::text(out, budget)
        }
        "partition" | "rpartition" => partition(text, name == "rpartition", given, budget),
        "removeprefix" | "removesuffix" => {
            let [affix] = given.bind(name, ["affix"])?;
            let affix = text_of(affix.as_ref(), name)?;
            let left = match name {
                "removeprefix" => text.strip_prefix(affix),
                _ => text.strip_suffix(affix),
            };
            Value::text(left.unwrap_or(text), budget)
        }
        "zfill" | "center" | "ljust" | "rjust" => justify(text, name, given, budget),
        "format" => formats::braces(text, &given, budget),
        "expandtabs" => {
            let [size] = given.bind(name, ["tabsize"])?;
            let size = size.as_ref().and_then(Value::as_integer).unwrap_or(8);
            expand_tabs(text, usize::try_from(size).unwrap_or(0), budget)
        }
        _ => {
            let [] = given.bind(name, [])?;
            // Cases may make a text three times as long.
            budget.text(text.len())?;
            let cased = |wrong: fn(char) -> bool, right: fn(char) -> bool| {
                Value::Bool(text.chars().any(right) && !text.chars().any(wrong))
            };
            match name {
                "upper" => Value::text(text.to_uppercase(), budget),
                "lower" => Value::text(text.to_lowercase(), budget),
                "casefold" => Value::text(text.to_lowercase().replace('ß', "ss"), budget),
                "title" => Value::text(title(text), budget),
                "capitalize" => Value::text(capitalized(text), budget),
                "swapcase" => Value::text(swapped(text), budget),
                "isdigit" | "isdecimal" => Ok(letters(|one| one.is_ascii_digit())),
                "isnumeric" => Ok(letters(char::is_numeric)),
                "isalpha" => Ok(letters(char::is_alphabetic)),
                "isalnum" => Ok(letters(char::is_alphanumeric)),
                "isspace" => Ok(letters(is_space)),
                "isascii" => Ok(Value::Bool(text.is_ascii())),
                "isupper" => Ok(cased(char::is_lowercase, char::is_uppercase)),
                "islower" => Ok(cased(char::is_uppercase, char::is_lowercase)),
                "istitle" => {
                    let some = text.chars().any(char::is_alphabetic);
                    Ok(Value::Bool(some && title(text) == text))
                }
                "isidentifier" => {
                    let inside = |one: char| one == '_' || one.is_alphanumeric();
                    let starts = text.starts_with(|one: char| one == '_' || one.is_alphabetic());
                    Ok(Value::Bool(starts && text.chars().all(inside)))
                }
                other => fail!("a str has no method {other:?}"),
            }
        }
    }
}

fn text_of<'v>(value: Option<&'v Value>, name: &str) -> Result<&'v str> {
    match value {
        Some(Value::Text(text)) => Ok(text),
        Some(other) => other.refuse(&format!("{name} takes a str, not")),
        None => fail!("{name} needs a str"),
    }
}

fn integer_of(value: Option<Value>, default: i64) -> Result<i64> {
    match value {
        None | Some(Value::None) => Ok(default),
        Some(value) => match value.as_integer() {
            Some(number) => Ok(number),
            None => value.refuse("a number cannot be"),
        },
    }
}

fn strip(text: &str, name: &str, given: Given, budget: &Budget) -> Result<Value> {
    let [letters] = given.bind(name, ["chars"])?;
    let letters = match &letters {
        None | Some(Value::None) => None,
        some => Some(text_of(some.as_ref(), name)?),
    };
    if let Some(letters) = letters {
        budget.spend(text.len().saturating_mul(letters.len().min(64)) / 8)?;
        budget.scan(letters.len())?;
    }
    let set: std::collections::HashSet<char> = letters.unwrap_or_default().chars().collect();
    let strips = |letter: char| match letters {
        Some(_) => set.contains(&letter),
        None => is_space(letter),
    };
    let left = match name {
        "strip" => text.trim_matches(strips),
        "lstrip" => text.trim_start_matches(strips),
        _ => text.trim_end_matches(strips),
    };
    Value::text(left, budget)
}

/// A text, and where its letters `start..stop` begin in bytes.
fn part(text: &str, start: i64, stop: i64) -> Option<(&str, usize)> {
    let length = i64::try_from(text.chars().count()).ok()?;
    let place = |bound: i64| if bound < 0 { bound.saturating_add(length).max(0) } else { bound };
    let (start, stop) = (place(start), place(stop).min(length));
    if start > stop {
        return None;
    }
    let byte = |letter: i64| {
        let letter = usize::try_from(letter).unwrap_or(usize::MAX);
        text.char_indices().nth(letter).map_or(text.len(), |(at, _)| at)
    };
    let from = byte(start);
    Some((&text[from..byte(stop)], from))
}

fn affix(text: &str, name: &str, given: Given, budget: &Budget) -> Result<Value> {
    let [affixes, start, stop] = given.bind(name, ["affix", "start", "end"])?;
    let Some(affixes) = affixes else { return fail!("{name} needs a str") };
    let found = part(text, integer_of(start, 0)?, integer_of(stop, i64::MAX)?);
    let Some((text, _)) = found else { return Ok(Value::Bool(false)) };
    let has = |affix: &str| match name {
        "startswith" => text.starts_with(affix),
        _ => text.ends_with(affix),
    };
    match &affixes {
        Value::Sequence(several) => {
            for one in &several.items {
                budget.step()?;
                if has(text_of(Some(one), name)?) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        one => Ok(Value::Bool(has(text_of(Some(one), name)?))),
    }
}

fn search(text: &str, name: &str, given: Given, budget: &Budget) -> Result<Value> {
    let [wanted, start, stop] = given.bind(name, ["sub", "start", "end"])?;
    let wanted = text_of(wanted.as_ref(), name)?;
    budget.spend(text.len())?;
    let found = part(text, integer_of(start, 0)?, integer_of(stop, i64::MAX)?);
    let number = |number: usize| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    if name == "count" {
        return Ok(
            found.map_or(Value::Integer(0), |(part, _)| number(part.matches(wanted).count()))
        );
    }
    let at = found.and_then(|(part, from)| {
        let at = match name {
            "find" | "index" => part.find(wanted),
            _ => part.rfind(wanted),
        };
        at.map(|at| text[..from + at].chars().count())
    });
    match at {
        Some(at) => Ok(number(at)),
        None if name.ends_with("find") => Ok(Value::Integer(-1)),
        None => fail!("the text does not contain what {name:?} looks for"),
    }
}

pub(super) fn replace(
    text: &str,
    old: &str,
    new: &str,
    count: i64,
    budget: &Budget,
) -> Result<Value> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    budget.scan(text.len())?;
    let found = text.matches(old).take(most).count();
    let kept = text.len().saturating_sub(found.saturating_mul(old.len()));
    budget.text(kept.saturating_add(found.saturating_mul(new.len())))?;
    Ok(Value::Text(text.replacen(old, new, most).into()))
}

fn split(text: &str, from_end: bool, given: Given, budget: &Budget) -> Result<Value> {
    let [separator, most] = given.bind("split", ["sep", "maxsplit"])?;
    let most = integer_of(most, -1)?;
    let most = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts = Vec::new();
    let add = |parts: &mut Vec<Value>, part: &str| -> Result<()> {
        budget.slots(1)?;
        parts.push(Value::text(part, budget)?);
        Ok(())
    };
    match &separator {
        None | Some(Value::None) => {
            // The last part of a limited split keeps its white space.
            let mut rest = match from_end {
                false => text.trim_start_matches(is_space),
                true => text.trim_end_matches(is_space),
            };
            while !rest.is_empty() {
                let cut = match from_end {
                    _ if parts.len() + 1 >= most => None,
                    false => rest.split_once(is_space),
                    true => rest.rsplit_once(is_space),
                };
                match cut {
                    None => {
                        add(&mut parts, rest)?;
                        break;
                    }
                    Some((one, more)) if !from_end => {
                        add(&mut parts, one)?;
                        rest = more.trim_start_matches(is_space);
                    }
                    Some((more, one)) => {
                        add(&mut parts, one)?;
                        rest = more.trim_end_matches(is_space);
                    }
                }
            }
        }
        some => {
            let separator = text_of(some.as_ref(), "split")?;
            if separator.is_empty() {
                return fail!("an empty separator");
            }
            if from_end {
                text.rsplitn(most, separator).try_for_each(|part| add(&mut parts, part))?;
            } else {
                text.splitn(most, separator).try_for_each(|part| add(&mut parts, part))?;
            }
        }
    }
    if from_end {
        parts.reverse();
    }
    Value::list(parts, budget)
}

fn lines(text: &str, keep: bool, budget: &Budget) -> Result<Value> {
    let ends = |letter: char| {
        matches!(letter, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}')
            || matches!(letter, '\u{2028}' | '\u{2029}')
    };
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends);
        let line = end.unwrap_or(rest.len());
        let after = match end {
            None => line,
            Some(_) if rest[line..].starts_with("\r\n") => line + 2,
            Some(_) => line + rest[line..].chars().next().map_or(0, char::len_utf8),
        };
        budget.slots(1)?;
        parts.push(Value::text(&rest[..if keep { after } else { line }], budget)?);
        rest = &rest[after..];
    }
    Value::list(parts, budget)
}

fn partition(text: &str, from_end: bool, given: Given, budget: &Budget) -> Result<Value> {
    let [separator] = given.bind("partition", ["sep"])?;
    let separator = text_of(separator.as_ref(), "partition")?;
    if separator.is_empty() {
        return fail!("an empty separator");
    }
    let cut = if from_end { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match cut {
        Some((before, after)) => [before, separator, after],
        None if from_end => ["", "", text],
        None => [text, "", ""],
    };
    let parts = parts.into_iter().map(|part| Value::text(part, budget)).collect::<Result<_>>()?;
    Value::tuple(parts, budget)
}

fn justify(text: &str, name: &str, given: Given, budget: &Budget) -> Result<Value> {
    let [width, fill] = given.bind(name, ["width", "fillchar"])?;
    let width = usize::try_from(integer_of(width, 0)?).unwrap_or(0);
    let fill = match fill {
        Some(fill) => text_of(Some(&fill), name)?.to_owned(),
        None => if name == "zfill" { "0" } else { " " }.to_owned(),
    };
    let missing = width.saturating_sub(text.chars().count());
    budget.text(missing.saturating_mul(fill.len().max(1)).saturating_add(text.len()))?;
    let (sign, text) = match text.strip_prefix(['-', '+']) {
        Some(digits) if name == "zfill" => text.split_at(text.len() - digits.len()),
        _ => ("", text),
    };
    let before = match name {
        "ljust" => 0,
        // As Python does it.
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let filled = [sign, &fill.repeat(before), text, &fill.repeat(missing - before)].concat();
    Value::text(filled, budget)
}

/// Text centred as Jinja's filter does it.
pub(super) fn centered(text: &str, width: i64, budget: &Budget) -> Result<Value> {
    let given = Given { positional: vec![Value::Integer(width)], named: Vec::new() };
    justify(text, "center", given, budget)
}

fn expand_tabs(text: &str, size: usize, budget: &Budget) -> Result<Value> {
    let mut out = String::new();
    let mut column = 0;
    for letter in text.chars() {
        match letter {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                budget.text(spaces)?;
                push(&mut out, &" ".repeat(spaces), budget)?;
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(letter);
                column = 0;
            }
            _ => {
                out.push(letter);
                column += 1;
            }
        }
    }
    Value::text(out, budget)
}

/// The first letter of each word large, the others small.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for letter in text.chars() {
        match inside {
            true => out.extend(letter.to_lowercase()),
            false => out.extend(letter.to_uppercase()),
        }
        inside = letter.is_alphabetic();
    }
    out
}

pub(super) fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let mut out: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    out.push_str(&letters.as_str().to_lowercase());
    out
}

fn swapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_uppercase() {
            true => out.extend(letter.to_lowercase()),
            false => out.extend(letter.to_uppercase()),
        }
    }
    out
}
