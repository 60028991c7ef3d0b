//! The one door to the terminal: what is said to a person, and what is reported.
//!
//! Invariants:
//! - Standard error never ends a job: a full disk under a log, or a reader that is
//!   gone, loses messages, not work.
//! - Standard output never changes what a command found. What could not be written is
//!   remembered, and the exit code is decided when the command is over.
//! - No control character reaches a terminal but our own line ends: names and texts come
//!   from files.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use indicatif::ProgressBar;
use serde::Serialize;

use crate::exit::SCHEMA_VERSION;

/// The bar that is on the terminal: lines are written above it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Why a part of the report could not be written, if so.
static LOST: OnceLock<io::ErrorKind> = OnceLock::new();

/// A line on standard error.
pub(crate) fn say(line: &str) {
    let line = on_one_line(line);
    let write = || {
        let _ = writeln!(io::stderr(), "{line}");
    };
    // Cloned, so that no line waits for another to be drawn.
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Something that a person should know and that is no error.
pub(crate) fn warning(text: &str) {
    say(&format!("warning: {text}"));
}

/// Puts a bar under the lines, or takes it away.
pub(crate) fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// A line, or several, of the report on standard output.
pub(crate) fn print_line(text: &str) {
    write_report(|out| writeln!(out, "{}", in_lines(text)));
}

/// The lines of a report, which may be too many to be kept.
pub(crate) fn print_lines(lines: impl Iterator<Item = String>) {
    write_report(|out| {
        let mut out = BufWriter::new(out);
        for line in lines {
            writeln!(out, "{}", in_lines(&line))?;
        }
        out.flush()
    });
}

/// The report as one line of JSON. What JSON lets stand and a terminal obeys is escaped, too.
pub(crate) fn print_json(report: &impl Serialize) {
    /// A report with the schema's version beside its own fields.
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        schema_version: u32,
        #[serde(flatten)]
        report: &'a T,
    }
    write_report(|out| {
        let mut out = Escaping { out, held: Vec::new() };
        // A path that is not UTF-8 fails.
        serde_json::to_writer(&mut out, &Versioned { schema_version: SCHEMA_VERSION, report })?;
        writeln!(out)?;
        out.flush()
    });
}

/// Writes JSON piece by piece, so that a long report is never whole in memory.
struct Escaping<W> {
    out: W,
    /// What comes next. Lost if the report fails: half a report is none.
    held: Vec<u8>,
}

/// Bytes that are held.
const HELD: usize = 1 << 16;

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= HELD {
            self.pass_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.out.flush()
    }
}

impl<W: Write> Escaping<W> {
    /// Writes what is held, but for a character that is not whole yet.
    fn pass_on(&mut self) -> io::Result<()> {
        let valid = match str::from_utf8(&self.held) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = str::from_utf8(&self.held[..valid]).unwrap_or_default();
        let escape = |out: &mut String, character: char| match character {
            // Not in a string, where it is escaped already: the report's own end.
            '\n' => out.push(character),
            _ => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
        };
        self.out.write_all(escaped(text, is_unsafe, escape).as_bytes())?;
        self.held.drain(..valid);
        Ok(())
    }
}

/// A part of a text as it comes, without a line's end; as it is for a program that reads it.
/// False once nobody does.
pub(crate) fn print_part(text: &str) -> bool {
    let shown = if io::stdout().is_terminal() { in_lines(text) } else { text.into() };
    write_report(|out| write!(out, "{shown}"));
    lost_report().is_none()
}

/// Why the report is not complete, if it is not.
pub(crate) fn lost_report() -> Option<io::ErrorKind> {
    LOST.get().copied()
}

fn write_report(write: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>) {
    if lost_report().is_some() {
        return;
    }
    let mut out = io::stdout().lock();
    if let Err(error) = write(&mut out).and_then(|()| out.flush()) {
        LOST.get_or_init(|| error.kind());
    }
}

/// A text of our own with names from files, which may take several lines.
fn in_lines(text: &str) -> Cow<'_, str> {
    let is_unsafe = |character| is_unsafe(character) && !matches!(character, '\n' | '\t');
    escaped(text, is_unsafe, |out, character| out.extend(character.escape_debug()))
}

/// A text that must not begin another line.
pub(crate) fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe, |out, character| out.extend(character.escape_debug()))
}

/// Characters that terminals obey rather than show, and those that turn the direction of
/// the text around them.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(
    text: &str,
    is_unsafe: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_unsafe(character) {
            true => escape(&mut out, character),
            false => out.push(character),
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_terminals_obey_is_escaped() {
        let check = |text: &str, line: &str, lines: &str| {
            assert_eq!(on_one_line(text), line);
            assert_eq!(in_lines(text), lines);
        };
        check("größer, 模型 ✓", "größer, 模型 ✓", "größer, 模型 ✓");
        check("a\u{1b}[31mb", "a\\u{1b}[31mb", "a\\u{1b}[31mb");
        check("a\nerror: b\tc\r", "a\\nerror: b\\tc\\r", "a\nerror: b\tc\\r");
        check("\u{9b}2J\u{7f}\0", "\\u{9b}2J\\u{7f}\\0", "\\u{9b}2J\\u{7f}\\0");
        check("a\u{202e}b", "a\\u{202e}b", "a\\u{202e}b");
    }
}
