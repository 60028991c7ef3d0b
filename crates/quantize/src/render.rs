//! Numbers and tables as people read them.

use std::collections::HashMap;
use std::hash::Hash;
use std::iter;
use std::path::Path;

use qz_tensor::ByteSize;

use crate::messages::on_one_line;

/// What a model is called: the last part of its path.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A size: `4.58 GiB`.
pub(crate) fn bytes(size: u64) -> String {
    ByteSize(size).to_string()
}

/// Values of the same key together, in the order of each key's first.
pub(crate) fn grouped<K: Clone + Eq + Hash, V>(
    pairs: impl Iterator<Item = (K, V)>,
) -> Vec<(K, Vec<V>)> {
    let mut groups: Vec<(K, Vec<V>)> = Vec::new();
    let mut places: HashMap<K, usize> = HashMap::new();
    for (key, value) in pairs {
        let place = *places.entry(key.clone()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, values)) => values.push(value),
            None => groups.push((key, vec![value])),
        }
    }
    groups
}

/// So many things, by their word for one: `1 tensor`, `2 matrices`.
pub(crate) fn many(number: impl TryInto<u64>, one: &str) -> String {
    let number: u64 = number.try_into().unwrap_or(u64::MAX);
    let ending = match one.strip_suffix("ix") {
        _ if number == 1 => return format!("1 {one}"),
        Some(stem) => return format!("{number} {stem}ices"),
        None => "s",
    };
    format!("{number} {one}{ending}")
}

/// A text in lines of at most so many letters, where spaces allow; those behind the first
/// begin with `indent`.
pub(crate) fn wrapped(text: &str, indent: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.len() - 1;
        let length = lines[line].chars().count();
        let is_begun = !lines[line].trim().is_empty();
        if is_begun && length + 1 + word.chars().count() > width {
            lines.push(format!("{indent}{word}"));
            continue;
        }
        if is_begun {
            lines[line].push(' ');
        }
        lines[line].push_str(word);
    }
    lines.join("\n")
}

/// A count: `1.24 G`.
pub(crate) fn count(number: u64) -> String {
    let value = number as f64;
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{:.1} k", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", value / 1e6),
        _ => format!("{:.2} G", value / 1e9),
    }
}

/// A time: `2 min 5 s`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        ..60.0 => format!("{seconds:.1} s"),
        // Whole seconds, far below the largest integer.
        _ => match seconds.min(1e12) as u64 {
            whole @ ..3600 => format!("{} min {} s", whole / 60, whole % 60),
            whole => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        },
    }
}

/// The same as Markdown.
pub(crate) fn markdown_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |cells: &[String], column: usize| {
        let cell = cells.get(column).map(|cell| on_one_line(cell.trim()));
        cell.map_or_else(String::new, |cell| cell.replace('|', "\\|"))
    };
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let mut lines = vec![line(header.iter().map(|name| (*name).to_owned()).collect())];
    lines.push(format!("|{}", "---|".repeat(header.len())));
    lines.extend(rows.iter().map(|row| line((0..header.len()).map(|at| cell(row, at)).collect())));
    lines.join("\n")
}

/// The same as comma-separated values (RFC 4180, with plain line ends).
pub(crate) fn csv(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |cell: &str| match on_one_line(cell) {
        cell if cell.contains([',', '"']) => format!("\"{}\"", cell.replace('"', "\"\"")),
        cell => cell.into_owned(),
    };
    let lines = rows.iter().map(|row| row.iter().map(|text| cell(text)).collect::<Vec<_>>());
    let lines: Vec<String> = lines.map(|cells| cells.join(",")).collect();
    [&[header.join(",")][..], &lines].concat().join("\n")
}

/// Columns aligned; a column whose cells are all numbers, or units, to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    table_lines(header, || rows.iter().cloned()).collect::<Vec<_>>().join("\n")
}

/// The same line by line, of rows that are made twice and not kept: there may be millions.
pub(crate) fn table_lines<R: Iterator<Item = Vec<String>>>(
    header: &[&str],
    rows: impl Fn() -> R,
) -> impl Iterator<Item = String> {
    // Names come from files; a line of theirs is none of the table's.
    let escape = |row: Vec<String>| row.into_iter().map(|cell| on_one_line(&cell).into_owned());
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let mut columns: Vec<(usize, bool)> =
        header.iter().map(|name| (name.chars().count(), true)).collect();
    for row in rows() {
        for ((width, is_number), cell) in columns.iter_mut().zip(escape(row)) {
            *width = cell.chars().count().max(*width);
            *is_number &= cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit());
        }
    }
    iter::once(header).chain(rows()).map(move |row| {
        let padded = escape(row).zip(&columns).map(|(cell, (width, right))| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        let check = |number, expected| assert_eq!(count(number), expected);
        check(999, "999");
        check(5_800_000, "5.8 M");
        check(1_240_000_000, "1.24 G");
        let check = |seconds, expected| assert_eq!(duration(seconds), expected);
        check(0.0421, "42 ms");
        check(59.94, "59.9 s");
        check(125.0, "2 min 5 s");
        check(7260.0, "2 h 1 min");
    }

    #[test]
    fn one_thing_is_no_plural() {
        let check =
            |number: u64, one: &str, expected: &str| assert_eq!(many(number, one), expected);
        check(1, "finding", "1 finding");
        check(0, "finding", "0 findings");
        check(1, "matrix", "1 matrix");
        check(12, "matrix", "12 matrices");
    }

    #[test]
    fn lines_are_broken_at_spaces() {
        let text = wrapped("eins zwei drei", "", 9);
        assert_eq!(text, "eins zwei\ndrei");
        assert_eq!(wrapped("eins zwei-drei-vier fünf", "  ", 9), "eins\n  zwei-drei-vier\n  fünf");
    }

    #[test]
    fn values_of_a_key_come_together() {
        let pairs = [("b", 1), ("a", 2), ("b", 3)].into_iter();
        assert_eq!(grouped(pairs), [("b", vec![1, 3]), ("a", vec![2])]);
    }

    #[test]
    fn commas_are_quoted() {
        let rows = [vec!["a,b".to_owned(), "say \"1\"".to_owned()]];
        assert_eq!(csv(&["name", "n"], &rows), "name,n\n\"a,b\",\"say \"\"1\"\"\"");
    }

    #[test]
    fn names_from_files_break_no_table() {
        let rows = [vec!["a\n\u{1b}[2J|b".to_owned(), "1".to_owned()]];
        let header = ["name", "n"];
        assert_eq!(table(&header, &rows), "name            n\na\\n\\u{1b}[2J|b  1");
        assert_eq!(csv(&header, &rows), "name,n\na\\n\\u{1b}[2J|b,1");
        let markdown = "| name | n |\n|---|---|\n| a\\n\\u{1b}[2J\\|b | 1 |";
        assert_eq!(markdown_table(&header, &rows), markdown);
    }

    #[test]
    fn tables_align() {
        let rows =
            [vec!["Q4_K".to_owned(), "112".to_owned()], vec!["F32".to_owned(), "7".to_owned()]];
        assert_eq!(
            table(&["type", "tensors"], &rows),
            "type  tensors\nQ4_K      112\nF32         7"
        );
    }
}
