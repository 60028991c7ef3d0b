//! Regular expressions as tokenizers are published with them: with look-around, and read as
//! Oniguruma reads them, which the tokenizers library uses.

use std::ops::Range;
use std::sync::Arc;

use fancy_regex::{Regex, RegexBuilder};

/// A regular expression.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    source: String,
    regex: Arc<Regex>,
}

/// A text on which a pattern takes too many steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GaveUp {
    pub(crate) pattern: String,
    /// Bytes of the text before the place.
    pub(crate) offset: usize,
    /// What stands there.
    pub(crate) excerpt: String,
}

impl GaveUp {
    /// The same in a text with so many bytes before this one.
    pub(crate) fn behind(self, bytes: usize) -> Self {
        Self { offset: self.offset.saturating_add(bytes), ..self }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// The longest pattern that is compiled, in bytes. Published ones have up to 6 kB.
    const LONGEST: usize = 1 << 16;

    /// `None` if `source` is no pattern that this program can carry out.
    pub(crate) fn new(source: &str) -> Option<Self> {
        if source.len() > Self::LONGEST {
            return None;
        }
        let regex = RegexBuilder::new(source).oniguruma_mode(true).multi_line(true).build().ok()?;
        Some(Self { source: source.to_owned(), regex: Arc::new(regex) })
    }

    /// Where the matches in `text` are, in bytes.
    ///
    /// # Errors
    /// If the engine gives up, which takes a million steps back at one match.
    pub(crate) fn matches(&self, text: &str) -> Result<Vec<Range<usize>>, GaveUp> {
        const SHOWN: usize = 32;
        let mut matches: Vec<Range<usize>> = Vec::new();
        for found in self.regex.find_iter(text) {
            let Ok(found) = found else {
                let offset = matches.last().map_or(0, |last| last.end);
                let rest = text.get(offset..).unwrap_or_default();
                let excerpt = rest.chars().take(SHOWN).collect();
                return Err(GaveUp { pattern: self.source.clone(), offset, excerpt });
            };
            matches.push(found.range());
        }
        Ok(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_see_what_is_around_a_match() {
        let check = |pattern: &str, text: &str, expected: &[&str]| {
            let pattern = Pattern::new(pattern).expect("a pattern");
            let found: Vec<&str> = pattern
                .matches(text)
                .expect("matches")
                .into_iter()
                .map(|range| &text[range])
                .collect();
            assert_eq!(found, expected, "{text:?}");
        };
        check(r"\s+(?!\S)|\s", "a   b ", &["  ", " ", " "]);
        check(r"\d{1,3}(?=(?:\d{3})*\b)", "1234567", &["1", "234", "567"]);
        check(r"\p{L}++\d?+", "ab1c22", &["ab1", "c2"]);
        check(r"[\p{L}&&[^\p{Han}]]+", "ab\u{4e00}c", &["ab", "c"]);
        // Ends of lines are ends, too.
        check(r"\w$", "ab\ncd", &["b", "d"]);
    }

    #[test]
    fn where_the_engine_gives_up_is_told() {
        let pattern = Pattern::new(r"^ab|(\w+\w+\w+\w+)+(?=!)").expect("a pattern");
        let text = format!("ab{}", "c".repeat(60));
        let failure = pattern.matches(&text).expect_err("too many steps");
        assert_eq!((failure.offset, failure.excerpt.as_str()), (2, "c".repeat(32).as_str()));
        assert_eq!(failure.behind(3).offset, 5);
    }

    #[test]
    fn what_is_no_pattern_is_none() {
        for source in ["(", "[a", r"\p{NoSuchClass}", &"x".repeat(100_000)] {
            assert!(Pattern::new(source).is_none(), "{source:.20}");
        }
    }
}
