//! Lines of a file, one at a time: files of documents are larger than memory.

use std::ops::ControlFlow;
use std::path::Path;

use qz_tensor::{Location, SourceFile};

use crate::error::Error;

/// The longest line. The longest books are some ten megabytes.
const MAX_LINE: usize = 32 << 20;

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// What is called with a line and its place, and says whether it wants more.
pub(super) type VisitLine<'v> = dyn FnMut(&str, &Location) -> Result<ControlFlow<()>, Error> + 'v;

/// Calls `visit` with every line and its place, until it says that it has enough.
pub(super) fn each_line(path: &Path, visit: &mut VisitLine<'_>) -> Result<(), Error> {
    let file = SourceFile::open(path)?;
    // Bytes that are read and not visited, and where they begin.
    let (mut held, mut start) = (Vec::new(), 0u64);
    loop {
        let at = start + held.len() as u64;
        let more = usize::try_from(file.len().saturating_sub(at)).unwrap_or(PIECE).min(PIECE);
        let known = held.len();
        held.resize(known + more, 0);
        file.read_exact_at(at, &mut held[known..])?;
        let mut passed = 0;
        // What was held before has no line's end.
        let mut from = known;
        while let Some(end) = held[from..].iter().position(|byte| *byte == b'\n') {
            let line = &held[passed..from + end + 1];
            let location = Location::file(path).offset(start + passed as u64);
            if visit(text(line, &location)?, &location)?.is_break() {
                return Ok(());
            }
            from += end + 1;
            passed = from;
        }
        let location = Location::file(path).offset(start + passed as u64);
        if more == 0 {
            return visit(text(&held[passed..], &location)?, &location).map(drop);
        }
        held.drain(..passed);
        start += passed as u64;
        if held.len() > MAX_LINE {
            let problem = format!("a line of more than {MAX_LINE} bytes");
            return Err(Error::Document { location, problem });
        }
    }
}

fn text<'a>(line: &'a [u8], location: &Location) -> Result<&'a str, Error> {
    std::str::from_utf8(line).map_err(|error| {
        let at = location.offset.unwrap_or(0) + error.valid_up_to() as u64;
        Error::TextEncoding { location: location.clone().offset(at) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], most: usize) -> Result<Vec<(String, u64)>, Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lines");
        std::fs::write(&path, bytes).expect("written");
        let mut found = Vec::new();
        each_line(&path, &mut |line, location| {
            found.push((line.to_owned(), location.offset.expect("a place")));
            let enough = found.len() == most;
            Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }

    #[test]
    fn lines_have_places() {
        let check = |text: &str, most: usize, expected: &[(&str, u64)]| {
            let found = lines(text.as_bytes(), most).expect("lines");
            let found: Vec<(&str, u64)> = found.iter().map(|(line, at)| (&**line, *at)).collect();
            assert_eq!(found, expected);
        };
        check("", 9, &[("", 0)]);
        check("a", 9, &[("a", 0)]);
        check("a\n\nbc\n", 9, &[("a\n", 0), ("\n", 2), ("bc\n", 3), ("", 6)]);
        check("a\nb\nc", 2, &[("a\n", 0), ("b\n", 2)]);
    }

    #[test]
    fn lines_longer_than_what_is_read_at_once() {
        let long = "x".repeat(PIECE * 5 / 2);
        let found = lines(format!("{long}\n{long}y").as_bytes(), 9).expect("lines");
        assert_eq!(found[1], (format!("{long}y"), long.len() as u64 + 1));
        let error = lines(&vec![b'x'; MAX_LINE + 2 * PIECE], 9).expect_err("too long");
        assert!(error.to_string().contains("a line of more than"), "{error}");
        let error = lines(b"a\nb\xff", 9).expect_err("no text");
        assert!(matches!(error, Error::TextEncoding { location } if location.offset == Some(3)));
    }
}
