//! The `pre_tokenizer` of `tokenizer.json`, where it is not one of byte-level
//! vocabularies: how a text is cut into pieces that merge alone.

use std::ops::Range;

use serde_json::Value;

use super::Steps;
use crate::encode::is_punctuation;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Metaspace { replacement: char, prefix: Prefix, splits: bool },
    Split { matches: Matches, behavior: Behavior, inverted: bool },
}

/// Which pieces get a space in front, if they have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// The one that begins the whole text.
    First,
    /// All.
    Always,
    Never,
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Matches {
    Text(String),
    Punctuation,
    Digits,
    WhiteSpace,
}

/// What becomes of the matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// The steps of a definition.
pub(crate) fn cuts(definition: &Value) -> Steps<Cut> {
    Steps::read(definition, "pretokenizers", &read)
}

fn read(kind: &str, definition: &Value) -> Option<Cut> {
    let flag = |key: &str| definition.get(key).and_then(Value::as_bool);
    let behavior = || match definition.get("behavior").and_then(Value::as_str)? {
        "Removed" => Some(Behavior::Removed),
        "Isolated" => Some(Behavior::Isolated),
        "MergedWithPrevious" => Some(Behavior::MergedWithPrevious),
        "MergedWithNext" => Some(Behavior::MergedWithNext),
        "Contiguous" => Some(Behavior::Contiguous),
        _ => None,
    };
    let split = |matches: Matches, behavior: Behavior| Cut::Split {
        matches,
        behavior,
        inverted: kind == "Split" && flag("invert") == Some(true),
    };
    Some(match kind {
        "Metaspace" => {
            let mut letters = definition.get("replacement")?.as_str()?.chars();
            let replacement = letters.next().filter(|_| letters.next().is_none())?;
            let prefix = match definition.get("prepend_scheme").and_then(Value::as_str) {
                // The older spelling.
                _ if flag("add_prefix_space") == Some(false) => Prefix::Never,
                Some("always") | None => Prefix::Always,
                Some("first") => Prefix::First,
                Some("never") => Prefix::Never,
                Some(_) => return None,
            };
            Cut::Metaspace { replacement, prefix, splits: flag("split").unwrap_or(true) }
        }
        "Split" => {
            let pattern = definition.pointer("/pattern/String")?.as_str()?;
            let pattern = Some(pattern).filter(|pattern| !pattern.is_empty())?;
            split(Matches::Text(pattern.to_owned()), behavior()?)
        }
        "CharDelimiterSplit" => {
            let letter = definition.get("delimiter")?.as_str()?;
            let letter = Some(letter).filter(|letter| letter.chars().count() == 1)?;
            split(Matches::Text(letter.to_owned()), Behavior::Removed)
        }
        "Punctuation" => {
            let behavior = match definition.get("behavior") {
                Some(_) => behavior()?,
                None => Behavior::Isolated,
            };
            split(Matches::Punctuation, behavior)
        }
        "Digits" if flag("individual_digits") == Some(true) => {
            split(Matches::Digits, Behavior::Isolated)
        }
        "Digits" => split(Matches::Digits, Behavior::Contiguous),
        "WhitespaceSplit" => split(Matches::WhiteSpace, Behavior::Removed),
        _ => return None,
    })
}

impl Cut {
    /// Its name in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Metaspace { .. } => "Metaspace",
            Self::Split { matches: Matches::Text(_), .. } => "Split",
            Self::Split { matches: Matches::Punctuation, .. } => "Punctuation",
            Self::Split { matches: Matches::Digits, .. } => "Digits",
            Self::Split { matches: Matches::WhiteSpace, .. } => "WhitespaceSplit",
        }
    }

    /// Adds the parts of `piece` to `pieces`.
    fn apply(&self, piece: &str, is_start: bool, pieces: &mut Pieces) {
        match self {
            Self::Metaspace { replacement, prefix, splits } => {
                let mut text = piece.replace(' ', replacement.encode_utf8(&mut [0; 4]));
                let wants_prefix = match prefix {
                    Prefix::First => is_start,
                    Prefix::Always => true,
                    Prefix::Never => false,
                };
                if wants_prefix && !text.starts_with(*replacement) {
                    text.insert(0, *replacement);
                }
                if *splits {
                    let found = letters(&text, |letter| letter == *replacement);
                    pieces.split(&text, found, Behavior::MergedWithNext);
                } else {
                    pieces.push(&text);
                }
            }
            Self::Split { matches, behavior, inverted } => {
                let mut found = match matches {
                    Matches::Text(pattern) => texts(piece, pattern),
                    Matches::Punctuation => letters(piece, is_punctuation),
                    Matches::Digits => letters(piece, char::is_numeric),
                    Matches::WhiteSpace => letters(piece, char::is_whitespace),
                };
                for (_, is_match) in &mut found {
                    *is_match ^= inverted;
                }
                pieces.split(piece, found, *behavior);
            }
        }
    }
}

/// A part of a text, and whether it is a match.
type Part = (Range<usize>, bool);

/// Every letter of a kind is a match of its own.
fn letters(text: &str, is_match: impl Fn(char) -> bool) -> Vec<Part> {
    let matches = text.char_indices().filter(|(_, letter)| is_match(*letter));
    parts(text, matches.map(|(start, letter)| start..start.saturating_add(letter.len_utf8())))
}

fn texts(text: &str, pattern: &str) -> Vec<Part> {
    let range = |(start, found): (usize, &str)| start..start.saturating_add(found.len());
    parts(text, text.match_indices(pattern).map(range))
}

/// The matches and what is between them.
fn parts(text: &str, matches: impl Iterator<Item = Range<usize>>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut end = 0;
    for found in matches {
        if end < found.start {
            parts.push((end..found.start, false));
        }
        end = found.end;
        parts.push((found, true));
    }
    if end < text.len() {
        parts.push((end..text.len(), false));
    }
    parts
}

/// Pieces of a text, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Pieces {
    /// The pieces of `text` after all steps. `is_start` says that the whole text begins
    /// with it.
    pub(crate) fn of(steps: &[Cut], text: &str, is_start: bool) -> Self {
        let mut pieces = Self::default();
        pieces.push(text);
        for step in steps {
            let mut next = Self::default();
            for (place, piece) in pieces.iter().enumerate() {
                step.apply(piece, is_start && place == 0, &mut next);
            }
            pieces = next;
        }
        pieces
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).filter_map(|(start, end)| self.text.get(*start..*end))
    }

    fn push(&mut self, piece: &str) {
        if !piece.is_empty() {
            self.text.push_str(piece);
            self.ends.push(self.text.len());
        }
    }

    /// Adds the parts of `text`, joined or left out as `behavior` says
    /// (`NormalizedString::split` in tokenizers).
    fn split(&mut self, text: &str, parts: Vec<Part>, behavior: Behavior) {
        let joined = match behavior {
            Behavior::Removed => parts
                .into_iter()
                .filter(|(_, is_match)| !is_match)
                .map(|(range, _)| range)
                .collect(),
            Behavior::Isolated => parts.into_iter().map(|(range, _)| range).collect(),
            Behavior::Contiguous => joined(parts, |is_match, before| is_match == before),
            Behavior::MergedWithPrevious => joined(parts, |is_match, before| is_match && !before),
            Behavior::MergedWithNext => merged_with_next(&parts),
        };
        joined.into_iter().filter_map(|range| text.get(range)).for_each(|piece| self.push(piece));
    }
}

/// Parts join the one before them where `joins` says so of the two.
fn joined(parts: Vec<Part>, joins: impl Fn(bool, bool) -> bool) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(parts.len());
    let mut follows_match = false;
    for (range, is_match) in parts {
        match joined.last_mut().filter(|_| joins(is_match, follows_match)) {
            Some(before) => before.end = range.end,
            None => joined.push(range),
        }
        follows_match = is_match;
    }
    joined
}

/// The last of several matches takes what follows.
fn merged_with_next(parts: &[Part]) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(parts.len());
    let mut precedes_match = false;
    for (range, is_match) in parts.iter().rev() {
        match joined.last_mut().filter(|_| *is_match && !precedes_match) {
            Some(after) => after.start = range.start,
            None => joined.push(range.clone()),
        }
        precedes_match = *is_match;
    }
    joined.reverse();
    joined
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_cut() {
        // From tokenizers 0.23.3, `pre_tokenizer.pre_tokenize_str`.
        let check = |definition: Value, text: &str, expected: &[&str]| {
            let steps = cuts(&definition);
            assert!(steps.unknown.is_empty(), "{definition}");
            let pieces = Pieces::of(&steps.known, text, true);
            let found: Vec<String> =
                pieces.iter().map(|piece| piece.replace('\u{2581}', "_")).collect();
            assert_eq!(found, expected, "{definition}");
        };
        let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split});
        check(metaspace("always", true), "a  bc d", &["_a", "_", "_bc", "_d"]);
        check(metaspace("first", false), " a b", &["_a_b"]);
        check(metaspace("never", false), "a b", &["a_b"]);
        let split = |behavior: &str| json!({"type": "Split", "pattern": {"String": " "}, "behavior": behavior, "invert": false});
        check(split("MergedWithPrevious"), "a  b c", &["a ", " ", "b ", "c"]);
        check(split("MergedWithNext"), "a  b c", &["a", " ", " b", " c"]);
        check(split("Contiguous"), "a  b c", &["a", "  ", "b", " ", "c"]);
        check(split("Isolated"), "a  b", &["a", " ", " ", "b"]);
        check(split("Removed"), " a  b", &["a", "b"]);
        let kind = |kind: &str| json!({ "type": kind });
        check(kind("Punctuation"), "a,.b\u{ab}", &["a", ",", ".", "b", "\u{ab}"]);
        check(kind("Digits"), "a12b", &["a", "12", "b"]);
        check(json!({"type": "Digits", "individual_digits": true}), "a12", &["a", "1", "2"]);
        check(kind("WhitespaceSplit"), " a\tb", &["a", "b"]);
        let both = [split("Isolated"), metaspace("first", true)];
        check(json!({"type": "Sequence", "pretokenizers": both}), "a b", &["_a", "_", "b"]);
    }
}
