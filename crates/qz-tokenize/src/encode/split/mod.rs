//! How text is cut before its bytes are merged: the regular expressions of
//! llama.cpp's pre-tokenizers (`llm_tokenizer_bpe` in `src/llama-vocab.cpp`,
//! `unicode_regex_split` in `src/unicode.cpp`) as scanners that read the text
//! once.
//!
//! A pre-tokenizer is a list of steps. Each step cuts every piece that the one
//! before left, as if there were nothing around it: what a pattern matches
//! becomes a piece, and so does what lies between matches.

mod letter_lists;
pub(super) mod patterns;
mod span;
mod words;

use std::sync::LazyLock;

use crate::pattern::{GaveUp, Pattern};
use span::{Letters, Span};
use words::{SpaceRun, Words};

/// One regular expression.
pub(in crate::encode) enum Step {
    /// Where the match at a place ends; `None` if there is none.
    Matches(fn(Span<'_>, usize) -> Option<usize>),
    /// One of the patterns that split text into words.
    Words(Words),
    /// Where a published pattern matches. Slower than a scanner by far: for what is rarely
    /// used or new.
    Pattern(LazyLock<Pattern>),
    /// What looks at the whole piece: adds the ends of its parts.
    Whole(fn(Span<'_>, &mut dyn FnMut(usize))),
}

/// The lengths in bytes of the pieces of `text`.
///
/// # Errors
/// If a pattern takes too many steps.
pub(super) fn piece_lengths(text: &str, steps: &[&Step]) -> Result<Vec<usize>, GaveUp> {
    let letters = Letters::new(text);
    let mut ends = vec![letters.len()];
    for step in steps {
        ends = step.split(&letters, &ends)?;
    }
    let mut start = 0;
    let length = |end: &usize| letters.bytes(std::mem::replace(&mut start, *end), *end);
    Ok(ends.iter().map(length).collect())
}

impl Step {
    /// Cuts the pieces that end at `ends`.
    fn split(&self, letters: &Letters, ends: &[usize]) -> Result<Vec<usize>, GaveUp> {
        let mut parts = Vec::with_capacity(ends.len());
        let mut start = 0;
        for end in ends {
            let span = letters.span(start, *end);
            let mut previous = 0;
            let split = self.split_span(span, &mut |part| {
                if part > previous {
                    parts.push(start + part);
                    previous = part;
                }
            });
            split.map_err(|failure| failure.behind(letters.bytes(0, start)))?;
            if previous < span.len() {
                parts.push(*end);
            }
            start = *end;
        }
        Ok(parts)
    }

    fn split_span(&self, span: Span<'_>, add: &mut dyn FnMut(usize)) -> Result<(), GaveUp> {
        match self {
            Self::Matches(end) => split_at_matches(span, *end, add),
            Self::Words(words) => {
                let mut spaces = SpaceRun::default();
                split_at_matches(span, |span, at| words.end(span, at, &mut spaces), add);
            }
            Self::Pattern(pattern) => {
                let text: String = span.text();
                let mut letters = 0;
                let mut end = 0;
                for found in pattern.matches(&text)? {
                    for place in [found.start, found.end] {
                        letters += text[end..place].chars().count();
                        end = place;
                        add(letters);
                    }
                }
            }
            Self::Whole(split) => split(span, add),
        }
        Ok(())
    }
}

/// Before and after every match.
fn split_at_matches(
    span: Span<'_>,
    mut end: impl FnMut(Span<'_>, usize) -> Option<usize>,
    add: &mut dyn FnMut(usize),
) {
    let mut at = 0;
    while at < span.len() {
        match end(span, at) {
            Some(end) => {
                add(at);
                add(end);
                at = end;
            }
            None => at += 1,
        }
    }
}
